package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

func (p *program) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check NAME",
		Short: "Asks Pleo about the credential of a connection",
		Long: `Asks the API, and the authorization server where there is one, about all that a
connection has, and says what they answer. That spends nothing and changes nothing.

The exit code is 0 only if the connection is active and nothing that requests
depend on is refused, unknown, or another company's.`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withChecker(cmd.Context(), func(store credstore.Store, c refresh.Checker) error {
				return p.check(cmd.Context(), store, c, args[0])
			})
		},
	}
}

// withChecker runs work with a checker on the store, and closes the store.
func (p *program) withChecker(ctx context.Context, work func(credstore.Store, refresh.Checker) error) error {
	cfg, store, err := p.openStore(ctx)
	if err != nil {
		return err
	}
	c, err := newChecker(cfg, store.Store, newLogger(p.stderr, config.Log{Level: "warn", Format: "console"}))
	if err == nil {
		err = work(store.Store, c)
	}
	return errors.Join(err, store.Close())
}

func newChecker(cfg *config.Config, store credstore.Store, log *zap.Logger) (refresh.Checker, error) {
	transport, err := upstreamTransport(cfg)
	if err != nil {
		return refresh.Checker{}, err
	}
	c := refresh.Checker{Connections: store.Connections, Facts: store.Changes, API: newAPI(cfg.Upstream.APIURL, transport)}
	server, err := newAuthorizationServer(cfg, transport, log)
	if server != nil { // else the interface would hold something
		c.Server = server
	}
	return c, err
}

func (p *program) check(ctx context.Context, store credstore.Store, c refresh.Checker, name string) error {
	conn, err := find(ctx, store, name)
	if err != nil {
		return err
	}
	found, err := c.Check(ctx, conn.ID)
	if err != nil {
		return err
	}
	if err := p.printCheckup(manage.DescribeCheckup(found)); err != nil {
		return err
	}
	conn = found.Connection
	switch {
	case conn.Status != credstore.Active:
		return fmt.Errorf("connection %q is %s", name, statusOf(conn))
	case !found.Healthy():
		return fmt.Errorf("connection %q is active, but not all of its credential is good", name)
	}
	p.notef("connection %q is active", name)
	return nil
}

// printCheckup writes what was found, as JSON or for people.
func (p *program) printCheckup(c manage.Checkup) error {
	if p.asJSON {
		return p.printJSON(c)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "PART\tFOUND\tCOMPANY\tMESSAGE")
	for _, f := range c.Findings {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Part, f.Found, terminalText(f.CompanyID), terminalText(&f.Message))
	}
	return flush(w)
}
