// Package manage implements the use cases on connections, for the command line,
// the JSON API and the pages.
//
// Its errors are typed and say what is wrong in terms of the connection. How
// they read is up to each caller: the command line prints them, the API and the
// pages render the problem that [Explain] returns.
package manage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// Store is what an [Operator] reads and changes; see [StoreOf].
type Store interface {
	Find(ctx context.Context, name string) (credstore.Connection, error)
	Read(ctx context.Context, id string) (credstore.State, error)
	List(ctx context.Context, q credstore.Query) (credstore.Page, error)
	Count(ctx context.Context) (map[credstore.Group]int, error)
	Create(ctx context.Context, c credstore.NewConnection) (credstore.Connection, error)
	Disable(ctx context.Context, id, reason string) error
	Enable(ctx context.Context, id string) error
	Export(ctx context.Context, id string) (credstore.State, error)
	Remove(ctx context.Context, id string) error

	Events(ctx context.Context, id, before string, limit int) (credstore.HistoryPage, error)
	Removed(ctx context.Context, name string) (id string, err error)

	Refresher
}

// Refresher requests refreshes from the running servers.
type Refresher interface {
	RequestRefresh(ctx context.Context, id string, at time.Time) error
	RetryRejected(ctx context.Context, id string, at time.Time) error
}

// StoreOf returns the part of s that an [Operator] uses.
func StoreOf(s credstore.Store) Store {
	return struct {
		credstore.Connections
		credstore.History
		Refresher
	}{s.Connections, s.History, s.Credentials}
}

// API is Pleo's API, as [pleo.API] implements it.
type API interface {
	Introspect(ctx context.Context, authorization credstore.Secret) (pleo.Identity, error)
	Uninstall(ctx context.Context, authorization credstore.Secret) error
}

// Checker asks Pleo about a credential, as [refresh.Checker] does.
type Checker interface {
	Check(ctx context.Context, id string) (refresh.CredentialCheck, error)
}

// KeySetter checks and stores API keys, as [refresh.Manager] does.
type KeySetter interface {
	SetKey(ctx context.Context, k apikey.Change) (credstore.Connection, error)
}

// LinkIssuer issues connect links.
type LinkIssuer interface {
	Issue(ctx context.Context, id string, r credstore.LinkRequest) (url string, link credstore.Link, err error)
}

// Operator has the use cases of operators. Only Store is always required; each of
// the others is required by the methods that say so. The methods may be called by
// several goroutines at once. Besides the errors that they name, they return those
// of the store.
type Operator struct {
	Store   Store
	API     API        // for Add and Import unless offline, and for Remove with uninstall
	Checker Checker    // for Check
	Keys    KeySetter  // for SetKey
	Links   LinkIssuer // for Link; nil: connect links are not set up

	// ReturnURLs are those that a link may return to, compared character by
	// character.
	ReturnURLs []string
	// InConfig reports whether the configuration file has the key of the connection
	// with the name. Such a key cannot be replaced here: the next start would bring
	// the one of the file back. Nil: it has none.
	InConfig func(name string) bool
	// Logger is for [Operator.Problem]. Nil: nothing is logged.
	Logger *zap.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

func (o *Operator) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

// maxPageSize is the largest page that a store returns.
const maxPageSize = 200

// Find returns the connection with the name, or a *[NotFoundError].
func (o *Operator) Find(ctx context.Context, name string) (credstore.Connection, error) {
	if !credstore.ValidName(name) {
		return credstore.Connection{}, &NotFoundError{}
	}
	c, err := o.Store.Find(ctx, name)
	if errors.Is(err, credstore.ErrNotFound) {
		return c, &NotFoundError{Name: name}
	}
	return c, err
}

// ListAll returns all connections with the status, or with any if it is empty.
func (o *Operator) ListAll(ctx context.Context, status credstore.Status) (all []credstore.Connection, err error) {
	for q := (credstore.Query{Limit: maxPageSize, Status: status}); ; {
		page, err := o.Store.List(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Connections...)
		if page.Next == "" {
			return all, nil
		}
		q.Cursor = page.Next
	}
}

// FindWithRemoved returns the connection with the name. If there is none, but one
// was removed, it returns a connection with only the id and name of the last one, and
// removed is true. It returns a *[NotFoundError].
func (o *Operator) FindWithRemoved(ctx context.Context, name string) (c credstore.Connection, removed bool, err error) {
	c, err = o.Find(ctx, name)
	if !errors.Is(err, credstore.ErrNotFound) || !credstore.ValidName(name) {
		return c, false, err
	}
	id, removedErr := o.Store.Removed(ctx, name)
	if errors.Is(removedErr, credstore.ErrNotFound) {
		return c, false, err
	}
	return credstore.Connection{ID: id, Name: name}, true, removedErr
}

// Check asks Pleo about every part of the connection's credential. It sends no
// refresh token and changes nothing.
func (o *Operator) Check(ctx context.Context, c credstore.Connection) (refresh.CredentialCheck, error) {
	return o.Checker.Check(ctx, c.ID)
}

// Disable stops all use of the connection until it is enabled. It returns the
// connection as it is then, as the methods below do.
func (o *Operator) Disable(ctx context.Context, c credstore.Connection) (credstore.Connection, error) {
	return o.reload(ctx, c, "disabling", o.Store.Disable(ctx, c.ID, credstore.ReasonOperator))
}

// Enable allows use of a disabled connection again.
func (o *Operator) Enable(ctx context.Context, c credstore.Connection) (credstore.Connection, error) {
	return o.reload(ctx, c, "enabling", o.Store.Enable(ctx, c.ID))
}

// reload returns the connection as it is after a change, unless that failed.
func (o *Operator) reload(ctx context.Context, c credstore.Connection, doing string, err error) (credstore.Connection, error) {
	if err != nil {
		return c, fmt.Errorf("%s connection %q: %w", doing, c.Name, err)
	}
	return o.Store.Find(ctx, c.Name)
}
