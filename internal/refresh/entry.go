package refresh

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// credentialCheckInterval is the least time between two credential checks of one
// connection.
const credentialCheckInterval = 30 * time.Second

// entry is one connection in memory. It is found by name and by id, and lives
// until the connection is removed.
type entry struct {
	id       string
	inFlight atomic.Int64 // requests
	current  atomic.Pointer[snapshot]
	flight   atomic.Pointer[flight] // the refresh in progress; nil when there is none

	no401Refresh atomic.Int64 // the version that is not refreshed because of a 401 any more
	wasUsed      atomic.Bool  // the current version has been used
	failures     atomic.Int32 // refreshes in a row that were not sent
	proven       atomic.Int64 // the version that this process obtained, or loaded as its first valid one

	// latest is the pair that this process obtained last, for a shared store that
	// loses it after confirming it; nil when it obtained none.
	latest atomic.Pointer[credstore.Successor]

	mu        sync.Mutex  // guards everything below, the order of installs, and the start of flights
	timer     *time.Timer // ahead of expiry, or for the next attempt; nil when not set
	checkedAt time.Time   // the last credential check
	ended     int64       // the version whose grant was ended by a request; 0: none
	removed   bool
}

// snapshot is what is known of a connection at one moment. It is immutable.
type snapshot struct {
	conn      credstore.Connection
	auth      *Authorization // nil when there is nothing to send
	expiresAt time.Time      // of the access token; zero when it has no known expiry
	refreshAt time.Time      // when to refresh ahead of expiry; zero: never
	retryAt   time.Time      // no refresh before this; zero: any time
	requested bool           // an operator has requested a refresh
}

// snapshotOf returns the snapshot of the state. A token is refreshed ahead of its
// expiry by the margin, but never by more than a fifth of its life.
func (e *entry) snapshotOf(state credstore.State, margin time.Duration) *snapshot {
	c := state.Credential
	s := &snapshot{
		conn:      state.Connection,
		expiresAt: c.ExpiresAt,
		retryAt:   state.RetryAt,
		requested: !state.RequestedAt.IsZero(),
	}
	if life := c.ExpiresAt.Sub(c.ObtainedAt); !c.ExpiresAt.IsZero() && life > 0 {
		s.refreshAt = c.ExpiresAt.Add(-min(margin, life/5))
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

// valid reports whether the authorization may be sent at the time.
func (s *snapshot) valid(now time.Time) bool {
	if s.auth == nil || s.conn.CompanyUnverified {
		return false
	}
	switch s.conn.Status {
	case credstore.Active, credstore.Degraded:
		return s.expiresAt.IsZero() || now.Before(s.expiresAt)
	case credstore.ReauthorizationRequired:
		// A token of a rejected grant is served only while it is known to be valid.
		return now.Before(s.expiresAt)
	}
	return false
}

// due reports whether the token should be refreshed although it is valid.
func (s *snapshot) due(now time.Time) bool {
	return !s.refreshAt.IsZero() && !now.Before(s.refreshAt)
}

// newerThan returns the authorization if it is valid and newer than the rejected
// one, otherwise nil.
func (s *snapshot) newerThan(rejected *Authorization, now time.Time) *Authorization {
	if s.conn.Version > rejected.Version && s.valid(now) {
		return s.auth
	}
	return nil
}

// satisfies reports whether the snapshot is what a refresh for the purpose would
// bring. A token that is due itself is left to the next flight, so that the
// waiters of this one need not wait for it.
func (s *snapshot) satisfies(p purpose, now time.Time) bool {
	return s.conn.Version > p.version && s.valid(now) && !s.requested
}

// unusable says why no refresh can help, or returns nil if one can.
func (s *snapshot) unusable() error {
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
	return s.error(code)
}

func (s *snapshot) error(code Code) *Error {
	return &Error{Code: code, Connection: s.conn.Name, ConnectionID: s.conn.ID, Version: s.conn.Version, Reason: s.conn.Reason}
}

// retryLater is the error of a refresh that may be tried again after the delay.
func (e *entry) retryLater(delay time.Duration, cause error) error {
	s := e.current.Load()
	return &Error{Code: ServerUnavailable, Connection: s.conn.Name, Reason: s.conn.Reason, RetryAfter: delay, Err: cause}
}

// install makes next the current snapshot, unless the entry has a newer credential
// that is not saved yet.
func (e *entry) install(next *snapshot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	next = e.applyEnded(next)
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
		// The same version: keep the expiry by the monotonic clock.
		next.expiresAt, next.refreshAt = old.expiresAt, old.refreshAt
	case old.auth == nil:
		next.auth = nil // it was rejected after it was stored
	}
	e.current.Store(next)
}

// update replaces the current snapshot by a changed copy.
func (e *entry) update(change func(*snapshot)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := *e.current.Load()
	change(&s)
	e.current.Store(&s)
}

// dropAccessToken drops the access token of the version, which the API rejected.
func (e *entry) dropAccessToken(version int64) {
	e.update(func(s *snapshot) {
		if s.conn.Version == version {
			s.auth = nil
		}
	})
}

// postpone records when the next refresh of the version may be tried.
func (e *entry) postpone(version int64, at time.Time) {
	e.update(func(s *snapshot) {
		if s.conn.Version == version {
			s.retryAt = at
		}
	})
}

// revert lets the next install replace the credential although its version is
// higher than the stored one: it has been superseded.
func (e *entry) revert() {
	e.update(func(s *snapshot) { s.conn.Version, s.auth = 0, nil })
}

// end makes the version unusable, regardless of what the store says.
func (e *entry) end(version int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = version
	s := *e.current.Load()
	e.current.Store(e.applyEnded(&s))
}

// applyEnded marks the snapshot if its grant has been ended. The caller holds
// e.mu.
func (e *entry) applyEnded(s *snapshot) *snapshot {
	if e.ended == 0 || s.conn.Version != e.ended {
		return s
	}
	s.auth = nil
	if s.conn.Status != credstore.Disabled {
		s.conn.Status, s.conn.Reason = credstore.ReauthorizationRequired, credstore.ReasonUninstalled
	}
	return s
}

// mayCheck reports whether the connection's credential may be checked with the API,
// and if so reserves the check.
func (e *entry) mayCheck(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.checkedAt) < credentialCheckInterval {
		return false
	}
	e.checkedAt = now
	return true
}

// schedule stops the entry's timer and, if next returns true, sets it to call f
// after the delay.
func (e *entry) schedule(next func() (delay time.Duration, ok bool), f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	if delay, ok := next(); ok && !e.removed {
		e.timer = time.AfterFunc(delay, f)
	}
}

// remove stops the timer for good.
func (e *entry) remove() {
	e.schedule(func() (time.Duration, bool) {
		e.removed = true
		return 0, false
	}, nil)
}
