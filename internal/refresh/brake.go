package refresh

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	// brakeSpan is how far back answers count.
	brakeSpan = 10 * time.Minute
	// brakeLeast is how many connections must have been refused.
	brakeLeast = 5
	// brakeShare: the brake holds when more than one answer in so many refuses.
	brakeShare = 5
	// brakeProbe is how often one refresh is let through while it holds.
	brakeProbe = 10 * time.Minute
	// trialAtOnce is how many tokens are under way at most while fewer than
	// that have been exchanged lately: if all are refused, no more are spent.
	trialAtOnce = 16
)

// brake stops spending refresh tokens when many connections are refused at
// once: then Pleo is ill, or our client, and not a hundred thousand customers.
type brake struct {
	log    *zap.Logger
	raised prometheus.Gauge

	mu      sync.Mutex // guards everything below
	answers []judged   // of the last brakeSpan, oldest first
	flying  int        // tokens under way
	holds   bool
	probeAt time.Time     // when the next probe may go, while it holds
	room    chan struct{} // closed when something changes that may make room
}

// judged is one answer that says whether a token was good.
type judged struct {
	at      time.Time
	id      string
	refused bool
}

func newBrake(log *zap.Logger, raised prometheus.Gauge) *brake {
	return &brake{log: log, raised: raised, room: make(chan struct{})}
}

// enter waits until a token may be sent. While the brake holds it returns at
// once how long that will not be. Each enter that returns 0 and nil must be
// followed by a leave.
func (b *brake) enter(ctx context.Context, now func() time.Time) (held time.Duration, err error) {
	for {
		held, room := b.try(now())
		if room == nil {
			return held, nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// isOn reports whether the brake holds.
func (b *brake) isOn() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.holds
}

// try returns a channel to wait on when there is no room yet.
func (b *brake) try(now time.Time) (held time.Duration, room <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.holds && now.Before(b.probeAt) {
		return b.probeAt.Sub(now), nil
	}
	if b.holds {
		b.probeAt = now.Add(brakeProbe)
	}
	if good, _ := b.tally(now); good < trialAtOnce && b.flying >= trialAtOnce {
		return 0, b.room
	}
	b.flying++
	return 0, nil
}

// tally counts the answers that still count, and the connections refused.
func (b *brake) tally(now time.Time) (good, refused int) {
	old := 0
	for old < len(b.answers) && now.Sub(b.answers[old].at) > brakeSpan {
		old++
	}
	b.answers = b.answers[old:]
	connections := map[string]bool{}
	for _, a := range b.answers {
		if a.refused {
			connections[a.id] = true
		}
	}
	return len(b.answers) - len(connections), len(connections)
}

// leave says that a token that was let through has had an answer. judgement is
// nil when the answer said nothing about the token. It reports whether the brake
// holds now.
func (b *brake) leave(now time.Time, judgement *judged) (holds bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flying--
	if judgement != nil {
		b.judge(now, *judgement)
	}
	close(b.room)
	b.room = make(chan struct{})
	return b.holds
}

func (b *brake) judge(now time.Time, j judged) {
	if b.holds && !j.refused {
		b.holds, b.answers = false, nil
		b.raised.Set(0)
		b.log.Info("refresh tokens are accepted again; the brake is released")
	}
	b.answers = append(b.answers, j)
	good, refused := b.tally(now)
	if b.holds || refused < brakeLeast || refused*brakeShare <= good+refused {
		return
	}
	b.holds, b.probeAt = true, now.Add(brakeProbe)
	b.raised.Set(1)
	b.log.Error("mass_refusal: many connections are refused at once, so no more refresh tokens are spent; "+
		"see whether Pleo is ill, or our client's registration or secret. One connection is tried every so often",
		zap.Int("refused", refused), zap.Int("accepted", good), zap.Duration("tried_every", brakeProbe))
}
