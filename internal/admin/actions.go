package admin

import (
	"context"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// Actions does what takes more than the store. Its methods may be called by
// several goroutines at once. Beside what each says they return the errors of
// [credstore.Store].
type Actions interface {
	// Link returns a connect link: one that is there already and can still be
	// used for the same, unless r.Fresh is set. A TTL of zero means the
	// configured one.
	Link(ctx context.Context, c credstore.Connection, r credstore.LinkRequest) (manage.Link, error)

	// Check asks Pleo about all that the connection has, and changes nothing.
	Check(ctx context.Context, c credstore.Connection) (refresh.CredentialCheck, error)

	// Refresh has the token pair refreshed and waits for the outcome: a
	// *[manage.NotPossibleError] where there is nothing to refresh, a *[manage.RefreshError] when
	// no new pair came, and [manage.ErrRefreshPending] when that takes longer than somebody
	// waits.
	Refresh(ctx context.Context, c credstore.Connection) (credstore.Connection, error)

	// SetKey has Pleo look at a key and then stores it: in place of the present
	// one, or to take that place later. Its errors are those of
	// [refresh.Manager.SetKey].
	SetKey(ctx context.Context, c credstore.Connection, k manage.NewKey) (credstore.Connection, error)

	// Intake returns what adds the connections of one import, see [Importer.Add]. It
	// asks Pleo whom their credentials belong to, unless offline is set.
	Intake(offline bool) func(context.Context, credstore.NewConnection) (warning string, err error)

	// Remove forgets the connection, after asking Pleo to uninstall the
	// integration if that is wanted. It forgets also if that fails.
	Remove(ctx context.Context, c credstore.Connection, uninstall bool) (manage.Removal, error)
}
