package refresh

import (
	"context"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Store is the part of a credential store that refreshes use.
type Store struct {
	Connections
	Credentials
	Changes
}

// StoreOf returns the part of the store that refreshes use.
func StoreOf(s credstore.Store) Store { return Store{s.Connections, s.Credentials, s.Changes} }

// Connections finds and changes connections, as [credstore.Connections] does.
type Connections interface {
	Find(ctx context.Context, name string) (credstore.Connection, error)
	Read(ctx context.Context, id string) (credstore.State, error)
	List(ctx context.Context, q credstore.Query) (credstore.Page, error)
	Replace(ctx context.Context, l credstore.Lease, r credstore.Replacement) (credstore.Connection, error)
	SetCompany(ctx context.Context, id string, company credstore.Company) error
	StageKey(ctx context.Context, id string, key credstore.Secret, expiresAt time.Time) error
}

// Credentials changes credentials, as [credstore.Credentials] does.
type Credentials interface {
	Acquire(ctx context.Context, id, owner string) (credstore.Lease, error)
	RecordIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, at time.Time) (credstore.Intent, error)
	CancelIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, f *credstore.RefreshFailure) error
	MarkOutcomeUnknown(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.RefreshFailure) error
	Save(ctx context.Context, s credstore.Successor) (credstore.Connection, error)
	MarkReauthorizationRequired(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.Failure, reason string, dropAccess bool) error
	Reinstate(ctx context.Context, l credstore.Lease, parent credstore.Parent) error
	PromoteKey(ctx context.Context, l credstore.Lease, parent credstore.Parent) (credstore.Connection, error)
	Due(ctx context.Context, obtainedBefore time.Time, limit int) ([]credstore.Connection, error)
	Unsettled(ctx context.Context, limit int) ([]string, error)
}

// Changes reports changes and keeps facts, as [credstore.Changes] does.
type Changes interface {
	factStore
	Watch(ctx context.Context, changed func([]credstore.Change)) error
	Position(ctx context.Context) (store string, change int64, err error)
}

// factStore is the part of a store that holds facts.
type factStore interface {
	Fact(ctx context.Context, name string) (string, error)
	SetFact(ctx context.Context, name, value string) error
}
