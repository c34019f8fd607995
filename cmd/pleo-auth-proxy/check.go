package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

func newCheckCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "check NAME",
		Short: "Check the credential of a connection with Pleo",
		Long: `Ask the API, and the authorization server if there is one, about every part of a
connection's credential, and print the results. No refresh token is sent to the
token endpoint, and nothing is changed.

The exit code is 0 only if the connection is active and no part that requests
depend on is rejected, unknown, or of another company.`,
		Example: `  pleo-auth-proxy connections check acme`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withStore(cmd.Context(), p, func(cfg *config.Config, v *openedStore) error {
				checker, err := openChecker(cfg, v.store.Store, p.logger())
				if err != nil {
					return err
				}
				o := newOperator(cfg, v.store.Store)
				o.Checker = checker
				return check(cmd.Context(), p, o, args[0])
			})
		},
	}
}

// openChecker returns a checker for a command other than serve.
func openChecker(cfg *config.Config, store credstore.Store, log *zap.Logger) (refresh.Checker, error) {
	transport, err := upstreamTransport(cfg)
	if err != nil {
		return refresh.Checker{}, err
	}
	server, err := newAuthorizationServer(cfg, transport, log)
	return newChecker(store, newAPI(cfg.Upstream.APIURL, transport), server), err
}

// newChecker returns a checker; server is nil if only API keys are used.
func newChecker(store credstore.Store, api *pleo.API, server *pleo.AuthorizationServer) refresh.Checker {
	c := refresh.Checker{Connections: store.Connections, Facts: store.Changes, API: api}
	if server != nil { // a nil pointer in the interface would not be nil
		c.Server = server
	}
	return c
}

func check(ctx context.Context, p *program, o *manage.Operator, name string) error {
	c, err := o.Find(ctx, name)
	if err != nil {
		return err
	}
	result, err := o.Check(ctx, c)
	if err != nil {
		return err
	}
	if err := printCheck(p, manage.DescribeCheck(result)); err != nil {
		return err
	}
	switch c = result.Connection; {
	case c.Status != credstore.Active:
		return fmt.Errorf("connection %q is %s", name, statusOf(c))
	case !result.Healthy():
		return fmt.Errorf("connection %q is active, but a part of its credential is not valid", name)
	}
	p.notef("connection %q is active", name)
	return nil
}

func printCheck(p *program, c manage.CredentialCheck) error {
	if p.asJSON {
		return p.printJSON(c)
	}
	rows := [][]string{{"PART", "RESULT", "COMPANY", "MESSAGE"}}
	for _, f := range c.Findings {
		rows = append(rows, []string{f.Part, f.Result, terminalText(f.CompanyID), terminalText(&f.Message)})
	}
	return p.printTable(rows)
}
