package refresh

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// errInProgress is returned to a waiter that times out before the refresh ends.
var errInProgress = errors.New("the refresh is still in progress")

// purpose says what a refresh is for.
type purpose struct {
	version    int64 // the version in memory that needs a successor
	rejected   bool  // the API returned 401 for that version
	background bool  // no request waits: ahead of expiry, or to keep an idle grant alive
	keepAlive  bool  // refresh even if the access token has not expired
	requested  bool  // by an operator
}

// The reasons for a refresh, as metrics and logs name them.
const (
	reasonRejected  = "rejected"
	reasonRequested = "requested"
	reasonKeepAlive = "keep_alive"
	reasonAhead     = "ahead_of_expiry"
	reasonExpired   = "expired"
)

// reasons returns every reason.
func reasons() []string {
	return []string{reasonRejected, reasonRequested, reasonKeepAlive, reasonAhead, reasonExpired}
}

// reason names the purpose in metrics and logs.
func (p purpose) reason() string {
	switch {
	case p.rejected:
		return reasonRejected
	case p.requested:
		return reasonRequested
	case p.keepAlive:
		return reasonKeepAlive
	case p.background:
		return reasonAhead
	default:
		return reasonExpired
	}
}

// flight is one refresh in progress, and what its waiters wait for.
type flight struct {
	purpose purpose

	once    sync.Once
	release func(f *flight) // called by land before the waiters are released
	done    chan struct{}   // closed when the waiters may continue
	err     error           // why there is no newer credential; set before done is closed

	// sent is set when the refresh token is about to be sent. Until then the current
	// access token stays valid.
	sent atomic.Bool

	hurried sync.Once
	urgent  chan struct{} // closed when a request waits
}

func newFlight(p purpose, release func(*flight)) *flight {
	f := &flight{purpose: p, release: release, done: make(chan struct{}), urgent: make(chan struct{})}
	f.hurry(p)
	return f
}

// hurry takes the flight out of the queue of background refreshes if a request
// waits for it.
func (f *flight) hurry(p purpose) {
	if !p.background {
		f.hurried.Do(func() { close(f.urgent) })
	}
}

// land releases the waiters with the error. Only the first call counts: a refresh
// lands when its pair is durable, and then still has work to do.
func (f *flight) land(err error) {
	f.once.Do(func() {
		f.err = err
		f.release(f)
	})
}

// wait returns the flight's error when it has landed, errInProgress after the
// timeout, or the context's error.
func (f *flight) wait(ctx context.Context, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.err
	case <-timer.C:
		return errInProgress
	case <-ctx.Done():
		return ctx.Err()
	}
}
