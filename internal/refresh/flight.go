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
	version int64 // the version in memory that needs a successor
	reason  reason
}

// reason is why a refresh was started, as metrics and logs name it.
type reason string

const (
	reasonExpired   reason = "expired"         // the token of a request
	reasonRejected  reason = "rejected"        // the API returned 401 for the token of a request
	reasonRequested reason = "requested"       // by an operator
	reasonAhead     reason = "ahead_of_expiry" // or after a failure; no request waits
	reasonKeepAlive reason = "keep_alive"      // an idle grant grows old
)

// reasons returns every reason.
func reasons() []reason {
	return []reason{reasonExpired, reasonRejected, reasonRequested, reasonAhead, reasonKeepAlive}
}

// background reports whether no request waits for such a refresh.
func (r reason) background() bool { return r == reasonAhead || r == reasonKeepAlive }

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

	urgent chan struct{} // closed when a request waits
	hurry  func()        // closes urgent, once
}

func newFlight(p purpose, release func(*flight)) *flight {
	f := &flight{purpose: p, release: release, done: make(chan struct{}), urgent: make(chan struct{})}
	f.hurry = sync.OnceFunc(func() { close(f.urgent) })
	f.join(p.reason)
	return f
}

// join takes the flight out of the queue of background refreshes if a request
// waits for it.
func (f *flight) join(r reason) {
	if !r.background() {
		f.hurry()
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
