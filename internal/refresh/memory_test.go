package refresh

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/credstoretest"
)

// The store of these tests keeps the guarantees of the real one.
func TestMemoryStoreIsAStore(t *testing.T) {
	credstoretest.TestStore(t, func(*testing.T) credstoretest.Data { return memoryData{newMemory()} })
}

type memoryData struct{ *memory }

func (d memoryData) Open(t *testing.T) credstoretest.Store {
	s := &memoryStore{memory: d.memory, opened: len(d.log)}
	t.Cleanup(func() { _ = s.Close() })
	return credstoretest.Store{Store: s.parts(), Ping: s.Ping, Close: s.Close}
}

func (d memoryData) Dump(*testing.T) []byte {
	dump := []byte{}
	for r := range maps.Values(d.rows) {
		dump = fmt.Appendf(dump, "%+v", r)
	}
	return dump
}

// memory is the data of a store in memory, shared by the stores of several simulated
// processes.
type memory struct {
	mu     sync.Mutex // guards everything below
	rows   map[string]*row
	facts  map[string]string
	events map[string][]credstore.Event // id → its history, the latest last
	gone   map[string]string            // name → id of who was removed last
	links  map[credstore.Hash]*memoryLink
	begun  map[credstore.Hash]credstore.Consent
	log    []credstore.Change
	lost   int           // changes that it has lost
	logged chan struct{} // closed by the next change
	serial int
}

// row is a connection as stored, with its secrets.
type row struct {
	credstore.StoredState
	fence int64  // of the latest lease that wrote
	actor string // of the current change
	lease *memoryLease
}

// apply applies an action to the row, with the rules of the real store.
func (m *memory) apply(r *row, a credstore.Action) error {
	if promote, ok := a.(credstore.PromoteKey); ok {
		promote.NextKey = r.Credential.NextKey
		a = promote
	}
	t, err := credstore.Apply(r.StoredState, a, time.Now())
	if err != nil {
		return err
	}
	m.store(r, t)
	return t.Conflict
}

// store writes a transition.
func (m *memory) store(r *row, t credstore.Transition) {
	r.StoredState = t.State
	t.Secrets.Update(&r.Credential)
	r.Connection.ExpiresAt = writable(r.Connection.ExpiresAt)
	for _, e := range t.History {
		m.record(r, e)
	}
}

func newMemory() *memory {
	return &memory{
		rows: map[string]*row{}, facts: map[string]string{}, logged: make(chan struct{}),
		events: map[string][]credstore.Event{}, gone: map[string]string{}, links: map[credstore.Hash]*memoryLink{}, begun: map[credstore.Hash]credstore.Consent{},
	}
}

// memoryStore is one process's store on the memory. Operations can be made to
// fail before they take effect (fail), or after it (loseResponses).
type memoryStore struct {
	*memory
	opened        int  // how long the log was then
	closed        bool // guarded by memory.mu
	before, after atomic.Pointer[func(op string) error]
	leaseLeft     atomic.Int64 // how long its leases last, in nanoseconds; 0: for ever
}

// parts returns the store as package credstore divides it. It has no outbox.
func (s *memoryStore) parts() credstore.Store {
	return credstore.Store{Connections: s, Credentials: s, Links: s, History: s, Changes: s}
}

// fail makes each operation call f first and return its error; nil ends it.
func (s *memoryStore) fail(f func(op string) error) { s.before.Store(&f) }

// loseResponses makes each write call f after it has taken effect, and return its
// error.
func (s *memoryStore) loseResponses(f func(op string) error) { s.after.Store(&f) }

var errClosed = fmt.Errorf("%w: closed", credstore.ErrUnavailable)

func (s *memoryStore) enter(op string) error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return errClosed
	}
	return fault(&s.before, op)
}

func (s *memoryStore) leave(op string) error { return fault(&s.after, op) }

func fault(set *atomic.Pointer[func(string) error], op string) error {
	f := set.Load()
	if f == nil || *f == nil {
		return nil
	}
	if err := (*f)(op); err != nil {
		return fmt.Errorf("%w: %w", credstore.ErrUnavailable, err)
	}
	return nil
}

// locked runs f with the lock held.
func (s *memoryStore) locked(op string, f func() error) error {
	if err := s.enter(op); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return f()
}

// write runs f on the row with the lock held, and notifies the watchers.
func (s *memoryStore) write(ctx context.Context, op, id string, f func(*row) error) error {
	err := s.locked(op, func() error {
		r, ok := s.rows[id]
		if !ok {
			return credstore.ErrNotFound
		}
		r.actor = credstore.Actor(ctx)
		if err := f(r); err != nil {
			return err
		}
		s.send(id)
		return nil
	})
	if err != nil {
		return err
	}
	return s.leave(op)
}

func (m *memory) send(id string) {
	r := m.rows[id]
	m.log = append(m.log, credstore.Change{ID: id, RefreshRequested: r != nil && !r.RequestedAt.IsZero()})
	close(m.logged)
	m.logged = make(chan struct{})
}

func (s *memoryStore) Create(ctx context.Context, n credstore.NewConnection) (created credstore.Connection, err error) {
	if err := n.Validate(); err != nil {
		return credstore.Connection{}, err
	}
	err = s.locked("create", func() error {
		if err := s.free(n); err != nil {
			return err
		}
		s.serial++
		id := fmt.Sprintf("id-%d", s.serial)
		r := &row{actor: credstore.Actor(ctx)}
		s.rows[id] = r
		s.store(r, credstore.Begin(id, n, time.Now()))
		s.send(id)
		created = r.Connection
		return nil
	})
	return created, err
}

// free returns a conflict if the name or the company is not to be had.
func (m *memory) free(c credstore.NewConnection) error {
	for _, r := range m.rows {
		if strings.EqualFold(r.Connection.Name, c.Name) {
			return &credstore.ConflictError{Err: credstore.ErrNameTaken, With: r.Connection.Name}
		}
	}
	if c.Credential != nil {
		if err := m.unowned("", c.Credential.RefreshToken); err != nil {
			return err
		}
	}
	if c.SharedCompany {
		return nil
	}
	return m.unbound("", c.Kind, c.Company.ID)
}

// unowned returns a conflict if the refresh token is that of a connection other
// than the one with the id, or was until its last refresh.
func (m *memory) unowned(id string, token credstore.Secret) error {
	for other, r := range m.rows {
		taken := r.Credential.RefreshToken.Equal(token) || r.ParentHash == token.Hash()
		if !token.IsZero() && other != id && taken {
			return &credstore.ConflictError{Err: credstore.ErrTokenTaken, With: r.Connection.Name}
		}
	}
	return nil
}

// unbound returns a conflict if a connection of the kind, other than the one
// with the id, is bound to the company.
func (m *memory) unbound(id string, kind credstore.Kind, company string) error {
	with := ""
	for other, r := range m.rows {
		c := r.Connection
		if company != "" && other != id && c.Kind == kind && c.CompanyID == company && (with == "" || c.Name < with) {
			with = c.Name
		}
	}
	if with == "" {
		return nil
	}
	return &credstore.ConflictError{Err: credstore.ErrCompanyBound, With: with}
}

// writable returns the nearest time that JSON can say.
func writable(t time.Time) time.Time {
	switch {
	case t.Year() > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	case t.Year() < 1:
		return time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)
	}
	return t
}

func (s *memoryStore) Find(_ context.Context, name string) (conn credstore.Connection, err error) {
	err = s.locked("find", func() error {
		for _, r := range s.rows {
			if r.Connection.Name == name {
				conn = r.Connection
				return nil
			}
		}
		return credstore.ErrNotFound
	})
	return conn, err
}

func (s *memoryStore) Read(_ context.Context, id string) (state credstore.State, err error) {
	err = s.locked("read", func() error {
		r, ok := s.rows[id]
		if !ok {
			return credstore.ErrNotFound
		}
		state = r.State
		if r.Intent != nil {
			intent := *r.Intent
			state.Intent = &intent
		}
		return nil
	})
	return state, err
}

func (s *memoryStore) sorted() []credstore.Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []credstore.Connection
	for r := range maps.Values(s.rows) {
		all = append(all, r.Connection)
	}
	slices.SortFunc(all, func(a, b credstore.Connection) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (s *memoryStore) List(_ context.Context, q credstore.Query) (credstore.Page, error) {
	after, ok := strings.CutPrefix(q.Cursor, "after ")
	if q.Limit < 0 || q.Limit > 200 || q.Cursor != "" && !ok {
		return credstore.Page{}, credstore.ErrBadQuery
	}
	limit := cmp.Or(q.Limit, 50)
	var page credstore.Page
	for _, c := range s.sorted() {
		if c.Name <= after || q.Status != "" && c.Status != q.Status || q.Kind != "" && c.Kind != q.Kind ||
			q.Reason != "" && c.Reason != q.Reason || !matches(c, q.Search) {
			continue
		}
		if len(page.Connections) == limit {
			page.Next = "after " + page.Connections[limit-1].Name
			break
		}
		page.Connections = append(page.Connections, c)
	}
	return page, nil
}

func matches(c credstore.Connection, search string) bool {
	text := strings.ToLower(strings.Join([]string{c.Name, c.ExternalTenant, c.CompanyID, c.CompanyName}, "\n"))
	return strings.Contains(text, strings.ToLower(search))
}

func (s *memoryStore) Count(context.Context) (map[credstore.Group]int, error) {
	counts := map[credstore.Group]int{}
	for _, c := range s.sorted() {
		counts[credstore.Group{Kind: c.Kind, Status: c.Status}]++
	}
	return counts, nil
}

func (s *memoryStore) Due(_ context.Context, before time.Time, limit int) (due []credstore.Connection, err error) {
	err = s.locked("due", func() error {
		for r := range maps.Values(s.rows) {
			if r.Connection.Kind == credstore.OAuth && r.Connection.RefreshedAt.Before(before) && r.mayBeRefreshed(time.Now()) {
				due = append(due, r.Connection)
			}
		}
		return nil
	})
	slices.SortFunc(due, func(a, b credstore.Connection) int { return a.RefreshedAt.Compare(b.RefreshedAt) })
	return due[:min(limit, len(due))], err
}

func (r *row) mayBeRefreshed(now time.Time) bool {
	works := r.Connection.Status == credstore.Active || r.Connection.Status == credstore.Degraded
	mayNow := !r.RetryAt.After(now) && (r.Intent == nil || !r.Intent.NextAt.After(now))
	return works && mayNow && !r.Credential.RefreshToken.IsZero() && r.Credential.RejectedAt.IsZero()
}

func (s *memoryStore) Unsettled(_ context.Context, limit int) (ids []string, err error) {
	due := map[string]time.Time{}
	err = s.locked("unsettled", func() error {
		for id, r := range s.rows {
			if at := r.unsettledAt(); !at.IsZero() {
				due[id] = at
				ids = append(ids, id)
			}
		}
		return nil
	})
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(due[a].Compare(due[b]), cmp.Compare(a, b)) })
	return ids[:min(limit, len(ids))], err
}

// unsettledAt is when something outstanding is due; zero when nothing is.
func (r *row) unsettledAt() time.Time {
	at := r.RetryAt
	if asked := r.RequestedAt; !asked.IsZero() && (at.IsZero() || asked.Before(at)) {
		at = asked
	}
	if i := r.Intent; i != nil {
		due := i.At
		if !i.NextAt.IsZero() {
			due = i.NextAt
		}
		if at.IsZero() || due.Before(at) {
			at = due
		}
	}
	return at
}

func (s *memoryStore) Remove(ctx context.Context, id string) error {
	return s.write(ctx, "remove", id, func(r *row) error {
		delete(s.rows, id)
		maps.DeleteFunc(s.links, func(_ credstore.Hash, l *memoryLink) bool { return l.ConnectionID == id })
		maps.DeleteFunc(s.begun, func(_ credstore.Hash, c credstore.Consent) bool { return c.ConnectionID == id })
		return s.apply(r, credstore.Remove{})
	})
}

func (s *memoryStore) Disable(ctx context.Context, id, reason string) error {
	return s.applyTo(ctx, "disable", id, credstore.Disable{Reason: reason})
}

func (s *memoryStore) Enable(ctx context.Context, id string) error {
	return s.applyTo(ctx, "enable", id, credstore.Enable{})
}

func (s *memoryStore) StageKey(ctx context.Context, id string, key credstore.Secret, expiresAt time.Time) error {
	return s.applyTo(ctx, "stage key", id, credstore.StageKey{Key: key, ExpiresAt: expiresAt})
}

// applyTo applies an action to the connection with the id.
func (s *memoryStore) applyTo(ctx context.Context, op, id string, a credstore.Action) error {
	return s.write(ctx, op, id, func(r *row) error { return s.apply(r, a) })
}

func (s *memoryStore) Export(ctx context.Context, id string) (state credstore.State, err error) {
	err = s.write(ctx, "export", id, func(r *row) error {
		if r.lease != nil {
			return credstore.ErrBusy
		}
		err := s.apply(r, credstore.Export{})
		state = r.State
		return err
	})
	return state, err
}

func (s *memoryStore) SetCompany(ctx context.Context, id string, company credstore.Company) error {
	var conflict error
	err := s.write(ctx, "set company", id, func(r *row) error {
		conflict = s.apply(r, credstore.SetCompany{Company: company, Bound: s.unbound(id, r.Connection.Kind, company.ID)})
		return nil //nolint:nilerr // the conflict is recorded
	})
	return cmp.Or(err, conflict)
}

func (s *memoryStore) Replace(ctx context.Context, l credstore.Lease, n credstore.Replacement) (replaced credstore.Connection, err error) {
	held, ok := l.(*memoryLease)
	if !ok || held.store != s {
		return replaced, credstore.ErrLeaseLost
	}
	err = s.write(ctx, "replace", held.id, func(r *row) error {
		if r.lease != held {
			return credstore.ErrLeaseLost
		}
		if err := n.Credential.Validate(r.Connection.Kind); err != nil {
			return err
		}
		err := s.replace(r, n)
		r.fence = held.fence
		replaced = r.Connection
		return err
	})
	return replaced, err
}

func (m *memory) replace(r *row, n credstore.Replacement) error {
	id := r.Connection.ID
	spent, err := m.spendable(id, n.LinkToken)
	if err == credstore.ErrLinkUsed && r.holds(n.Credential) { //nolint:errorlint // spendable has just made it
		return nil
	}
	if err != nil {
		return err
	}
	if err := m.unowned(id, n.Credential.RefreshToken); err != nil {
		return err
	}
	err = m.apply(r, credstore.Replace{Replacement: n, Bound: m.unbound(id, r.Connection.Kind, n.Company.ID)})
	if err != nil {
		return err
	}
	if spent != nil {
		spent.UsedAt = time.Now()
	}
	for _, l := range m.links {
		l.ended = l.ended || l.ConnectionID == id
	}
	return nil
}

func (r *row) holds(n credstore.NewCredential) bool {
	c := r.Credential
	return c.APIKey.Equal(n.APIKey) && c.AccessToken.Equal(n.AccessToken) && c.RefreshToken.Equal(n.RefreshToken)
}

func (s *memoryStore) Fact(_ context.Context, name string) (value string, err error) {
	err = s.locked("fact", func() error {
		value = s.facts[name]
		return nil
	})
	return value, err
}

func (s *memoryStore) SetFact(_ context.Context, name, value string) error {
	return s.locked("set fact", func() error {
		s.facts[name] = value
		return nil
	})
}

func (s *memoryStore) Watch(ctx context.Context, changed func([]credstore.Change)) error {
	for seen := s.opened; ; {
		s.mu.Lock()
		changes, logged, closed := slices.Clone(s.log[seen:]), s.logged, s.closed
		s.mu.Unlock()
		if closed {
			return errClosed
		}
		if len(changes) > 0 {
			seen += len(changes)
			changed(changes)
		}
		select {
		case <-logged:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *memoryStore) Ping(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", credstore.ErrUnavailable, ctx.Err())
	}
	return s.enter("ping")
}

// Close ends the leases of this process, and its watching.
func (s *memoryStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, r := range s.rows {
		if r.lease != nil && r.lease.store == s {
			r.lease = nil
		}
	}
	close(s.logged)
	s.logged = make(chan struct{})
	return nil
}

func (s *memoryStore) Position(context.Context) (store string, change int64, err error) {
	if err := s.enter("position"); err != nil {
		return "", 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return "memory", int64(len(s.log) - s.lost), nil
}
