package refresh

import (
	"context"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// A refresh ahead of expiry waits for a moment without requests under way,
	// until idleWaitLimit ahead of the expiry.
	idlePollInterval = 250 * time.Millisecond
	idleWaitLimit    = 30 * time.Second

	// keepAliveAge is the age at which an idle grant is refreshed, give or take
	// keepAliveJitter: Pleo promises 60 days, a week leaves room for trouble.
	keepAliveAge       = 7 * 24 * time.Hour
	keepAliveJitter    = 12 * time.Hour
	keepAliveInterval  = 10 * time.Minute
	keepAliveBatchSize = 200
	// Processes that share a store refresh ahead of expiry up to maxSpread apart,
	// and within a part of the time that is left: mostly one does, and tells the
	// others.
	maxSpread     = 15 * time.Second
	spreadDivisor = 4
	// maxUnsettled is how many unsettled refreshes a start takes up. The others
	// wait for a request, or for the keep-alive.
	maxUnsettled = 10_000
)

// refreshTime is when a token should be refreshed ahead of its expiry: the
// configured margin before it, but never more than a fifth of the token's life.
func (m *Manager) refreshTime(obtained, expires time.Time) time.Time {
	life := expires.Sub(obtained)
	if expires.IsZero() || life <= 0 {
		return time.Time{}
	}
	return expires.Add(-min(m.BeforeExpiry, life/5))
}

// used notes that the current version is in use, and so is worth a refresh
// ahead of its expiry.
func (m *Manager) used(e *entry, s *snapshot) {
	if s.refreshAt.IsZero() || e.wasUsed.Load() || e.wasUsed.Swap(true) {
		return
	}
	m.arm(e, nil)
}

// arm sets the entry's timer for its next refresh, if it needs one: after a
// setback, or ahead of the expiry of a token in use. failed is why the refresh
// that has just ended brought nothing; nil if it did, or there was none.
func (m *Manager) arm(e *entry, failed error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.disarm()
	at := m.nextRefresh(e, failed)
	if at.IsZero() || e.removed || m.lifetime.Err() != nil {
		return
	}
	e.timer = time.AfterFunc(max(at.Sub(m.Now()), 0), func() { m.tick(e) })
}

// nextRefresh is when the entry should be refreshed next without being asked
// to, or zero.
func (m *Manager) nextRefresh(e *entry, failed error) time.Time {
	s := e.current.Load()
	if !m.refreshable(s) {
		return time.Time{}
	}
	now := m.Now()
	if s.requested && failed == nil {
		return now // it came while another refresh was under way
	}
	if s.retryAt.After(now) {
		return s.retryAt
	}
	var unavailable *Error
	if errors.As(failed, &unavailable) {
		return now.Add(max(unavailable.RetryAfter, time.Second))
	}
	if !e.wasUsed.Load() {
		return time.Time{}
	}
	return s.refreshAt.Add(m.spread(s))
}

// spread is how much later than the others this process begins.
func (m *Manager) spread(s *snapshot) time.Duration {
	most := min(s.expiresAt.Sub(s.refreshAt)/spreadDivisor, maxSpread)
	if !m.Shared || most <= 0 {
		return 0
	}
	return m.Jitter(most)
}

// disarm stops the timer. The caller holds e.mu.
func (e *entry) disarm() {
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
}

// tick starts the refresh that the timer was set for, or waits for a quieter
// moment.
func (m *Manager) tick(e *entry) {
	s := e.current.Load()
	now := m.Now()
	if !s.requested && !s.retryAt.After(now) && e.inFlight.Load() > 0 && s.expiresAt.Sub(now) > idleWaitLimit {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.removed {
			e.timer = time.AfterFunc(idlePollInterval, func() { m.tick(e) })
		}
		return
	}
	m.start(e, purpose{version: s.conn.Version, ahead: !s.requested, requested: s.requested})
}

// Run watches the store for changes, brings in what earlier processes left in
// the spool, takes up unsettled refreshes, and keeps idle grants alive, until
// ctx ends. It returns ctx's error.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Store.Changes.Watch(ctx, m.changed) })
	if m.Server != nil {
		g.Go(func() error { return m.replaySpool(ctx) })
		g.Go(func() error { return m.resume(ctx) })
		if m.guard != nil {
			g.Go(func() error { return m.guard.Run(ctx) })
		}
		g.Go(func() error { return m.keepAlive(ctx) })
	}
	return g.Wait()
}

// spoolStore is the part of the store that the spool uses.
type spoolStore struct {
	credstore.Connections
	credstore.Credentials
}

// replaySpool saves what earlier processes left, but not into a store that waits
// to be accepted: in one that is too old every pair would pass for superseded, and
// be dropped.
func (m *Manager) replaySpool(ctx context.Context) error {
	if err := m.guard.WaitTrusted(ctx); err != nil {
		return err
	}
	return m.Spool.Replay(ctx, spoolStore{m.Store.Connections, m.Store.Credentials}, m.Logger, m.spooled())
}

// resume takes up the refreshes that an earlier process left unsettled.
func (m *Manager) resume(ctx context.Context) error {
	for {
		ids, err := m.Store.Credentials.Unsettled(ctx, maxUnsettled)
		if err == nil {
			for _, id := range ids {
				m.takeUp(ctx, id, purpose{ahead: true})
			}
			return nil
		}
		if err := pause(ctx, maxSaveRetryDelay); err != nil {
			return err
		}
	}
}

// keepAlive refreshes grants that nobody uses before they grow too old.
func (m *Manager) keepAlive(ctx context.Context) error {
	for {
		now := m.Now()
		due, err := m.Store.Credentials.Due(ctx, now.Add(keepAliveJitter-keepAliveAge), keepAliveBatchSize)
		if err != nil && !errors.Is(err, context.Canceled) {
			m.metrics.storeErrors.Inc()
		}
		if m.Shared { // so that others begin elsewhere
			rand.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] }) //nolint:gosec // their order is no secret
		}
		for _, c := range due {
			if grownOld(c, now) {
				m.takeUp(ctx, c.ID, purpose{ahead: true, keepAlive: true})
			}
		}
		if err := pause(ctx, keepAliveInterval); err != nil {
			return err
		}
	}
}

// grownOld reports whether an idle grant should be refreshed.
func grownOld(c credstore.Connection, now time.Time) bool {
	return now.Sub(c.RefreshedAt) >= keepAliveAge-jitter(c.ID)
}

// jitter spreads connections that were connected at once, up to
// keepAliveJitter; it is the same for a connection each time.
func jitter(id string) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return time.Duration(h.Sum32()) % keepAliveJitter
}

// takeUp starts a refresh of a connection that may not be in memory yet. One
// that was taken for requested, and is not, is left alone.
func (m *Manager) takeUp(ctx context.Context, id string, w purpose) {
	state, err := m.Store.Connections.Read(ctx, id)
	if err != nil {
		return // removed, or the store is away: the next round finds it again
	}
	requested := !state.RequestedAt.IsZero()
	if w.requested && !requested || w.keepAlive && !requested && !grownOld(state.Connection, m.Now()) {
		return // somebody else has seen to it
	}
	e := m.admit(state)
	w.version = state.Credential.Version
	if requested && m.refreshable(e.current.Load()) {
		m.start(e, purpose{version: w.version, requested: true})
		return
	}
	if left := e.current.Load().retryAt.Sub(m.Now()); left > 0 {
		m.arm(e, nil)
		return
	}
	m.start(e, w)
}
