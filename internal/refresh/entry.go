package refresh

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// credentialCheckInterval spaces the questions to the API about one connection.
const credentialCheckInterval = 30 * time.Second

// entry is one connection in memory. It is found by name and by id, and lives
// until the connection is removed.
type entry struct {
	id       string
	inFlight atomic.Int64 // requests under way
	current  atomic.Pointer[snapshot]
	flight   atomic.Pointer[flight] // the refresh under way; nil when there is none

	exonerated atomic.Int64 // the version that a 401 does not lead to a refresh of
	wasUsed    atomic.Bool  // the current version has been used
	failures   atomic.Int32 // refreshes in a row that were not sent
	proven     atomic.Int64 // the version that this process obtained, or saw alive

	// latest is what this process has obtained last, for a shared store that loses
	// it after it has confirmed it; nil when it has obtained nothing.
	latest atomic.Pointer[credstore.Successor]

	mu      sync.Mutex  // guards what follows, the order of installs, and the start of flights
	timer   *time.Timer // ahead of expiry, or for the next try; nil when not set
	askedAt time.Time   // when the API was last asked about the connection
	hearing *keyCheck   // the latest one of a key; nil when there was none
	ended   int64       // the version whose grant was ended by a request; 0: none
	removed bool
}

// snapshot is what is known of a connection at one moment. It is immutable.
type snapshot struct {
	conn      credstore.Connection
	auth      *Authorization // nil when there is nothing to send
	expiresAt time.Time      // of the access token; zero when it has no known expiry
	refreshAt time.Time      // when to refresh ahead of expiry; zero when never
	retryAt   time.Time      // no refresh before this; zero when nothing stands in the way
	requested bool           // an operator waits for a refresh
}

// good reports whether the authorization may be sent at the time now.
func (s *snapshot) good(now time.Time) bool {
	if s.auth == nil || s.conn.CompanyUnverified {
		return false
	}
	switch s.conn.Status {
	case credstore.Active, credstore.Degraded:
		return s.expiresAt.IsZero() || now.Before(s.expiresAt)
	case credstore.ReauthorizationRequired:
		// What is still valid is served, but only while it is known to be.
		return now.Before(s.expiresAt)
	}
	return false
}

// refusal says why no refresh can help, or nil when one may.
func (s *snapshot) refusal() error {
	var code Code
	switch s.conn.Status {
	case credstore.Disabled:
		code = ConnectionDisabled
	case credstore.Pending:
		code = ConnectionPending
	case credstore.ReauthorizationRequired:
		code = ReauthorizationRequired
	default:
		return nil
	}
	return &Error{Code: code, Connection: s.conn.Name, ConnectionID: s.conn.ID, Version: s.conn.Version, Reason: s.conn.Reason}
}

// find returns the entry of the connection called name, loading it on first use.
func (m *Manager) find(ctx context.Context, name string) (*entry, error) {
	if e, ok := m.byName.Load(name); ok {
		return e.(*entry), nil
	}
	// The load is shared, so it must not end with the request that began it.
	load := m.loading.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		return m.load(ctx, name)
	})
	select {
	case r := <-load:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*entry), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *Manager) load(ctx context.Context, name string) (*entry, error) {
	before := m.changeCount.Load()
	conn, err := m.Store.Connections.Find(ctx, name)
	if err != nil {
		return nil, m.storeError(name, err)
	}
	state, err := m.Store.Connections.Read(ctx, conn.ID)
	if err != nil {
		return nil, m.storeError(name, err)
	}
	e := m.admit(state)
	if m.changeCount.Load() == before {
		return e, nil
	}
	// Something has changed meanwhile, perhaps this, and even gone: its notice
	// came before there was an entry to tell.
	return e, m.reread(ctx, e)
}

// admit makes sure that the connection has an entry, and that the entry knows
// the state.
func (m *Manager) admit(state credstore.State) *entry {
	fresh := &entry{id: state.Connection.ID}
	fresh.current.Store(m.snapshotOf(fresh, state)) // nobody must find it without
	found, loaded := m.byID.LoadOrStore(fresh.id, fresh)
	e := found.(*entry)
	m.install(e, state)
	// A first version was given to us: whoever did may have used it since.
	if !loaded && state.Credential.Version > 1 && e.current.Load().good(m.Now()) {
		e.proven.Store(state.Credential.Version)
	}
	m.byName.Store(state.Connection.Name, e)
	return e
}

// install makes the state the entry's current one, unless the entry knows a
// newer credential that the store has not taken yet.
func (m *Manager) install(e *entry, state credstore.State) {
	e.mu.Lock()
	defer e.mu.Unlock()
	next := e.asEnded(m.snapshotOf(e, state))
	old := e.current.Load()
	if old == nil {
		e.current.Store(next)
		return
	}
	switch known := old.conn.Version; {
	case next.conn.Version < known:
		ahead := *old
		ahead.conn.Status, ahead.conn.Reason = next.conn.Status, next.conn.Reason
		next = &ahead
	case next.conn.Version > known:
		e.wasUsed.Store(false)
		e.failures.Store(0)
	case old.auth != nil && next.auth != nil:
		// The same version: keep the expiry as the monotonic clock knows it.
		next.expiresAt, next.refreshAt = old.expiresAt, old.refreshAt
	case old.auth == nil:
		next.auth = nil // found dead since it was stored
	}
	e.current.Store(next)
}

func (m *Manager) snapshotOf(e *entry, state credstore.State) *snapshot {
	c := state.Credential
	s := &snapshot{
		conn:      state.Connection,
		expiresAt: c.ExpiresAt,
		refreshAt: m.refreshTime(c.ObtainedAt, c.ExpiresAt),
		retryAt:   state.RetryAt,
		requested: !state.RequestedAt.IsZero(),
	}
	if i := state.Intent; i != nil && i.NextAt.After(s.retryAt) {
		s.retryAt = i.NextAt
	}
	if value := pleo.AuthorizationHeader(s.conn.Kind, c); !value.IsZero() {
		s.auth = &Authorization{
			ConnectionID: s.conn.ID, Connection: s.conn.Name, Kind: s.conn.Kind, CompanyID: s.conn.CompanyID,
			Version: c.Version, Value: value, inFlight: &e.inFlight,
		}
	}
	return s
}

// forget drops the access token of the version, which the API has refused.
func (e *entry) forget(version int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := *e.current.Load()
	if s.conn.Version == version {
		s.auth = nil
		e.current.Store(&s)
	}
}

// postpone records when the next refresh may be tried.
func (e *entry) postpone(version int64, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := *e.current.Load()
	if s.conn.Version == version {
		s.retryAt = at
		e.current.Store(&s)
	}
}

// mayAsk reports whether the API may be asked about the connection again.
func (e *entry) mayAsk(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.askedAt) < credentialCheckInterval {
		return false
	}
	e.askedAt = now
	return true
}

// drop forgets a connection that was removed.
func (m *Manager) drop(e *entry) {
	m.byID.Delete(e.id)
	m.byName.CompareAndDelete(e.current.Load().conn.Name, e)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.removed = true
	e.disarm()
}

// changed reads again what other processes, or this one, have changed.
func (m *Manager) changed(changes []credstore.Change) {
	m.changeCount.Add(1)
	m.sole.Store(nil)
	for _, c := range changes {
		ctx, cancel := context.WithTimeout(m.lifetime, readTimeout)
		m.handleChange(ctx, c)
		cancel()
	}
}

// handleChange brings an entry up to date after a change, and starts the refresh that an
// operator may have requested, also of a connection that is not in memory.
func (m *Manager) handleChange(ctx context.Context, c credstore.Change) {
	found, ok := m.byID.Load(c.ID)
	if !ok && (m.Server == nil || !c.RefreshRequested) {
		return // the many changes of connections that others use cost nothing here
	}
	if !ok {
		m.takeUp(ctx, c.ID, purpose{requested: true})
		return
	}
	e := found.(*entry)
	var unread *Error
	if errors.As(m.reread(ctx, e), &unread) {
		if unread.Code == StoreUnavailable {
			m.retryChange(c)
		}
		return
	}
	if s := e.current.Load(); s.requested && m.refreshable(s) {
		m.start(e, purpose{version: s.conn.Version, requested: true})
	}
}

// refreshable reports whether this process can refresh the connection at all.
func (m *Manager) refreshable(s *snapshot) bool {
	return m.Server != nil && !s.conn.Kind.IsKey() && s.refusal() == nil
}

// retryChange reads again what could not be read when its change was told: that is
// told once.
func (m *Manager) retryChange(c credstore.Change) {
	time.AfterFunc(maxSaveRetryDelay, func() {
		if m.lifetime.Err() == nil {
			m.changed([]credstore.Change{c})
		}
	})
}

// reread brings the entry up to date with the store.
func (m *Manager) reread(ctx context.Context, e *entry) error {
	state, err := m.Store.Connections.Read(ctx, e.id)
	if errors.Is(err, credstore.ErrNotFound) {
		m.drop(e)
	}
	if err != nil {
		return m.storeError(e.current.Load().conn.Name, err)
	}
	if err := m.saveAnew(ctx, e, &state); err != nil {
		return m.storeError(state.Connection.Name, err)
	}
	m.install(e, state)
	return nil
}

// saveAnew saves what this process has obtained last if the store has lost it,
// which shows by its having the parent, and brings the state up to date.
func (m *Manager) saveAnew(ctx context.Context, e *entry, state *credstore.State) error {
	lost := e.latest.Load()
	if lost == nil || lost.Parent != state.Credential.Parent() || e.current.Load().conn.Version <= state.Credential.Version {
		return nil
	}
	_, err := m.Store.Credentials.Save(ctx, *lost)
	if err == nil {
		m.logger(e).Warn("a token pair was saved again: the store had lost it, or not taken it yet", zap.Int64("version", lost.Parent.Version+1))
		*state, err = m.Store.Connections.Read(ctx, e.id)
	}
	if errors.Is(err, credstore.ErrSuperseded) {
		return nil
	}
	return err
}

// storeError turns an error of the store into one for clients.
func (m *Manager) storeError(name string, err error) error {
	if errors.Is(err, credstore.ErrNotFound) {
		return &Error{Code: ConnectionUnknown, Connection: name}
	}
	m.metrics.storeErrors.Inc()
	return &Error{Code: StoreUnavailable, Connection: name, RetryAfter: time.Second, Err: err}
}
