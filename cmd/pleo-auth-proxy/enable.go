package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

func (p *program) disableCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "disable NAME",
		Short: "Keeps a connection from being used",
		Long: `Keeps a connection from being used: requests are answered 403, and nothing is
refreshed. Its credential stays, until connections enable or remove. A token that is
not refreshed for 60 days may end at Pleo.`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.change(cmd.Context(), args[0], "disabling", func(ctx context.Context, store credstore.Store, id string) error {
				return store.Connections.Disable(ctx, id, credstore.ReasonOperator)
			})
		},
	}
}

func (p *program) enableCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "enable NAME",
		Short: "Lets a disabled connection be used again",
		Long: `Takes connections disable back, and what else disables a connection: it has the
status that it would have had. One whose secrets were exported must stay disabled
where they are used elsewhere: of two owners of one refresh token, one kills it.`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.change(cmd.Context(), args[0], "enabling", func(ctx context.Context, store credstore.Store, id string) error {
				return store.Connections.Enable(ctx, id)
			})
		},
	}
}

// change changes a connection and says how it is afterwards.
func (p *program) change(ctx context.Context, name, doing string, change func(ctx context.Context, store credstore.Store, id string) error) error {
	return p.withStore(ctx, func(ctx context.Context, store credstore.Store) error {
		c, err := find(ctx, store, name)
		if err != nil {
			return err
		}
		if err := change(ctx, store, c.ID); err != nil {
			return fmt.Errorf("%s connection %q: %w", doing, name, err)
		}
		if c, err = store.Connections.Find(ctx, name); err != nil {
			return err
		}
		p.notef("connection %q is %s", name, statusOf(c))
		if p.asJSON {
			return p.printJSON(manage.Describe(c))
		}
		return nil
	})
}

// statusOf is the status of a connection with its reason.
func statusOf(c credstore.Connection) string {
	if c.Reason == "" {
		return string(c.Status)
	}
	return fmt.Sprintf("%s (%s)", c.Status, c.Reason)
}
