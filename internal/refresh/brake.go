package refresh

import (
	"context"
	"slices"
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
	// brakeLatest: the same is asked of so many of the latest answers, or it
	// would take hundreds of refusals to outweigh a busy time without any.
	brakeLatest = 25
	// trialAtOnce is how many tokens are under way at most while fewer than that
	// have been exchanged in the last trialSpan: if all are refused, no more are
	// spent.
	trialAtOnce = 16
	trialSpan   = 10 * time.Second
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
// once how long that will not be, but for a probe. Each enter that returns 0 and
// nil must be followed by a leave.
func (b *brake) enter(ctx context.Context, now func() time.Time) (held time.Duration, probe bool, err error) {
	for {
		held, probe, room := b.try(now())
		if room == nil {
			return held, probe, nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return 0, false, ctx.Err()
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
func (b *brake) try(now time.Time) (held time.Duration, probe bool, room <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.holds && now.Before(b.probeAt) {
		return b.probeAt.Sub(now), false, nil
	}
	if b.holds {
		b.probeAt = now.Add(brakeProbe)
	} else if b.flying >= trialAtOnce && !b.onTrack(now) {
		return 0, false, b.room
	}
	b.flying++
	return 0, b.holds, nil
}

// onTrack reports whether the latest trialAtOnce answers are fresh and good.
func (b *brake) onTrack(now time.Time) bool {
	if len(b.answers) < trialAtOnce {
		return false
	}
	for _, a := range b.answers[len(b.answers)-trialAtOnce:] {
		if a.refused || now.Sub(a.at) > trialSpan {
			return false
		}
	}
	return true
}

// tooMany reports whether the answers hold more refusals than single customers
// account for.
func tooMany(answers []judged) bool {
	refusals, connections := 0, map[string]bool{}
	for _, a := range answers {
		if a.refused {
			refusals++
			connections[a.id] = true
		}
	}
	return len(connections) >= brakeLeast && refusals*brakeShare > len(answers)
}

// leave says that a token that was let through has had an answer. judgement is
// nil when the answer said nothing about the token. It reports whether the brake
// holds now.
func (b *brake) leave(now time.Time, probe bool, judgement *judged) (holds bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flying--
	if judgement != nil {
		b.judge(now, probe, *judgement)
	}
	close(b.room)
	b.room = make(chan struct{})
	return b.holds
}

func (b *brake) judge(now time.Time, probe bool, j judged) {
	if b.holds {
		// What was under way when it began to hold says nothing about now.
		if probe && !j.refused {
			b.release()
		}
		return
	}
	b.answers = append(b.answers, j)
	old := slices.IndexFunc(b.answers, func(a judged) bool { return now.Sub(a.at) <= brakeSpan })
	b.answers = b.answers[max(old, 0):]
	latest := b.answers[max(len(b.answers)-brakeLatest, 0):]
	if j.refused && (tooMany(b.answers) || tooMany(latest)) {
		b.hold(now)
	}
}

func (b *brake) hold(now time.Time) {
	b.holds, b.probeAt, b.answers = true, now.Add(brakeProbe), nil
	b.raised.Set(1)
	b.log.Error("mass_refusal: many connections are refused at once, so no more refresh tokens are spent; "+
		"see whether Pleo is ill, or our client's registration or secret. One connection is tried every so often",
		zap.Duration("tried_every", brakeProbe))
}

func (b *brake) release() {
	b.holds = false
	b.raised.Set(0)
	b.log.Info("refresh tokens are accepted again; the brake is released")
}
