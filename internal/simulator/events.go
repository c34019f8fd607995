package simulator

import (
	"context"
	"sync"
	"time"
)

// The phases of a token request, in their order.
const (
	PhaseReceived  = "received"  // read and understood, nothing has changed yet
	PhaseDelayed   = "held"      // a delay or a hang keeps it from going on, before or after its commit
	PhaseCommitted = "committed" // the grant has changed: the old token is spent
	PhaseRejected  = "refused"   // nothing is given; a grant may have been revoked
	PhaseResponded = "answered"  // the answer is about to be written, or the connection to be ended
)

// Event is one step of one token request.
type Event struct {
	Seq       int64     `json:"seq"` // 1, 2, 3, … over all events
	Time      time.Time `json:"time"`
	Phase     string    `json:"phase"`
	GrantType string    `json:"grant_type"`
	Grant     string    `json:"grant,omitempty"`
	Company   string    `json:"company_id,omitempty"`
	TokenHash string    `json:"token_hash,omitempty"` // of the refresh token presented, SHA-256 in hexadecimal
	RequestID string    `json:"request_id"`           // the request-Id of the answer
	Outcome   string    `json:"outcome,omitempty"`    // answered: the status, or how the connection ended
}

// maxEvents is how many events can be asked for again.
const maxEvents = 10_000

// eventLog keeps the latest events and wakes those who wait for one. All
// methods may be called at once.
type eventLog struct {
	mu     sync.Mutex // guards all below
	events []Event
	seq    int64
	grown  chan struct{} // closed when an event is added, and replaced
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
		default: // a reader that does not read must not hold up the server
		}
	}
	close(l.grown)
	l.grown = make(chan struct{})
}

// subscribe returns a channel of the events from now on. Who lets 1,024 events
// wait misses the next ones. stop ends the subscription.
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

// await returns the events after a number that match, as soon as there is one,
// and the number of the last event looked at. When the context ends it returns
// none.
func (l *eventLog) await(ctx context.Context, after int64, match func(Event) bool) (found []Event, last int64) {
	for {
		events, grown := l.since(after)
		for _, e := range events {
			after = e.Seq
			if match(e) {
				found = append(found, e)
			}
		}
		if len(found) > 0 {
			return found, after
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, after
		}
	}
}

// since copies the events after a number; grown is closed when there are more.
func (l *eventLog) since(after int64) (events []Event, grown <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.events); i > 0 && l.events[i-1].Seq > after; i-- {
		events = l.events[i-1:]
	}
	return append([]Event(nil), events...), l.grown
}
