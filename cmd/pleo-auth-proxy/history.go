package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

func (p *program) historyCommand() *cobra.Command {
	var (
		limit  int
		before string
	)
	cmd := &cobra.Command{
		Use:   "history NAME",
		Short: "Shows what happened to a connection, the latest first",
		Long: `Shows what happened to a connection and who did it, the latest first: consents and
keys, refreshes and failures, changes by operators. It is kept for 400 days, of
frequent events the latest, also of a connection that was removed.`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > pageSize {
				return &usageError{command: cmd.CommandPath(), err: fmt.Errorf("--limit wants a number from 1 to %d", pageSize)}
			}
			err := p.withStore(cmd.Context(), func(ctx context.Context, store credstore.Store) error {
				return p.history(ctx, store, args[0], before, limit)
			})
			if errors.Is(err, credstore.ErrBadQuery) {
				return &usageError{command: cmd.CommandPath(), err: err}
			}
			return err
		},
	}
	cmd.Flags().IntVar(&limit, "limit", pageSize, "how many events at most")
	cmd.Flags().StringVar(&before, "cursor", "", "the `CURSOR` that the page before ended with")
	return cmd
}

func (p *program) history(ctx context.Context, store credstore.Store, name, before string, limit int) error {
	id, err := p.historyID(ctx, store, name)
	if err != nil {
		return err
	}
	page, err := store.History.Events(ctx, id, before, limit)
	if err != nil {
		return err
	}
	if p.asJSON {
		return p.printJSON(manage.DescribeHistory(page))
	}
	w := tabwriter.NewWriter(p.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TIME\tEVENT\tSTATUS\tACTOR\tCODE\tMESSAGE")
	for _, e := range page.Events {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n",
			e.At.UTC().Format(time.RFC3339), e.Type, e.Status, e.Actor, textOrDash(e.Code), textOrDash(e.Message))
	}
	if page.Next != "" {
		p.notef("there is more: --cursor %s", page.Next)
	}
	return flush(w)
}

// historyID returns the id of the connection with the name, or of the one that
// was removed last of those that had it.
func (p *program) historyID(ctx context.Context, store credstore.Store, name string) (id string, err error) {
	c, err := find(ctx, store, name)
	if !errors.Is(err, credstore.ErrNotFound) || !credstore.ValidName(name) {
		return c.ID, err
	}
	id, gone := store.History.Removed(ctx, name)
	if errors.Is(gone, credstore.ErrNotFound) {
		return "", err
	}
	if gone == nil {
		p.notef("connection %q was removed; this is what is kept of it", name)
	}
	return id, gone
}

// textOrDash returns s for a terminal.
func textOrDash(s string) string {
	if s == "" {
		return dash
	}
	return terminalText(&s)
}
