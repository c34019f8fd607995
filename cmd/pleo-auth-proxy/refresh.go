package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

func newRefreshCommand(p *program) *cobra.Command {
	var start time.Duration
	cmd := &cobra.Command{
		Use:   "refresh NAME",
		Short: "Refresh the token pair of a connection now",
		Long: `Request a refresh of a connection's token pair from the running servers, and wait
for the outcome. Only servers send refresh tokens: if none is running, or it may
not refresh now, the request stays in the store for the next one that can.`,
		Example: `  pleo-auth-proxy connections refresh acme`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd.Context(), p, args[0], func(o *manage.Operator, c credstore.Connection) error {
				c, err := o.Refresh(cmd.Context(), c, manage.RefreshWait{Start: start, Outcome: start + manage.RefreshOutcomeTimeout})
				if err != nil {
					return withNextStep(cmd.Context(), o, c.Name, err)
				}
				p.notef("refreshed connection %q: version %d", c.Name, c.Version)
				return printConnection(p, c)
			})
		},
	}
	cmd.Flags().DurationVar(&start, "wait", manage.DefaultRefreshStart, "how long to wait for a server to start the refresh")
	return cmd
}

// withNextStep adds to the error of a failed refresh what the operator can do.
func withNextStep(ctx context.Context, o *manage.Operator, name string, err error) error {
	if _, failed := errors.AsType[*manage.RefreshError](err); !failed {
		return err
	}
	c, findErr := o.Find(ctx, name)
	switch {
	case findErr != nil:
		return err
	case c.Status == credstore.ReauthorizationRequired:
		return fmt.Errorf("%w; let the customer give consent again: pleo-auth-proxy connect %s", err, name)
	case c.Status == credstore.Degraded:
		return fmt.Errorf("%w; the server retries by itself, and pleo-auth-proxy doctor may find the cause", err)
	}
	return fmt.Errorf("%w; see pleo-auth-proxy connections show %s", err, name)
}

func newRetryCommand(p *program) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "retry NAME | --all",
		Short: "Retry a rejected refresh token",
		Long: `Request that the running servers send a rejected refresh token once more, for when
the authorization server rejected it by mistake. A rejected token is kept for 7
days.`,
		Example: `  pleo-auth-proxy connections retry acme
  pleo-auth-proxy connections retry --all`,
		Args: func(cmd *cobra.Command, given []string) error {
			if all {
				return exactArgs()(cmd, given)
			}
			return exactArgs("NAME or --all")(cmd, given)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return withOperator(cmd.Context(), p, func(_ *config.Config, o *manage.Operator) error {
					retried, others, err := o.RetryAll(cmd.Context())
					return reportRetries(p, retried, others, err)
				})
			}
			return withConnection(cmd.Context(), p, args[0], func(o *manage.Operator, c credstore.Connection) error {
				c, err := o.Retry(cmd.Context(), c)
				if err != nil {
					return err
				}
				p.notef("requested a retry for connection %q", c.Name)
				return printConnection(p, c)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "retry every connection that still has a rejected token")
	return cmd
}

func reportRetries(p *program, retried []credstore.Connection, others int, err error) error {
	if err != nil {
		return err
	}
	p.notef("requested a retry for %s; %d others need the customer's consent", plural(len(retried), "connection"), others)
	if !p.asJSON {
		return nil
	}
	return p.printJSON(manage.DescribePage(credstore.Page{Connections: retried}))
}
