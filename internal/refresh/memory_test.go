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
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// memory is the data of a store that keeps everything in memory, shared by the
// stores of several pretended processes. It keeps the promises of
// credstore.Store, as its run of the conformance suite shows.
type memory struct {
	mu      sync.Mutex // guards everything below
	rows    map[string]*row
	facts   map[string]string
	watches map[chan string]bool
	serial  int
}

// row is one connection as stored.
type row struct {
	credstore.State
	saved credstore.Parent // what the current credential was saved onto
	fence int64
	lease *memoryLease
}

func newMemory() *memory {
	return &memory{rows: map[string]*row{}, facts: map[string]string{}, watches: map[chan string]bool{}}
}

// memoryStore is one process's store on the memory. Operations can be made to
// fail before they take effect (fail), or their answer to be lost after it
// (lose).
type memoryStore struct {
	*memory
	before, after atomic.Pointer[func(op string) error]
}

// fail asks f before each operation and answers with its error; nil ends it.
func (s *memoryStore) fail(f func(op string) error) { s.before.Store(&f) }

// lose asks f after each write has taken effect and answers with its error.
func (s *memoryStore) lose(f func(op string) error) { s.after.Store(&f) }

func (s *memoryStore) enter(op string) error { return fault(&s.before, op) }
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

// write runs f on the row with the lock held and tells the watchers.
func (s *memoryStore) write(op, id string, f func(*row) error) error {
	if err := s.enter(op); err != nil {
		return err
	}
	s.mu.Lock()
	r, ok := s.rows[id]
	err := credstore.ErrNotFound
	if ok {
		err = f(r)
	}
	if err == nil {
		s.tell(id)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.leave(op)
}

func (m *memory) tell(id string) {
	for w := range m.watches {
		w <- id
	}
}

func (s *memoryStore) Create(_ context.Context, c credstore.NewConnection) (credstore.Connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if strings.EqualFold(r.Connection.Name, c.Name) {
			return credstore.Connection{}, &credstore.Conflict{Err: credstore.ErrNameTaken, With: r.Connection.Name}
		}
		if s.bound(r, c.Kind, c.Company.ID) && !c.SharedCompany {
			return credstore.Connection{}, &credstore.Conflict{Err: credstore.ErrCompanyBound, With: r.Connection.Name}
		}
	}
	s.serial++
	r := &row{}
	r.Connection = credstore.Connection{
		ID: fmt.Sprintf("id-%d", s.serial), Name: c.Name, Kind: c.Kind, Status: credstore.Pending, Reason: credstore.ReasonNoCredential,
		CompanyID: c.Company.ID, CompanyName: c.Company.Name, Subject: c.Company.Subject, Scope: c.Scope,
		SharedCompany: c.SharedCompany, ExternalTenant: c.ExternalTenant, CreatedAt: time.Now(),
	}
	if first := c.Credential; first != nil {
		r.Credential = credstore.Credential{
			ConnectionID: r.Connection.ID, Version: 1, APIKey: first.APIKey,
			AccessToken: first.AccessToken, RefreshToken: first.RefreshToken, ExpiresAt: first.ExpiresAt, ObtainedAt: time.Now(),
		}
		r.activate(first.ExpiresAt, time.Now())
	}
	s.rows[r.Connection.ID] = r
	s.tell(r.Connection.ID)
	return r.Connection, nil
}

func (s *memoryStore) bound(r *row, kind credstore.Kind, company string) bool {
	return company != "" && !r.Connection.SharedCompany && r.Connection.Kind == kind && r.Connection.CompanyID == company
}

// activate makes the connection show its new credential.
func (r *row) activate(expires, obtained time.Time) {
	c := &r.Connection
	if c.Status != credstore.Disabled {
		c.Status, c.Reason = credstore.Active, ""
	}
	c.LastError, c.Version, c.ExpiresAt, c.RefreshedAt = nil, r.Credential.Version, expires, obtained
	r.Intent, r.RetryAt, r.Unusual, r.UnusualSince = nil, time.Time{}, 0, time.Time{}
}

func (s *memoryStore) Find(_ context.Context, name string) (credstore.Connection, error) {
	if err := s.enter("find"); err != nil {
		return credstore.Connection{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if r.Connection.Name == name {
			return r.Connection, nil
		}
	}
	return credstore.Connection{}, credstore.ErrNotFound
}

func (s *memoryStore) Read(_ context.Context, id string) (credstore.State, error) {
	if err := s.enter("read"); err != nil {
		return credstore.State{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.rows[id]
	if !ok {
		return credstore.State{}, credstore.ErrNotFound
	}
	state := r.State
	if r.Intent != nil {
		intent := *r.Intent
		state.Intent = &intent
	}
	return state, nil
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
	limit := cmp.Or(q.Limit, 50)
	var page credstore.Page
	for _, c := range s.sorted() {
		if c.Name <= q.Cursor || q.Status != "" && c.Status != q.Status || !matches(c, q.Search) {
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

func (s *memoryStore) Due(_ context.Context, before time.Time, limit int) ([]credstore.Connection, error) {
	var due []credstore.Connection
	for _, c := range s.sorted() {
		if c.Kind == credstore.OAuth && c.RefreshedAt.Before(before) && (c.Status == credstore.Active || c.Status == credstore.Degraded) {
			due = append(due, c)
		}
	}
	slices.SortFunc(due, func(a, b credstore.Connection) int { return a.RefreshedAt.Compare(b.RefreshedAt) })
	return due[:min(limit, len(due))], nil
}

func (s *memoryStore) Unsettled(_ context.Context, limit int) ([]string, error) {
	if err := s.enter("unsettled"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id, r := range s.rows {
		if r.Intent != nil || !r.RetryAt.IsZero() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids[:min(limit, len(ids))], nil
}

func (s *memoryStore) Remove(_ context.Context, id string) error {
	return s.write("remove", id, func(*row) error {
		delete(s.rows, id)
		return nil
	})
}

// memoryLease dies with its process, as a kernel lock does.
type memoryLease struct {
	store *memoryStore
	id    string
	owner string
	fence int64
}

func (l *memoryLease) ConnectionID() string     { return l.id }
func (l *memoryLease) Fence() int64             { return l.fence }
func (l *memoryLease) Owner() string            { return l.owner }
func (l *memoryLease) Remaining() time.Duration { return time.Hour }

func (l *memoryLease) Release() error {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if r, ok := l.store.rows[l.id]; ok && r.lease == l {
		r.lease = nil
	}
	return nil
}

func (s *memoryStore) Acquire(_ context.Context, id, owner string) (credstore.Lease, error) {
	if err := s.enter("acquire"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.rows[id]
	if !ok {
		return nil, credstore.ErrNotFound
	}
	if r.lease != nil {
		return nil, credstore.ErrBusy
	}
	r.lease = &memoryLease{store: s, id: id, owner: owner, fence: r.fence + 1}
	return r.lease, nil
}

// guarded runs f if the lease is held and the stored credential is parent.
func (s *memoryStore) guarded(op string, l credstore.Lease, parent credstore.Parent, f func(*row)) error {
	return s.write(op, parent.ConnectionID, func(r *row) error {
		if r.lease != l {
			return credstore.ErrLeaseLost
		}
		if r.Credential.Parent() != parent {
			return credstore.ErrSuperseded
		}
		r.fence = l.Fence()
		f(r)
		return nil
	})
}

func (s *memoryStore) Intend(_ context.Context, l credstore.Lease, parent credstore.Parent, at time.Time) (credstore.Intent, error) {
	var written credstore.Intent
	err := s.guarded("intend", l, parent, func(r *row) {
		written = credstore.Intent{FirstAt: at}
		if r.Intent != nil {
			written = *r.Intent
		}
		written.Parent, written.Owner, written.Fence, written.At = parent, l.Owner(), l.Fence(), at
		written.Outcome, written.NextAt = credstore.Sending, time.Time{}
		written.Presentations++
		intent := written
		r.Intent, r.RetryAt = &intent, time.Time{}
	})
	return written, err
}

func (s *memoryStore) Withdraw(_ context.Context, l credstore.Lease, parent credstore.Parent, f *credstore.Setback) error {
	return s.guarded("withdraw", l, parent, func(r *row) {
		if r.Intent != nil && r.Intent.Presentations > 1 {
			r.Intent.Presentations--
			r.Intent.Outcome = credstore.Unknown
		} else {
			r.Intent = nil
		}
		r.degrade(f)
	})
}

func (r *row) degrade(f *credstore.Setback) {
	if f == nil {
		return
	}
	failure := f.Failure
	r.Connection.LastError = &failure
	if r.Connection.Status == credstore.Active || r.Connection.Status == credstore.Degraded {
		r.Connection.Status, r.Connection.Reason = credstore.Degraded, f.Reason
	}
	r.RetryAt = f.RetryAt
	if r.Intent != nil && r.Intent.Outcome == credstore.Unknown {
		r.Intent.NextAt = f.RetryAt
	}
	if !f.Unusual {
		return
	}
	if r.Unusual++; r.Unusual == 1 {
		r.UnusualSince = failure.At
	}
}

func (s *memoryStore) Doubt(_ context.Context, l credstore.Lease, parent credstore.Parent, f credstore.Setback) error {
	return s.guarded("doubt", l, parent, func(r *row) {
		if r.Intent != nil {
			r.Intent.Outcome = credstore.Unknown
		}
		r.degrade(&f)
	})
}

func (s *memoryStore) Save(_ context.Context, n credstore.Successor) (credstore.Connection, error) {
	var conn credstore.Connection
	err := s.write("save", n.Parent.ConnectionID, func(r *row) error {
		again := r.saved == n.Parent && r.Credential.RefreshToken.Equal(n.RefreshToken) && r.Credential.Version == n.Parent.Version+1
		if r.Credential.Parent() != n.Parent && !again {
			return credstore.ErrSuperseded
		}
		if !again {
			r.succeed(n)
		}
		conn = r.Connection
		return nil
	})
	if err == credstore.ErrNotFound { //nolint:errorlint // made just above
		err = credstore.ErrSuperseded
	}
	return conn, err
}

func (r *row) succeed(n credstore.Successor) {
	c := &r.Credential
	r.saved = n.Parent
	c.Version++
	c.AccessToken, c.RefreshToken, c.ExpiresAt, c.ObtainedAt = n.AccessToken, n.RefreshToken, n.ExpiresAt, n.ObtainedAt
	c.RefusedAt, c.ForcedStreak, c.ForcedAt = time.Time{}, n.ForcedStreak, n.ForcedAt
	r.Connection.Scope = cmp.Or(n.Scope, r.Connection.Scope)
	r.activate(n.ExpiresAt, n.ObtainedAt)
}

func (s *memoryStore) Condemn(_ context.Context, l credstore.Lease, parent credstore.Parent, f credstore.Failure, reason string, dropAccess bool) error {
	return s.guarded("condemn", l, parent, func(r *row) {
		if r.Connection.Status != credstore.Disabled {
			r.Connection.Status, r.Connection.Reason = credstore.ReauthorizationRequired, reason
		}
		r.Connection.LastError = &f
		r.Intent, r.RetryAt, r.Credential.RefusedAt = nil, time.Time{}, f.At
		if dropAccess {
			r.Credential.AccessToken = credstore.Secret{}
		}
	})
}

func (s *memoryStore) Identify(_ context.Context, id string, company credstore.Company) error {
	var conflict error
	err := s.write("identify", id, func(r *row) error {
		for other, o := range s.rows {
			if other != id && s.bound(o, r.Connection.Kind, company.ID) && !r.Connection.SharedCompany {
				r.Connection.Status, r.Connection.Reason = credstore.Disabled, credstore.ReasonCompany
				conflict = &credstore.Conflict{Err: credstore.ErrCompanyBound, With: o.Connection.Name}
				return nil
			}
		}
		r.Connection.CompanyID, r.Connection.CompanyName, r.Connection.Subject = company.ID, company.Name, company.Subject
		return nil
	})
	return cmp.Or(err, conflict)
}

func (s *memoryStore) Fact(_ context.Context, name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts[name], nil
}

func (s *memoryStore) SetFact(_ context.Context, name, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.facts[name] = value
	return nil
}

func (s *memoryStore) Watch(ctx context.Context, changed func([]string)) error {
	w := make(chan string, 100_000) // never blocks a writer
	s.mu.Lock()
	s.watches[w] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watches, w)
		s.mu.Unlock()
	}()
	for {
		select {
		case id := <-w:
			changed([]string{id})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *memoryStore) Ping(context.Context) error { return s.enter("ping") }

// Close ends the leases of this process.
func (s *memoryStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if r.lease != nil && r.lease.store == s {
			r.lease = nil
		}
	}
	return nil
}
