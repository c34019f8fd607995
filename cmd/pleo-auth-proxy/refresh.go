package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

const (
	// refreshStartTimeout is how long connections refresh waits for a server to begin: one
	// that runs hears of the request within a second.
	refreshStartTimeout = 5 * time.Second
	// refreshOutcomeTimeout is how long it waits for the outcome: an answer may take a
	// minute.
	refreshOutcomeTimeout = 90 * time.Second
	// minPollInterval is the pause between the first two looks at the store; each is longer
	// than the one before, up to maxPollInterval. Many may wait, and what they wait for
	// needs the store too.
	minPollInterval = 50 * time.Millisecond
	maxPollInterval = time.Second
)

func (p *program) refreshCommand() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "refresh NAME",
		Short: "Has a running server refresh a connection, and waits for the outcome",
		Long: `Has a running server refresh the token pair of a connection, and waits for the
outcome. Only servers present refresh tokens: where none is running, or it may not
refresh now, the request stays in the store for the next one that can.`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), func(ctx context.Context, store credstore.Store) error {
				return p.refresh(ctx, store, args[0], wait)
			})
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", refreshStartTimeout, "how long to wait for a server to take the request up")
	return cmd
}

func (p *program) refresh(ctx context.Context, store credstore.Store, name string, wait time.Duration) error {
	c, err := find(ctx, store, name)
	if err != nil {
		return err
	}
	if err := checkRefreshable(c); err != nil {
		return fmt.Errorf("refreshing connection %q: %w", name, err)
	}
	before, err := store.Connections.Read(ctx, c.ID)
	if err != nil {
		return err
	}
	if err := store.Credentials.RequestRefresh(ctx, c.ID, time.Now()); err != nil {
		return err
	}
	after, err := awaitRefresh(ctx, store, before, wait)
	if err != nil {
		return fmt.Errorf("refreshing connection %q: %w", name, err)
	}
	p.notef("refreshed connection %q: version %d", name, after.Version)
	return p.printConnection(manage.Describe(after))
}

// checkRefreshable says why a refresh of the connection cannot be asked for.
func checkRefreshable(c credstore.Connection) error {
	switch {
	case c.Kind.IsKey():
		return errors.New("it has an API key, which is never refreshed")
	case c.Version == 0:
		return errors.New("it has no token pair yet")
	case c.Status == credstore.Disabled:
		return errors.New("it is disabled")
	case c.Status == credstore.ReauthorizationRequired:
		return errors.New("it needs a person's consent; to have its refresh token presented once more, see connections retry")
	}
	return nil
}

// awaitRefresh returns the connection once its refresh, asked for after before
// was read, has succeeded; otherwise an error that says what has happened.
func awaitRefresh(ctx context.Context, store credstore.Store, before credstore.State, wait time.Duration) (credstore.Connection, error) {
	began, taken := time.Now(), false
	for pause := minPollInterval; ; pause = min(pause*5/4, maxPollInterval) {
		now, err := store.Connections.Read(ctx, before.Connection.ID)
		if err != nil {
			return credstore.Connection{}, err
		}
		if now.Connection.Version > before.Connection.Version {
			return now.Connection, nil
		}
		if now.RequestedAt.IsZero() {
			return credstore.Connection{}, refreshFailure(now)
		}
		taken = taken || refreshStarted(before, now)
		if waited := time.Since(began); !taken && waited >= wait {
			return credstore.Connection{}, &outcomeUnknownError{fmt.Sprintf("no server has taken it up within %v: either none is running, or its log says why it may not refresh now; the request stays in the store", wait)}
		} else if waited >= wait+refreshOutcomeTimeout {
			return credstore.Connection{}, &outcomeUnknownError{fmt.Sprintf("a server has begun, and there is no outcome after %v; see connections show", refreshOutcomeTimeout)}
		}
		select {
		case <-ctx.Done():
			return credstore.Connection{}, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// outcomeUnknownError says why it is not known how a refresh ends.
type outcomeUnknownError struct{ why string }

func (e *outcomeUnknownError) Error() string { return e.why }

// refreshStarted reports whether a server has announced a presentation since before was
// read.
func refreshStarted(before, now credstore.State) bool {
	if now.Intent == nil {
		return false
	}
	return before.Intent == nil || now.Intent.Attempts > before.Intent.Attempts
}

// refreshFailure says how a refresh ended that brought no token pair.
func refreshFailure(s credstore.State) error {
	if f := s.Connection.LastError; f != nil {
		return &manage.RefreshError{Code: f.Code, Message: f.Message}
	}
	return fmt.Errorf("it ended without a new token pair; the connection is %s", s.Connection.Status)
}

func (p *program) retryCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "retry NAME | --all",
		Short: "Has a refresh token presented again that was refused",
		Long: `Has a running server present the refresh token of a connection again, although it
was refused: for the day on which the authorization server was wrong. A refused
token is kept for 7 days.`,
		Args: func(cmd *cobra.Command, given []string) error {
			if all {
				return args()(cmd, given)
			}
			return args("NAME or --all")(cmd, given)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), func(ctx context.Context, store credstore.Store) error {
				if all {
					return p.retryAll(ctx, store)
				}
				return p.retry(ctx, store, args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every connection that needs a person and has a refused token still")
	return cmd
}

func (p *program) retry(ctx context.Context, store credstore.Store, name string) error {
	c, err := find(ctx, store, name)
	if err != nil {
		return err
	}
	if err := store.Credentials.RetryRejected(ctx, c.ID, time.Now()); err != nil {
		return fmt.Errorf("retrying connection %q: %w", name, err)
	}
	p.notef("a server will present the refresh token of connection %q again", name)
	after, err := store.Connections.Find(ctx, name)
	if err != nil {
		return err
	}
	return p.printConnection(manage.Describe(after))
}

// retryAll goes on after connections whose token is gone: those need a person.
func (p *program) retryAll(ctx context.Context, store credstore.Store) error {
	refused, err := listAll(ctx, store, credstore.ReauthorizationRequired)
	if err != nil {
		return err
	}
	retried := manage.Page{Connections: []manage.Connection{}}
	for _, c := range refused {
		err := store.Credentials.RetryRejected(ctx, c.ID, time.Now())
		if errors.Is(err, credstore.ErrNotRejected) || errors.Is(err, credstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("retrying connection %q: %w", c.Name, err)
		}
		if after, err := store.Connections.Find(ctx, c.Name); err == nil {
			retried.Connections = append(retried.Connections, manage.Describe(after))
		}
	}
	p.notef("a server will present the refresh tokens of %d connections again; %d others need a person",
		len(retried.Connections), len(refused)-len(retried.Connections))
	if p.asJSON {
		return p.printJSON(retried)
	}
	return nil
}

// listAll returns all connections of a status, or of any if that is empty.
func listAll(ctx context.Context, store credstore.Store, status credstore.Status) (all []credstore.Connection, err error) {
	for q := (credstore.Query{Limit: pageSize, Status: status}); ; {
		page, err := store.Connections.List(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("listing connections: %w", err)
		}
		all = append(all, page.Connections...)
		if page.Next == "" {
			return all, nil
		}
		q.Cursor = page.Next
	}
}
