package simulator

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// The phases of a token request, in their order.
const (
	PhaseReceived  = "received"  // parsed; nothing has changed yet
	PhaseDelayed   = "delayed"   // a delay or a hang stops it, before or after its commit
	PhaseCommitted = "committed" // the grant has changed: the old token is used
	PhaseRejected  = "rejected"  // nothing is issued; a grant may have been revoked
	PhaseResponded = "responded" // the response is about to be written, or the connection to be closed
)

// Event is one phase of one token request.
type Event struct {
	Seq       int64 // 1, 2, 3, … over all events
	Time      time.Time
	Phase     string
	GrantType string
	Grant     string // id; empty: unknown
	Company   string // id; empty: unknown
	TokenHash string // of the refresh token that was sent: SHA-256 in hexadecimal
	RequestID string // the request-Id of the response
	Outcome   string // in phase responded: the status code, or how the connection was closed
}

// maxEvents is how many events can be awaited after the fact.
const maxEvents = 10_000

// eventLog keeps the latest events and passes them to those who wait for them.
// It is safe for concurrent use.
type eventLog struct {
	mu     sync.Mutex // guards all below
	events []Event
	seq    int64
	grown  chan struct{} // closed and replaced when an event is added
	subs   map[chan Event]bool
}

func newEventLog() *eventLog {
	return &eventLog{grown: make(chan struct{}), subs: map[chan Event]bool{}}
}

func (l *eventLog) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e.Seq = l.seq
	if len(l.events) == maxEvents {
		l.events = append(l.events[:0], l.events[maxEvents/2:]...)
	}
	l.events = append(l.events, e)
	for sub := range l.subs {
		select {
		case sub <- e:
		default: // a receiver that does not read must not block the server
		}
	}
	close(l.grown)
	l.grown = make(chan struct{})
}

// subscribe returns a channel of the events from now on, which buffers 1,024.
// stop ends the subscription.
func (l *eventLog) subscribe() (events <-chan Event, stop func()) {
	sub := make(chan Event, 1024)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subs[sub] = true
	return sub, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.subs, sub)
	}
}

// await returns the first event with a number above after that matches. It waits
// for one until the context ends.
func (l *eventLog) await(ctx context.Context, after int64, match func(Event) bool) (Event, error) {
	for {
		events, grown := l.since(after)
		for _, e := range events {
			if match(e) {
				return e, nil
			}
			after = e.Seq
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return Event{}, fmt.Errorf("waiting for an event: %w", ctx.Err())
		}
	}
}

// since copies the events with a number above after. grown is closed when there
// are more.
func (l *eventLog) since(after int64) (events []Event, grown <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.events); i > 0 && l.events[i-1].Seq > after; i-- {
		events = l.events[i-1:]
	}
	return append([]Event(nil), events...), l.grown
}
