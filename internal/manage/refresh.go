package manage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// DefaultRefreshStart is how long to wait for a server to begin a refresh: one
	// that is running receives the request within a second.
	DefaultRefreshStart = 5 * time.Second
	// RefreshOutcomeTimeout is how long to wait for the outcome after that: a
	// response may take a minute.
	RefreshOutcomeTimeout = 90 * time.Second

	// The store is read at intervals that grow: many may wait, and what they wait
	// for needs the store too.
	minPollInterval = 50 * time.Millisecond
	maxPollInterval = time.Second
)

// RefreshWait is how long to wait for a refresh.
type RefreshWait struct {
	Start   time.Duration // for a server to begin it
	Outcome time.Duration // for its outcome, from the request on
}

// shortRefreshTimeout is what ShortRefreshWait returns.
const shortRefreshTimeout = 30 * time.Second

// ShortRefreshWait returns how long a page or a client of the API waits.
func ShortRefreshWait() RefreshWait {
	return RefreshWait{Start: shortRefreshTimeout, Outcome: shortRefreshTimeout}
}

// Refresh requests a refresh of the token pair from the running servers, waits for
// the outcome and returns the connection with the new pair. It returns a
// *[NotPossibleError] if there is nothing to refresh, a *[RefreshError] if the
// refresh failed, and [ErrRefreshPending] if there is no outcome in time; the
// request then stays in the store.
func (o *Operator) Refresh(ctx context.Context, c credstore.Connection, wait RefreshWait) (credstore.Connection, error) {
	if err := checkRefreshable(c); err != nil {
		return c, err
	}
	before, err := o.Store.Read(ctx, c.ID)
	if err == nil {
		err = o.Store.RequestRefresh(ctx, c.ID, o.now())
	}
	if err != nil {
		return c, err
	}
	after, err := awaitRefresh(ctx, o.Store, before, wait)
	if err != nil {
		return c, fmt.Errorf("refreshing connection %q: %w", c.Name, err)
	}
	return after, nil
}

// checkRefreshable returns a *[NotPossibleError] if no refresh of the connection can
// be requested.
func checkRefreshable(c credstore.Connection) error {
	switch {
	case c.Kind.IsKey():
		return &NotPossibleError{c.Name, "has an API key, which is never refreshed"}
	case c.Version == 0:
		return &NotPossibleError{c.Name, "has no token pair yet"}
	case c.Status == credstore.Disabled:
		return &NotPossibleError{c.Name, "is disabled"}
	case c.Status == credstore.ReauthorizationRequired:
		return &NotPossibleError{c.Name, "needs the customer's consent; to send its rejected refresh token once more, use retry"}
	}
	return nil
}

// awaitRefresh returns the connection once its refresh has succeeded, which was
// requested after before was read.
func awaitRefresh(ctx context.Context, store Store, before credstore.State, wait RefreshWait) (credstore.Connection, error) {
	began, started := time.Now(), false
	for pause := minPollInterval; ; pause = min(pause*5/4, maxPollInterval) {
		now, err := store.Read(ctx, before.Connection.ID)
		if err != nil {
			return before.Connection, err
		}
		if now.Connection.Version > before.Connection.Version {
			return now.Connection, nil
		}
		if now.RequestedAt.IsZero() {
			return now.Connection, refreshError(now.Connection)
		}
		started = started || hasStarted(before, now)
		waited := time.Since(began)
		if !started && waited >= wait.Start {
			return before.Connection, fmt.Errorf("%w: no server has started it within %v; either none is running, or its log says why it may not refresh now", ErrRefreshPending, wait.Start)
		}
		if waited >= wait.Outcome {
			return before.Connection, fmt.Errorf("%w: a server started it, and it has not ended within %v", ErrRefreshPending, wait.Outcome)
		}
		if err := sleep(ctx, pause); err != nil {
			return before.Connection, err
		}
	}
}

// hasStarted reports whether a server has recorded an intent to send the refresh
// token since before was read.
func hasStarted(before, now credstore.State) bool {
	if now.Intent == nil {
		return false
	}
	return before.Intent == nil || now.Intent.Attempts > before.Intent.Attempts
}

func refreshError(c credstore.Connection) error {
	if f := c.LastError; f != nil {
		return &RefreshError{Code: f.Code, Message: f.Message}
	}
	return &RefreshError{Message: fmt.Sprintf("it ended without a new token pair, and the connection is %s", c.Status)}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Retry requests that the running servers send a rejected refresh token once more.
// It returns [credstore.ErrNotRejected] if there is none.
func (o *Operator) Retry(ctx context.Context, c credstore.Connection) (credstore.Connection, error) {
	return o.reload(ctx, c, "retrying", o.Store.RetryRejected(ctx, c.ID, o.now()))
}

// RetryAll does the same for every connection that has a rejected refresh token.
// The others that require reauthorization are only counted.
func (o *Operator) RetryAll(ctx context.Context) (retried []credstore.Connection, others int, err error) {
	rejected, err := o.ListAll(ctx, credstore.ReauthorizationRequired)
	if err != nil {
		return nil, 0, err
	}
	for _, c := range rejected {
		after, err := o.Retry(ctx, c)
		if errors.Is(err, credstore.ErrNotRejected) || errors.Is(err, credstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return retried, 0, err
		}
		retried = append(retried, after)
	}
	return retried, len(rejected) - len(retried), nil
}
