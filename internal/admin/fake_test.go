package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// memoryStore holds connections in the order of their names. With err set it
// is a store that is down.
type memoryStore struct {
	mu          sync.Mutex // guards what follows
	connections []credstore.Connection
	events      []credstore.Event
	err         error
}

func (s *memoryStore) Find(_ context.Context, name string) (credstore.Connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return credstore.Connection{}, s.err
	}
	for _, c := range s.connections {
		if c.Name == name {
			return c, nil
		}
	}
	return credstore.Connection{}, credstore.ErrNotFound
}

func (s *memoryStore) List(_ context.Context, q credstore.Query) (credstore.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return credstore.Page{}, s.err
	}
	if strings.HasPrefix(q.Cursor, "!") {
		return credstore.Page{}, fmt.Errorf("reading the cursor: %w", credstore.ErrBadQuery)
	}
	limit := q.Limit
	if limit == 0 {
		limit = 50
	}
	var page credstore.Page
	for _, c := range s.connections {
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

func (s *memoryStore) Count(ctx context.Context) (map[credstore.Group]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[credstore.Group]int{}
	for _, c := range s.connections {
		counts[credstore.Group{Kind: c.Kind, Status: c.Status}]++
	}
	return counts, errors.Join(s.err, ctx.Err())
}

func (s *memoryStore) History(_ context.Context, id, before string, limit int) (credstore.HistoryPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.HasPrefix(before, "!") {
		return credstore.HistoryPage{}, fmt.Errorf("reading the cursor: %w", credstore.ErrBadQuery)
	}
	var page credstore.HistoryPage
	for _, e := range slices.Backward(s.events) {
		if e.ConnectionID != id || before != "" && e.ID >= before {
			continue
		}
		if limit != 0 && len(page.Events) == limit {
			page.Next = page.Events[limit-1].ID
			break
		}
		page.Events = append(page.Events, e)
	}
	return page, s.err
}

func (s *memoryStore) Removed(_ context.Context, name string) (id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range slices.Backward(s.events) {
		if e.Type == credstore.EventRemoved && e.Connection == name {
			return e.ConnectionID, s.err
		}
	}
	return "", credstore.ErrNotFound
}

func (s *memoryStore) Create(ctx context.Context, n credstore.NewConnection) (credstore.Connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return credstore.Connection{}, s.err
	}
	for _, c := range s.connections {
		if strings.EqualFold(c.Name, n.Name) {
			return credstore.Connection{}, &credstore.ConflictError{Err: credstore.ErrNameTaken, With: c.Name}
		}
	}
	c := credstore.Connection{
		ID: "id of " + n.Name, Name: n.Name, Kind: n.Kind, ExternalTenant: n.ExternalTenant,
		Status: credstore.Pending, Reason: credstore.ReasonNoCredential, CreatedAt: time.Unix(1e9, 0),
	}
	s.connections = append(s.connections, c)
	slices.SortFunc(s.connections, func(a, b credstore.Connection) int { return strings.Compare(a.Name, b.Name) })
	s.note(ctx, c, credstore.EventCreated)
	return c, nil
}

func (s *memoryStore) Disable(ctx context.Context, id, reason string) error {
	return s.change(ctx, id, credstore.EventDisabled, func(c *credstore.Connection) error {
		c.Status, c.Reason = credstore.Disabled, reason
		return nil
	})
}

func (s *memoryStore) Enable(ctx context.Context, id string) error {
	return s.change(ctx, id, credstore.EventEnabled, func(c *credstore.Connection) error {
		if c.Status == credstore.Disabled {
			c.Status, c.Reason = credstore.Active, ""
		}
		return nil
	})
}

func (s *memoryStore) RetryRejected(ctx context.Context, id string, _ time.Time) error {
	return s.change(ctx, id, credstore.EventRetryRequested, func(c *credstore.Connection) error {
		if c.Status != credstore.ReauthorizationRequired {
			return credstore.ErrNotRejected
		}
		c.Status, c.Reason = credstore.Degraded, credstore.ReasonRetryRequested
		return nil
	})
}

// change changes the connection with the id and notes that in its history.
func (s *memoryStore) change(ctx context.Context, id string, what credstore.EventType, change func(*credstore.Connection) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	for i := range s.connections {
		if s.connections[i].ID != id {
			continue
		}
		if err := change(&s.connections[i]); err != nil {
			return err
		}
		s.note(ctx, s.connections[i], what)
		return nil
	}
	return credstore.ErrNotFound
}

// note adds an event. s.mu is held.
func (s *memoryStore) note(ctx context.Context, c credstore.Connection, what credstore.EventType) {
	s.events = append(s.events, credstore.Event{
		ID: fmt.Sprintf("e%03d", len(s.events)), ConnectionID: c.ID, Connection: c.Name, Type: what,
		At: time.Unix(1e9, 0), Actor: credstore.Actor(ctx), Status: c.Status, Reason: c.Reason, Version: c.Version,
	})
}

func (s *memoryStore) remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.connections)
	s.connections = slices.DeleteFunc(s.connections, func(c credstore.Connection) bool { return c.ID == id })
	if len(s.connections) == before {
		return credstore.ErrNotFound
	}
	return s.err
}

// canaryLink is the token of every connect link: a canary that is shown only
// where a link was asked for.
const canaryLink = "canary-link-token"

// canaryKey is an API key that must not be shown at all.
const canaryKey = "canary-api-key"

// fakeActions does what is asked of it, or fails with err.
type fakeActions struct {
	store *memoryStore
	err   error
	keys  []manage.NewKey // that were set
}

func (f *fakeActions) Link(_ context.Context, c credstore.Connection, r credstore.LinkRequest) (manage.Link, error) {
	to := "https://connect.example.com/connect/" + canaryLink + "-" + c.Name
	if r.ReplaceExisting {
		to += "-fresh"
	}
	return manage.Link{URL: credstore.NewSecret(to), ExpiresAt: time.Unix(4e9, 0)}, f.err
}

func (f *fakeActions) Check(_ context.Context, c credstore.Connection) (refresh.CredentialCheck, error) {
	return refresh.CredentialCheck{Connection: c, Findings: []refresh.Finding{
		{Part: "access_token", Result: refresh.Valid, CompanyID: c.CompanyID, Message: "the API accepts it"},
		{Part: "refresh_token", Result: refresh.Rejected, Message: "the authorization server calls it inactive"},
	}}, f.err
}

func (f *fakeActions) Refresh(_ context.Context, c credstore.Connection) (credstore.Connection, error) {
	c.Version++
	return c, f.err
}

func (f *fakeActions) SetKey(_ context.Context, c credstore.Connection, k manage.NewKey) (credstore.Connection, error) {
	if f.err != nil {
		return c, f.err
	}
	f.keys = append(f.keys, k)
	c.Status, c.Version = credstore.Active, c.Version+1
	return c, nil
}

func (f *fakeActions) Intake(bool) func(context.Context, credstore.NewConnection) (string, error) {
	return func(ctx context.Context, n credstore.NewConnection) (string, error) {
		_, err := f.store.Create(ctx, n)
		return "", err
	}
}

func (f *fakeActions) Remove(_ context.Context, c credstore.Connection, uninstall bool) (manage.Removal, error) {
	if f.err != nil {
		return manage.Removal{}, f.err
	}
	return manage.Removal{Uninstalled: uninstall, Message: "Pleo was told, or not."}, f.store.remove(c.ID)
}
