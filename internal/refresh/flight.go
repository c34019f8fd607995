package refresh

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// errStillRunning is what a waiter gets whose patience ended before the refresh.
var errStillRunning = errors.New("the refresh has not been answered yet")

// purpose says what a refresh is for.
type purpose struct {
	version   int64 // the version in memory that needs a successor
	rejected  bool  // the API answered 401 to that version
	ahead     bool  // nobody waits: ahead of expiry, or to keep an idle grant alive
	keepAlive bool  // whatever the access token's expiry
	requested bool  // by an operator
}

// The reasons for a refresh, as metrics and logs name them.
const (
	reasonRejected  = "rejected"
	reasonRequested = "requested"
	reasonKeepAlive = "keep_alive"
	reasonAhead     = "ahead_of_expiry"
	reasonExpired   = "expired"
)

// reasons lists every reason.
func reasons() []string {
	return []string{reasonRejected, reasonRequested, reasonKeepAlive, reasonAhead, reasonExpired}
}

// reason names the refresh in metrics and logs.
func (w purpose) reason() string {
	switch {
	case w.rejected:
		return reasonRejected
	case w.requested:
		return reasonRequested
	case w.keepAlive:
		return reasonKeepAlive
	case w.ahead:
		return reasonAhead
	default:
		return reasonExpired
	}
}

// flight is one refresh under way, and what its waiters wait for.
type flight struct {
	landed sync.Once
	done   chan struct{} // closed when the waiters may go on
	err    error         // purpose there is no newer credential; set before done is closed

	// sent is set when the refresh token is about to be sent. Until then
	// the access token that is in use is in no danger.
	presented atomic.Bool

	hurried sync.Once
	urgent  chan struct{} // closed when a request has come to wait
}

func newFlight(w purpose) *flight {
	f := &flight{done: make(chan struct{}), urgent: make(chan struct{})}
	f.hurry(w)
	return f
}

// hurry takes the flight out of the queue of background refreshes if a request
// waits for it.
func (f *flight) hurry(w purpose) {
	if !w.ahead {
		f.hurried.Do(func() { close(f.urgent) })
	}
}

// wait returns the flight's error once it has landed, errStillRunning after the
// patience, or the context's error.
func (f *flight) wait(ctx context.Context, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.err
	case <-timer.C:
		return errStillRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start joins the refresh of e that is under way, or starts one. The refresh runs
// detached from whoever asked: it has a deadline of its own, and goes on until
// what it brought is saved.
func (m *Manager) start(e *entry, w purpose) (f *flight, joined bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.flight.Load(); f != nil {
		f.hurry(w)
		return f, true
	}
	f = newFlight(w)
	if !m.begin() {
		f.err = &Error{Code: ShuttingDown, Connection: e.current.Load().conn.Name, RetryAfter: time.Second}
		close(f.done)
		return f, false
	}
	e.flight.Store(f)
	go func() {
		defer m.running.Done()
		a := &attempt{m: m, e: e, why: w, flight: f}
		err := a.run(m.lifetime)
		a.release() // first, so that who tries again finds the lease free
		a.finish(err)
	}()
	return f, false
}

// finish lets the waiters go, once.
func (a *attempt) finish(err error) {
	a.flight.landed.Do(func() {
		a.flight.err = err
		a.e.mu.Lock()
		a.e.flight.CompareAndSwap(a.flight, nil)
		a.e.mu.Unlock()
		close(a.flight.done)
		a.m.arm(a.e, err)
	})
}

// begin counts a refresh in, unless the process drains.
func (m *Manager) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.draining {
		return false
	}
	m.running.Add(1)
	return true
}

// Drain starts no refresh any more, and returns once those under way have been
// answered and what they brought is durable: in the store, or, when ctx has
// ended, at least in the spool. It may outlast ctx: the only copy of a token
// pair is never dropped.
func (m *Manager) Drain(ctx context.Context) error {
	m.mu.Lock()
	m.draining = true
	m.mu.Unlock()
	stop := context.AfterFunc(ctx, m.giveUp)
	defer stop()
	m.running.Wait()
	m.giveUp()
	return ctx.Err()
}
