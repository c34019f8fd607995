package admin

import (
	"context"
	"errors"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// Actions does what takes more than the store. Its methods may be called by
// several goroutines at once. Beside what each says they return the errors of
// [credstore.Store].
type Actions interface {
	// Link returns a connect link: one that is there already and can still be
	// used for the same, unless r.Fresh is set. A TTL of zero means the
	// configured one.
	Link(ctx context.Context, c credstore.Connection, r credstore.LinkRequest) (Link, error)

	// Check asks Pleo about all that the connection has, and changes nothing.
	Check(ctx context.Context, c credstore.Connection) (refresh.CredentialCheck, error)

	// Refresh has the token pair refreshed and waits for the outcome: a
	// *[NotPossibleError] where there is nothing to refresh, a *[RefreshError] when
	// no new pair came, and [ErrRefreshPending] when that takes longer than somebody
	// waits.
	Refresh(ctx context.Context, c credstore.Connection) (credstore.Connection, error)

	// SetKey has Pleo look at a key and then stores it: in place of the present
	// one, or to take that place later. Its errors are those of
	// [refresh.Manager.SetKey].
	SetKey(ctx context.Context, c credstore.Connection, k NewKey) (credstore.Connection, error)

	// Intake returns what adds the connections of one import, see [Importer.Add]. It
	// asks Pleo whom their credentials belong to, unless offline is set.
	Intake(offline bool) func(context.Context, credstore.NewConnection) (warning string, err error)

	// Remove forgets the connection, after asking Pleo to uninstall the
	// integration if that is wanted. It forgets also if that fails.
	Remove(ctx context.Context, c credstore.Connection, uninstall bool) (Removal, error)
}

// Link is a connect link.
type Link struct {
	URL       credstore.Secret // who has it can connect a company
	ExpiresAt time.Time
}

// NewKey is an API key for a connection.
type NewKey struct {
	Key       credstore.Secret
	Next      bool      // to take the place of the present key once that is refused
	ExpiresAt time.Time // zero: not known

	AllowOtherCompany  bool // the connection may move to another company
	AllowSharedCompany bool // the company may be one that another connection has
}

// Removal says what became of a connection at Pleo when it was removed here.
type Removal struct {
	Uninstalled bool
	Message     string // for people
}

// ErrRefreshPending says that a refresh was asked for and has no outcome yet.
var ErrRefreshPending = errors.New("the refresh has no outcome yet")

// NotPossibleError says why something cannot be done with a connection as it is.
type NotPossibleError struct {
	Message string // for people: a sentence
}

func (e *NotPossibleError) Error() string { return e.Message }

// RefreshError says why a refresh brought no new token pair.
type RefreshError struct {
	Code    string
	Message string // for people: without a full stop
}

func (e *RefreshError) Error() string { return e.Code + ": " + e.Message }
