// Package breaker stops refreshing after mass rejection.
//
// Many rejections at once are more likely a fault of the authorization server or
// of our client's registration than a decision of many customers, and each
// further refresh token that is sent could end another grant. A [Breaker] is
// closed at first. It opens when at least 5 connections and over a fifth of the
// responses of the last 10 minutes, or of the latest 25, were rejections. Then it
// lets one refresh through every 10 minutes; the first of these that is accepted
// closes it.
//
// It also limits how many tokens are in flight while the server has not shown
// that it accepts tokens: if all are rejected, no more than 16 are lost.
//
// General circuit breakers such as sony/gobreaker count consecutive failures or a
// ratio of requests. They know neither how many different connections are
// affected, nor a limit of unproven requests in flight, and cannot ignore the
// results of requests that were in flight when the breaker opened.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/broadcast"
)

const (
	// ProbeInterval is how often one refresh is let through while the breaker is
	// open.
	ProbeInterval = 10 * time.Minute
	// MinConnections is how many connections must be rejected before it opens.
	MinConnections = 5

	window = 10 * time.Minute // how long a response counts
	// The breaker opens when more than one response in minShare is a rejection.
	minShare = 5
	// recentResponses are judged by themselves too: after a busy time without
	// rejections it would take hundreds of them to reach the share.
	recentResponses = 25
	// At most maxUnproven tokens are in flight unless as many were accepted within
	// unprovenWindow.
	maxUnproven    = 16
	unprovenWindow = 10 * time.Second
)

// ErrOpen says that the breaker is open. The errors of [Breaker.Allow] match it.
var ErrOpen = errors.New("many connections were rejected at once, so refreshes are stopped for now")

// OpenError says when the breaker lets the next refresh through. It matches
// [ErrOpen].
type OpenError struct{ RetryAfter time.Duration }

func (e *OpenError) Error() string {
	return fmt.Sprintf("%v; the next one is allowed in %v", ErrOpen, e.RetryAfter)
}

// Unwrap returns [ErrOpen].
func (e *OpenError) Unwrap() error { return ErrOpen }

// Result is what the outcome of a refresh says about the authorization server and
// our client.
type Result int

// The results of a refresh.
const (
	Inconclusive Result = iota // nothing
	Accepted
	Rejected
)

// Breaker is a circuit breaker for refreshes. Its methods may be called by
// several goroutines at once.
type Breaker struct {
	log   *zap.Logger
	gauge prometheus.Gauge // 1 while open
	now   func() time.Time

	changed broadcast.Signal // when a token in flight has had its response

	mu        sync.Mutex // guards everything below
	responses []response // of the window, oldest first
	inFlight  int
	open      bool
	probeAt   time.Time // when the next probe is let through, while open
}

// response is one response that shows whether a token was accepted.
type response struct {
	at         time.Time
	connection string
	rejected   bool
}

// New returns a closed Breaker. It keeps gauge at 1 while it is open.
func New(log *zap.Logger, gauge prometheus.Gauge, now func() time.Time) *Breaker {
	return &Breaker{log: log, gauge: gauge, now: now}
}

// Permit is the right to send one refresh token. [Breaker.Record] must be called
// with it once.
type Permit struct{ probe bool }

// Allow waits until a refresh token may be sent. It returns an [OpenError] at
// once while the breaker is open, except when a probe is due, and ctx's error if
// that ends first.
func (b *Breaker) Allow(ctx context.Context) (Permit, error) {
	for {
		changed := b.changed.Wait()
		permit, ok, err := b.try()
		if ok || err != nil {
			return permit, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Permit{}, ctx.Err()
		}
	}
}

// try reports false while too many tokens are in flight.
func (b *Breaker) try() (permit Permit, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if b.open {
		if left := b.probeAt.Sub(now); left > 0 {
			return permit, false, &OpenError{RetryAfter: left}
		}
		b.probeAt = now.Add(ProbeInterval)
	} else if b.inFlight >= maxUnproven && !b.proven(now) {
		return permit, false, nil
	}
	b.inFlight++
	return Permit{probe: b.open}, true, nil
}

// proven reports whether the latest responses are recent and all accept.
func (b *Breaker) proven(now time.Time) bool {
	if len(b.responses) < maxUnproven {
		return false
	}
	return !slices.ContainsFunc(b.responses[len(b.responses)-maxUnproven:], func(r response) bool {
		return r.rejected || now.Sub(r.at) > unprovenWindow
	})
}

// Open reports whether the breaker is open.
func (b *Breaker) Open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// Record ends the use of a permit with the result of the connection's refresh. It
// reports whether the breaker is open now.
func (b *Breaker) Record(permit Permit, connection string, result Result) (open bool) {
	defer b.changed.Broadcast()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight--
	switch {
	case result == Inconclusive:
	case !b.open:
		b.add(response{at: b.now(), connection: connection, rejected: result == Rejected})
	case permit.probe && result == Accepted:
		// Refreshes that were in flight when it opened say nothing about now.
		b.close()
	}
	return b.open
}

func (b *Breaker) add(r response) {
	b.responses = slices.DeleteFunc(append(b.responses, r), func(old response) bool { return r.at.Sub(old.at) > window })
	recent := b.responses[max(len(b.responses)-recentResponses, 0):]
	if r.rejected && (tooMany(b.responses) || tooMany(recent)) {
		b.trip(r.at)
	}
}

// tooMany reports whether more of the responses are rejections than the decisions
// of single customers account for.
func tooMany(responses []response) bool {
	rejections, connections := 0, map[string]bool{}
	for _, r := range responses {
		if r.rejected {
			rejections++
			connections[r.connection] = true
		}
	}
	return len(connections) >= MinConnections && rejections*minShare > len(responses)
}

func (b *Breaker) trip(now time.Time) {
	b.open, b.probeAt, b.responses = true, now.Add(ProbeInterval), nil
	b.gauge.Set(1)
	b.log.Error("circuit breaker opened: many connections were rejected at once, so refreshes are stopped; "+
		"check Pleo's status and our client's registration and secret",
		zap.Duration("probe_interval", ProbeInterval))
}

func (b *Breaker) close() {
	b.open = false
	b.gauge.Set(0)
	b.log.Info("circuit breaker closed: refresh tokens are accepted again")
}
