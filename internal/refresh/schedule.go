package refresh

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// A refresh ahead of expiry waits for a moment without requests in flight, until
	// idleWaitLimit before the expiry.
	idlePollInterval = 250 * time.Millisecond
	idleWaitLimit    = 30 * time.Second

	keepAliveInterval  = 10 * time.Minute
	keepAliveBatchSize = 200
	// Processes that share a store refresh ahead of expiry up to maxSpread apart, and
	// within a fraction of the time that is left: mostly one refreshes, and the others
	// read the result.
	maxSpread     = 15 * time.Second
	spreadDivisor = 4
	// maxUnsettled is how many unsettled refreshes are resumed at a start. The others
	// wait for a request, or for the keep-alive.
	maxUnsettled = 10_000
)

// scheduler starts refreshes: one per connection at a time, on demand, ahead of
// expiry, after failures, for operators, and to keep idle grants alive.
type scheduler struct {
	*core
	refresher *refresher
}

// start joins the refresh of the entry that is in progress, or starts one. The
// refresh is detached from the caller: it has a timeout of its own, and continues
// until its result is saved.
func (s *scheduler) start(e *entry, p purpose) (f *flight, joined bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.flight.Load(); f != nil {
		f.join(p.reason)
		return f, true
	}
	f = newFlight(p, func(f *flight) { s.landed(e, f) })
	e.flight.Store(f)
	if !s.life.run(func() { s.refresher.run(s.life.ctx, e, f) }) {
		e.flight.Store(nil)
		f.err = &Error{Code: ShuttingDown, Connection: e.current.Load().conn.Name, RetryAfter: time.Second}
		close(f.done)
	}
	return f, false
}

// landed releases the waiters of a refresh and schedules the next one.
func (s *scheduler) landed(e *entry, f *flight) {
	e.mu.Lock()
	e.flight.CompareAndSwap(f, nil)
	e.mu.Unlock()
	close(f.done)
	s.arm(e, f.err)
}

// arm sets the entry's timer for its next refresh, if it needs one: after a
// failure, or ahead of the expiry of a token in use. failed is why the refresh that
// has just ended brought nothing; nil if it brought a pair, or there was none.
func (s *scheduler) arm(e *entry, failed error) {
	e.schedule(func() (time.Duration, bool) {
		now := s.Now()
		at := s.nextRefresh(e, now, failed)
		return max(at.Sub(now), 0), !at.IsZero() && s.life.ctx.Err() == nil
	}, func() { s.fire(e) })
}

// nextRefresh returns when the entry should be refreshed next without a request
// for it, or zero.
func (s *scheduler) nextRefresh(e *entry, now time.Time, failed error) time.Time {
	current := e.current.Load()
	var unavailable *Error
	switch {
	case !s.canRefresh(current):
		return time.Time{}
	case current.requested && failed == nil:
		return now // it was requested while another refresh was in progress
	case current.retryAt.After(now):
		return current.retryAt
	case errors.As(failed, &unavailable):
		return now.Add(max(unavailable.RetryAfter, time.Second))
	case !e.wasUsed.Load():
		return time.Time{}
	}
	return current.refreshAt.Add(s.spread(current))
}

// canRefresh reports whether this process can refresh the connection at all.
func (s *scheduler) canRefresh(current *snapshot) bool {
	return s.Server != nil && !current.conn.Kind.IsKey() && current.unusable() == nil
}

// spread is how much later than other processes this one refreshes.
func (s *scheduler) spread(current *snapshot) time.Duration {
	most := min(current.expiresAt.Sub(current.refreshAt)/spreadDivisor, maxSpread)
	if !s.Shared || most <= 0 {
		return 0
	}
	return s.Jitter(most)
}

// fire starts the refresh that the timer was set for, or waits for a moment
// without requests in flight.
func (s *scheduler) fire(e *entry) {
	current, now, why := e.current.Load(), s.Now(), reasonAhead
	if current.requested {
		why = reasonRequested
	} else if !current.retryAt.After(now) && e.inFlight.Load() > 0 && current.expiresAt.Sub(now) > idleWaitLimit {
		e.schedule(func() (time.Duration, bool) { return idlePollInterval, true }, func() { s.fire(e) })
		return
	}
	s.start(e, purpose{current.conn.Version, why})
}

// used records that the current version is in use, and so is refreshed ahead of
// its expiry.
func (s *scheduler) used(e *entry, current *snapshot) {
	if current.refreshAt.IsZero() || e.wasUsed.Load() || e.wasUsed.Swap(true) {
		return
	}
	s.arm(e, nil)
}

// resume starts the refreshes that an earlier process left unsettled.
func (s *scheduler) resume(ctx context.Context) error {
	for {
		ids, err := s.Store.Unsettled(ctx, maxUnsettled)
		if err == nil {
			for _, id := range ids {
				s.startByID(ctx, id, reasonAhead)
			}
			return nil
		}
		if err := pause(ctx, maxSaveRetryDelay); err != nil {
			return err
		}
	}
}

// keepAlive refreshes idle grants before they grow too old.
func (s *scheduler) keepAlive(ctx context.Context) error {
	for {
		now := s.Now()
		due, err := s.Store.Due(ctx, now.Add(keepAliveJitter-keepAliveAge), keepAliveBatchSize)
		if err != nil && !errors.Is(err, context.Canceled) {
			s.metrics.storeErrors.Inc()
		}
		if s.Shared { // so that other processes begin with other connections
			rand.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] }) //nolint:gosec // the order is no secret
		}
		for _, c := range due {
			if needsKeepAlive(c, now) {
				s.startByID(ctx, c.ID, reasonKeepAlive)
			}
		}
		if err := pause(ctx, keepAliveInterval); err != nil {
			return err
		}
	}
}

// startByID starts a refresh of a connection that may not be in memory. A
// connection that no longer needs one is left alone.
func (s *scheduler) startByID(ctx context.Context, id string, why reason) {
	state, err := s.Store.Read(ctx, id)
	if err != nil {
		return // it was removed, or the next round finds it again
	}
	requested := !state.RequestedAt.IsZero()
	if why == reasonRequested && !requested || why == reasonKeepAlive && !requested && !needsKeepAlive(state.Connection, s.Now()) {
		return // another process has refreshed it
	}
	e := s.cache.add(state)
	version, current := state.Credential.Version, e.current.Load()
	switch {
	case requested && s.canRefresh(current):
		s.start(e, purpose{version, reasonRequested})
	case current.retryAt.After(s.Now()):
		s.arm(e, nil)
	default:
		s.start(e, purpose{version, why})
	}
}

// changed brings connections up to date that other processes, or this one, have
// changed.
func (s *scheduler) changed(changes []credstore.Change) {
	s.cache.changes.Add(1)
	for _, c := range changes {
		ctx, cancel := context.WithTimeout(s.life.ctx, readTimeout)
		s.handleChange(ctx, c)
		cancel()
	}
}

// handleChange brings an entry up to date, and starts the refresh that an operator
// may have requested, even of a connection that is not in memory.
func (s *scheduler) handleChange(ctx context.Context, c credstore.Change) {
	e := s.cache.get(c.ID)
	if e == nil {
		// Changes of connections that other processes use cost nothing here.
		if s.Server != nil && c.RefreshRequested {
			s.startByID(ctx, c.ID, reasonRequested)
		}
		return
	}
	var failed *Error
	if errors.As(s.cache.reread(ctx, e), &failed) {
		if failed.Code == StoreUnavailable {
			s.retryChange(c)
		}
		return
	}
	if current := e.current.Load(); current.requested && s.canRefresh(current) {
		s.start(e, purpose{current.conn.Version, reasonRequested})
	}
}

// retryChange handles a change again that could not be read: the store reports it
// only once.
func (s *scheduler) retryChange(c credstore.Change) {
	time.AfterFunc(maxSaveRetryDelay, func() {
		if s.life.ctx.Err() == nil {
			s.changed([]credstore.Change{c})
		}
	})
}
