package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
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
			return withStore(cmd.Context(), p, func(cfg *config.Config, v *setup.OpenedStore) error {
				checker, err := setup.OpenChecker(cfg, v.Store.Store, p.logger())
				if err != nil {
					return err
				}
				o := setup.NewOperator(cfg, v.Store.Store)
				o.Checker = checker
				return check(cmd.Context(), p, o, args[0])
			})
		},
	}
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
		return fmt.Errorf("connection %q is active, but its credential did not pass the check; see the results", name)
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
