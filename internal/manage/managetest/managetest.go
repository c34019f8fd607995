// Package managetest provides a store and actions in memory for tests of
// packages that use manage.
package managetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// FullConnection returns a connection with every field set.
func FullConnection() credstore.Connection {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	return credstore.Connection{
		ID: "internal-id", Name: "acme", Kind: credstore.OAuth,
		Status: credstore.Degraded, Reason: credstore.ReasonUnavailable,
		LastError: &credstore.Failure{Code: "busy", Message: "the authorization server responded with 429", At: at},
		CompanyID: "11111111-2222-3333-4444-555555555555", CompanyName: "Acme", Subject: "urn:pleo:company:1",
		ExternalTenant: "t-1", Version: 7, ExpiresAt: at, RefreshedAt: at, CreatedAt: at,
	}
}

// BareConnection returns a connection that waits for its API key.
func BareConnection() credstore.Connection {
	return credstore.Connection{ID: "x", Name: "bare", Kind: credstore.StandaloneKey, Status: credstore.Pending, CreatedAt: time.Unix(0, 0)}
}

// KeyedConnection returns a connection that has an API key.
func KeyedConnection() credstore.Connection {
	c := BareConnection()
	c.ID, c.Name, c.Status, c.Version = "k", "keyed", credstore.Active, 1
	return c
}

// NewOperator returns an Operator on the store.
func NewOperator(store *Store) *manage.Operator {
	o := &manage.Operator{Store: store, Logger: zap.NewNop()}
	(&Pleo{Store: store}).Attach(o)
	return o
}

// AdminToken is the admin token of tests. No response may contain it.
const AdminToken = "canary-admin-token-0123456789"

// Store has connections, sorted by name. It fails with Err if that is set. Its
// fields must not be used while its methods are.
type Store struct {
	mu          sync.Mutex
	Connections []credstore.Connection
	Recorded    []credstore.Event
	Err         error
}

// Find implements [manage.Store].
func (s *Store) Find(_ context.Context, name string) (credstore.Connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Err != nil {
		return credstore.Connection{}, s.Err
	}
	for _, c := range s.Connections {
		if c.Name == name {
			return c, nil
		}
	}
	return credstore.Connection{}, credstore.ErrNotFound
}

// List implements [manage.Store].
func (s *Store) List(_ context.Context, q credstore.Query) (credstore.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Err != nil {
		return credstore.Page{}, s.Err
	}
	if strings.HasPrefix(q.Cursor, "!") {
		return credstore.Page{}, fmt.Errorf("reading the cursor: %w", credstore.ErrBadQuery)
	}
	limit := q.Limit
	if limit == 0 {
		limit = 50
	}
	var page credstore.Page
	for _, c := range s.Connections {
		if c.Name <= q.Cursor || q.Status != "" && c.Status != q.Status || q.Kind != "" && c.Kind != q.Kind || q.Reason != "" && c.Reason != q.Reason || !strings.Contains(c.Name, q.Search) {
			continue
		}
		if !q.KeyExpiresBefore.IsZero() && (!c.Kind.IsKey() || c.Status != credstore.Active || c.ExpiresAt.IsZero() || c.ExpiresAt.After(q.KeyExpiresBefore)) {
			continue
		}
		if len(page.Connections) == limit {
			page.Next = page.Connections[limit-1].Name
			break
		}
		page.Connections = append(page.Connections, c)
	}
	return page, nil
}

// Count implements [manage.Store].
func (s *Store) Count(ctx context.Context) (map[credstore.Group]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[credstore.Group]int{}
	for _, c := range s.Connections {
		counts[credstore.Group{Kind: c.Kind, Status: c.Status}]++
	}
	return counts, errors.Join(s.Err, ctx.Err())
}

// Events implements [manage.Store].
func (s *Store) Events(_ context.Context, id, before string, limit int) (credstore.HistoryPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.HasPrefix(before, "!") {
		return credstore.HistoryPage{}, fmt.Errorf("reading the cursor: %w", credstore.ErrBadQuery)
	}
	var page credstore.HistoryPage
	for _, e := range slices.Backward(s.Recorded) {
		if e.ConnectionID != id || before != "" && e.ID >= before {
			continue
		}
		if limit != 0 && len(page.Events) == limit {
			page.Next = page.Events[limit-1].ID
			break
		}
		page.Events = append(page.Events, e)
	}
	return page, s.Err
}

// Removed implements [manage.Store].
func (s *Store) Removed(_ context.Context, name string) (id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range slices.Backward(s.Recorded) {
		if e.Type == credstore.EventRemoved && e.Connection == name {
			return e.ConnectionID, s.Err
		}
	}
	return "", credstore.ErrNotFound
}

// Create implements [manage.Store].
func (s *Store) Create(ctx context.Context, n credstore.NewConnection) (credstore.Connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Err != nil {
		return credstore.Connection{}, s.Err
	}
	for _, c := range s.Connections {
		if strings.EqualFold(c.Name, n.Name) {
			return credstore.Connection{}, &credstore.ConflictError{Err: credstore.ErrNameTaken, With: c.Name}
		}
	}
	c := credstore.Connection{
		ID: "id of " + n.Name, Name: n.Name, Kind: n.Kind, ExternalTenant: n.ExternalTenant,
		Status: credstore.Pending, Reason: credstore.ReasonNoCredential, CreatedAt: time.Unix(1e9, 0),
	}
	s.Connections = append(s.Connections, c)
	slices.SortFunc(s.Connections, func(a, b credstore.Connection) int { return strings.Compare(a.Name, b.Name) })
	s.Record(ctx, c, credstore.EventCreated)
	return c, nil
}

// Disable implements [manage.Store].
func (s *Store) Disable(ctx context.Context, id, reason string) error {
	return s.change(ctx, id, credstore.EventDisabled, func(c *credstore.Connection) error {
		c.Status, c.Reason = credstore.Disabled, reason
		return nil
	})
}

// Enable implements [manage.Store].
func (s *Store) Enable(ctx context.Context, id string) error {
	return s.change(ctx, id, credstore.EventEnabled, func(c *credstore.Connection) error {
		if c.Status == credstore.Disabled {
			c.Status, c.Reason = credstore.Active, ""
		}
		return nil
	})
}

// RetryRejected implements [manage.Store].
func (s *Store) RetryRejected(ctx context.Context, id string, _ time.Time) error {
	return s.change(ctx, id, credstore.EventRetryRequested, func(c *credstore.Connection) error {
		if c.Status != credstore.ReauthorizationRequired {
			return credstore.ErrNotRejected
		}
		c.Status, c.Reason = credstore.Degraded, credstore.ReasonRetryRequested
		return nil
	})
}

// change changes the connection with the id and notes that in its history.
func (s *Store) change(ctx context.Context, id string, what credstore.EventType, change func(*credstore.Connection) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Err != nil {
		return s.Err
	}
	for i := range s.Connections {
		if s.Connections[i].ID != id {
			continue
		}
		if err := change(&s.Connections[i]); err != nil {
			return err
		}
		s.Record(ctx, s.Connections[i], what)
		return nil
	}
	return credstore.ErrNotFound
}

// Record adds an event. s.mu is held.
func (s *Store) Record(ctx context.Context, c credstore.Connection, what credstore.EventType) {
	s.Recorded = append(s.Recorded, credstore.Event{
		ID: fmt.Sprintf("e%03d", len(s.Recorded)), ConnectionID: c.ID, Connection: c.Name, Type: what,
		At: time.Unix(1e9, 0), Actor: credstore.Actor(ctx), Status: c.Status, Reason: c.Reason, Version: c.Version,
	})
}

// Remove implements [manage.Store].
func (s *Store) Remove(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.Connections)
	s.Connections = slices.DeleteFunc(s.Connections, func(c credstore.Connection) bool { return c.ID == id })
	if len(s.Connections) == before {
		return credstore.ErrNotFound
	}
	return s.Err
}

// Read returns a connection with an access token if it has a credential.
func (s *Store) Read(_ context.Context, id string) (credstore.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.Connections {
		if c.ID == id {
			cred := credstore.Credential{Version: c.Version, AccessToken: credstore.NewSecret("canary-access-token")}
			return credstore.State{Connection: c, Credential: cred}, s.Err
		}
	}
	return credstore.State{}, credstore.ErrNotFound
}

// Export returns [errors.ErrUnsupported]: neither the API nor the pages export secrets.
func (s *Store) Export(context.Context, string) (credstore.State, error) {
	return credstore.State{}, errors.ErrUnsupported
}

// RequestRefresh refreshes the connection at once.
func (s *Store) RequestRefresh(ctx context.Context, id string, _ time.Time) error {
	return s.change(ctx, id, credstore.EventRefreshed, func(c *credstore.Connection) error {
		c.Version++
		return nil
	})
}

// CanaryLink is the token of every connect link. Only responses to requests for a
// link may contain it.
const CanaryLink = "canary-link-token"

// CanaryKey is an API key. No response may contain it.
const CanaryKey = "canary-api-key"

// Links implements [manage.LinkIssuer] on a Store.
type Links struct{ Store manage.Store }

// Issue returns a link to the connection.
func (l Links) Issue(ctx context.Context, id string, r credstore.LinkRequest) (string, credstore.Link, error) {
	state, err := l.Store.Read(ctx, id)
	url := "https://connect.example.com/connect/" + CanaryLink + "-" + state.Connection.Name
	if r.ReplaceExisting {
		url += "-fresh"
	}
	return url, credstore.Link{ExpiresAt: time.Unix(4e9, 0)}, err
}

// Pleo is what an Operator calls besides its store and links: the API, a checker and
// what sets keys. Its methods fail with Err if that is set.
type Pleo struct {
	Store *Store
	Err   error
	Keys  []apikey.Change // that were set
}

// Attach makes o use p. While p.Err is set, refreshes, removals and links fail too.
func (p *Pleo) Attach(o *manage.Operator) {
	o.API, o.Checker, o.Keys, o.Store = p, p, p, failingStore{o.Store, p}
	if o.Links != nil {
		o.Links = failingLinks{o.Links, p}
	}
}

type failingStore struct {
	manage.Store
	pleo *Pleo
}

func (s failingStore) RequestRefresh(ctx context.Context, id string, at time.Time) error {
	if s.pleo.Err != nil {
		return s.pleo.Err
	}
	return s.Store.RequestRefresh(ctx, id, at)
}

func (s failingStore) Remove(ctx context.Context, id string) error {
	if s.pleo.Err != nil {
		return s.pleo.Err
	}
	return s.Store.Remove(ctx, id)
}

type failingLinks struct {
	manage.LinkIssuer
	pleo *Pleo
}

func (l failingLinks) Issue(ctx context.Context, id string, r credstore.LinkRequest) (string, credstore.Link, error) {
	if l.pleo.Err != nil {
		return "", credstore.Link{}, l.pleo.Err
	}
	return l.LinkIssuer.Issue(ctx, id, r)
}

// Introspect knows no company.
func (p *Pleo) Introspect(context.Context, credstore.Secret) (pleo.Identity, error) {
	return pleo.Identity{}, p.Err
}

// Uninstall does nothing.
func (p *Pleo) Uninstall(context.Context, credstore.Secret) error { return p.Err }

// Check finds a rejected refresh token.
func (p *Pleo) Check(ctx context.Context, id string) (refresh.CredentialCheck, error) {
	state, err := p.Store.Read(ctx, id)
	return refresh.CredentialCheck{Connection: state.Connection, Findings: []refresh.Finding{
		{Part: "access_token", Result: refresh.Valid, CompanyID: state.Connection.CompanyID, Message: "the API accepts it"},
		{Part: "refresh_token", Result: refresh.Rejected, Message: "the authorization server reports it as inactive"},
	}}, errors.Join(err, p.Err)
}

// SetKey records the key.
func (p *Pleo) SetKey(ctx context.Context, k apikey.Change) (credstore.Connection, error) {
	if p.Err != nil {
		return credstore.Connection{}, p.Err
	}
	p.Keys = append(p.Keys, k)
	state, err := p.Store.Read(ctx, k.ConnectionID)
	c := state.Connection
	c.Status, c.Version = credstore.Active, c.Version+1
	return c, err
}
