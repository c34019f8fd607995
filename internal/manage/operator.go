package manage

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// Store is what an [Operator] reads and changes. Its methods are those of the
// store of the same name.
type Store interface {
	Find(ctx context.Context, name string) (credstore.Connection, error)
	List(ctx context.Context, q credstore.Query) (credstore.Page, error)
	Count(ctx context.Context) (map[credstore.Group]int, error)
	Removed(ctx context.Context, name string) (id string, err error)
	Events(ctx context.Context, id, before string, limit int) (credstore.HistoryPage, error)
	Create(ctx context.Context, c credstore.NewConnection) (credstore.Connection, error)
	Disable(ctx context.Context, id, reason string) error
	Enable(ctx context.Context, id string) error
	RetryRejected(ctx context.Context, id string, at time.Time) error
}

// StoreOf returns the part of s that an [Operator] uses.
func StoreOf(s credstore.Store) Store {
	return struct {
		credstore.Connections
		credstore.History
		retrier
	}{s.Connections, s.History, s.Credentials}
}

type retrier interface {
	RetryRejected(ctx context.Context, id string, at time.Time) error
}

// Actions does what needs more than the store: Pleo, links or the configuration.
// Its methods may be called by several goroutines at once. Besides the errors that
// they name they return those of the store.
type Actions interface {
	// Link returns a connect link: an existing one that can still be used for the
	// same purpose, unless r.ReplaceExisting is set. A TTL of zero means the
	// configured one.
	Link(ctx context.Context, c credstore.Connection, r credstore.LinkRequest) (Link, error)

	// Check asks Pleo about every part of the connection's credential, and changes
	// nothing.
	Check(ctx context.Context, c credstore.Connection) (refresh.CredentialCheck, error)

	// Refresh requests a refresh of the token pair and waits for its outcome. It
	// returns a *[NotPossibleError] if there is nothing to refresh, a
	// *[RefreshError] if the refresh failed, and [ErrRefreshPending] if it takes too
	// long to wait for.
	Refresh(ctx context.Context, c credstore.Connection) (credstore.Connection, error)

	// SetKey checks a key with Pleo and stores it. Its errors are those of
	// [refresh.Manager.SetKey].
	SetKey(ctx context.Context, c credstore.Connection, k NewKey) (credstore.Connection, error)

	// Intake returns the function that adds the connections of one import, see
	// [Importer]. It asks Pleo which company a credential belongs to, unless offline.
	Intake(offline bool) func(context.Context, credstore.NewConnection) (warning string, err error)

	// Remove removes the connection. If uninstall is set, it first asks Pleo to
	// uninstall the integration, and removes the connection also if that fails.
	Remove(ctx context.Context, c credstore.Connection, uninstall bool) (Removal, error)
}

// Operator has the use cases of operators, on pages and through the JSON API.
// Errors about a request are problems, see [Explain]. Its methods may be called by
// several goroutines at once.
type Operator struct {
	Store
	Actions Actions
	// ConnectLinks is whether there are pages for customers, which links lead to.
	ConnectLinks bool
	// ReturnURLs are those that a link may return to, compared character by
	// character.
	ReturnURLs []string
	Logger     *zap.Logger
	Now        func() time.Time
}

// Problem returns what operators see of err. Errors that say nothing about the
// request are logged, and reported as a store that is unavailable.
func (o *Operator) Problem(err error) *webguard.Problem {
	if p := Explain(err); p != nil {
		return p
	}
	o.Logger.Warn("request failed", zap.Error(err))
	return NewProblem(CodeStoreUnavailable, "The store is currently unavailable.")
}

// Find returns the connection with the name.
func (o *Operator) Find(ctx context.Context, name string) (credstore.Connection, error) {
	if !credstore.ValidName(name) {
		return credstore.Connection{}, NewProblem(CodeConnectionUnknown, "This is not a valid connection name.")
	}
	c, err := o.Store.Find(ctx, name)
	if errors.Is(err, credstore.ErrNotFound) {
		return c, NewProblem(CodeConnectionUnknown, "There is no connection %q.", name)
	}
	return c, err
}

// FindWithRemoved returns the connection with the name. If there is none, but one
// was removed, it returns a connection with only the id and name of the last one, and
// removed is true.
func (o *Operator) FindWithRemoved(ctx context.Context, name string) (c credstore.Connection, removed bool, err error) {
	c, err = o.Find(ctx, name)
	if p := new(webguard.Problem); !errors.As(err, &p) || !credstore.ValidName(name) {
		return c, false, err
	}
	id, removedErr := o.Removed(ctx, name)
	if errors.Is(removedErr, credstore.ErrNotFound) {
		return c, false, err
	}
	return credstore.Connection{ID: id, Name: name}, true, removedErr
}

// Create creates a connection without a credential. It is idempotent: if there
// already is the same connection, as after a response that was lost, it returns
// that one and created is false.
func (o *Operator) Create(ctx context.Context, n credstore.NewConnection) (c credstore.Connection, created bool, err error) {
	for _, err := range []error{n.Validate(), credstore.ValidateTenant(n.ExternalTenant)} {
		if err != nil {
			return c, false, NewProblem(CodeBadRequest, "%s.", capitalize(err.Error()))
		}
	}
	c, err = o.Store.Create(ctx, n)
	if !errors.Is(err, credstore.ErrNameTaken) {
		return c, err == nil, err
	}
	existing, findErr := o.Store.Find(ctx, n.Name)
	switch {
	case errors.Is(findErr, credstore.ErrNotFound):
		return c, false, explainNameTaken(n.Name, err)
	case findErr != nil:
		return c, false, findErr
	case existing.Kind != n.Kind || existing.ExternalTenant != n.ExternalTenant:
		return c, false, NewProblem(CodeConnectionExists, "There is already a connection %q with another kind or external tenant.", n.Name)
	case n.SharedCompany && !existing.SharedCompany:
		return c, false, NewProblem(CodeConnectionExists, "There is already a connection %q, which was created without allow_shared_company. Set it on the link or key that connects it.", n.Name)
	}
	return existing, false, nil
}

// explainNameTaken returns the error for a name that is taken although no
// connection has it: another one has it in other case, or the connection was
// removed in between.
func explainNameTaken(name string, err error) error {
	var conflict *credstore.ConflictError
	if errors.As(err, &conflict) && conflict.With == name {
		return concurrentlyRemoved()
	}
	return err
}

// concurrentlyRemoved asks a client to repeat its request: a 404 makes no sense to
// one that has just named what it wants to exist.
func concurrentlyRemoved() error {
	return NewProblem(CodeConnectionBusy, "A connection with this name was removed at the same time. Try again.")
}

// CheckReturnURL returns a problem unless links may return to the URL, or it is
// empty.
func (o *Operator) CheckReturnURL(url string) error {
	if url == "" || slices.Contains(o.ReturnURLs, url) {
		return nil
	}
	return NewProblem(CodeReturnURL, "The return_url is not listed in connect.return_urls. It is compared character by character.")
}

// Link returns a connect link for the connection.
func (o *Operator) Link(ctx context.Context, c credstore.Connection, r credstore.LinkRequest) (Link, error) {
	if err := o.CheckReturnURL(r.ReturnURL); err != nil {
		return Link{}, err
	}
	if !o.ConnectLinks {
		return Link{}, NewProblem(CodeNotPossible, "Connect links are not set up. Set connect.public_url.")
	}
	return o.Actions.Link(ctx, c, r)
}

// LinkNew returns a connect link for a connection that the caller has just created.
// It returns an empty one if links are not set up.
func (o *Operator) LinkNew(ctx context.Context, c credstore.Connection, r credstore.LinkRequest) (Link, error) {
	if !o.ConnectLinks {
		return Link{}, nil
	}
	link, err := o.Link(ctx, c, r)
	if errors.Is(err, credstore.ErrNotFound) {
		return link, concurrentlyRemoved()
	}
	return link, err
}

// SetKey stores an API key that Pleo accepts.
func (o *Operator) SetKey(ctx context.Context, c credstore.Connection, k NewKey) (credstore.Connection, error) {
	switch {
	case !c.Kind.IsKey():
		return c, NewProblem(CodeNotPossible, "Connection %q is of kind oauth. It has no API key; the customer connects it with a connect link.", c.Name)
	case k.Key.IsZero() || !k.Key.Sendable():
		return c, NewProblem(CodeBadRequest, "The API key is missing, or has spaces, line breaks or other characters that are not valid in a key.")
	case k.Next && (k.AllowOtherCompany || k.AllowSharedCompany):
		return c, NewProblem(CodeBadRequest, "The next key must belong to the same company. Leave out allow_other_company and allow_shared_company.")
	case k.Next && c.Version == 0:
		return c, NewProblem(CodeNotPossible, "Connection %q has no key that a next key could replace. Leave out next.", c.Name)
	case !k.ExpiresAt.IsZero() && !k.ExpiresAt.After(o.Now()):
		return c, NewProblem(CodeBadRequest, "The time in expires_at is in the past.")
	}
	after, err := o.Actions.SetKey(ctx, c, k)
	if err != nil {
		return c, ExplainKeyError(err)
	}
	return after, nil
}

// Retry requests one more refresh with a rejected refresh token.
func (o *Operator) Retry(ctx context.Context, c credstore.Connection) (credstore.Connection, error) {
	return o.reload(ctx, c, o.RetryRejected(ctx, c.ID, o.Now()))
}

// Disable stops all use of the connection until it is enabled.
func (o *Operator) Disable(ctx context.Context, c credstore.Connection) (credstore.Connection, error) {
	return o.reload(ctx, c, o.Store.Disable(ctx, c.ID, credstore.ReasonOperator))
}

// Enable allows use of a disabled connection again.
func (o *Operator) Enable(ctx context.Context, c credstore.Connection) (credstore.Connection, error) {
	return o.reload(ctx, c, o.Store.Enable(ctx, c.ID))
}

// reload returns the connection as it is after a change.
func (o *Operator) reload(ctx context.Context, c credstore.Connection, err error) (credstore.Connection, error) {
	if err != nil {
		return c, err
	}
	return o.Store.Find(ctx, c.Name)
}

// ParseQuery returns the query of a listing from its parameters. Empty ones are
// left out.
func ParseQuery(limit, cursor, status, kind, search string) (credstore.Query, error) {
	q := credstore.Query{Cursor: cursor, Status: credstore.Status(status), Kind: credstore.Kind(kind), Search: search}
	n, err := ParseLimit(limit)
	switch {
	case err != nil:
		return q, err
	case status != "" && !slices.Contains(credstore.Statuses(), q.Status):
		return q, NewProblem(CodeBadRequest, "The status must be pending, active, degraded, reauthorization_required or disabled.")
	case kind != "" && !slices.Contains(credstore.Kinds(), q.Kind):
		return q, NewProblem(CodeBadRequest, "The kind must be oauth, integrated_key or standalone_key.")
	}
	q.Limit = n
	return q, nil
}

// ParseLimit returns how many entries a page has. An empty limit is 0, which means
// the default of the store.
func ParseLimit(limit string) (int, error) {
	if limit == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(limit)
	if err != nil || n < 1 || n > maxPageSize {
		return 0, NewProblem(CodeBadRequest, "The limit must be a number from 1 to %d.", maxPageSize)
	}
	return n, nil
}

const maxPageSize = 200
