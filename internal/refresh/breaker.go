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
	// breakerWindow is how far back answers count.
	breakerWindow = 10 * time.Minute
	// minRejectedConnections is how many connections must have been refused.
	minRejectedConnections = 5
	// minRejectedShare: the brake holds when more than one answer in so many refuses.
	minRejectedShare = 5
	// breakerProbeInterval is how often one refresh is let through while it holds.
	breakerProbeInterval = 10 * time.Minute
	// recentResponses: the same is asked of so many of the latest answers, or it
	// would take hundreds of refusals to outweigh a busy time without any.
	recentResponses = 25
	// maxUnprovenConcurrent is how many tokens are under way at most while fewer than that
	// have been exchanged in the last unprovenWindow: if all are refused, no more are
	// spent.
	maxUnprovenConcurrent = 16
	unprovenWindow        = 10 * time.Second
)

// breaker stops spending refresh tokens when many connections are refused at
// once: then Pleo is ill, or our client, and not a hundred thousand customers.
type breaker struct {
	log    *zap.Logger
	raised prometheus.Gauge

	mu      sync.Mutex // guards everything below
	answers []judged   // of the last breakerWindow, oldest first
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

func newBreaker(log *zap.Logger, raised prometheus.Gauge) *breaker {
	return &breaker{log: log, raised: raised, room: make(chan struct{})}
}

// Allow waits until a token may be sent. While the brake holds it returns at
// once how long that will not be, but for a probe. Each enter that returns 0 and
// nil must be followed by a leave.
func (b *breaker) Allow(ctx context.Context, now func() time.Time) (held time.Duration, probe bool, err error) {
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

// Decrypt reports whether the brake holds.
func (b *breaker) Open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.holds
}

// try returns a channel to wait on when there is no room yet.
func (b *breaker) try(now time.Time) (held time.Duration, probe bool, room <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.holds && now.Before(b.probeAt) {
		return b.probeAt.Sub(now), false, nil
	}
	if b.holds {
		b.probeAt = now.Add(breakerProbeInterval)
	} else if b.flying >= maxUnprovenConcurrent && !b.onTrack(now) {
		return 0, false, b.room
	}
	b.flying++
	return 0, b.holds, nil
}

// onTrack reports whether the latest maxUnprovenConcurrent answers are fresh and good.
func (b *breaker) onTrack(now time.Time) bool {
	if len(b.answers) < maxUnprovenConcurrent {
		return false
	}
	for _, a := range b.answers[len(b.answers)-maxUnprovenConcurrent:] {
		if a.refused || now.Sub(a.at) > unprovenWindow {
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
	return len(connections) >= minRejectedConnections && refusals*minRejectedShare > len(answers)
}

// Record says that a token that was let through has had an answer. judgement is
// nil when the answer said nothing about the token. It reports whether the brake
// holds now.
func (b *breaker) Record(now time.Time, probe bool, judgement *judged) (holds bool) {
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

func (b *breaker) judge(now time.Time, probe bool, j judged) {
	if b.holds {
		// What was under way when it began to hold says nothing about now.
		if probe && !j.refused {
			b.release()
		}
		return
	}
	b.answers = append(b.answers, j)
	old := slices.IndexFunc(b.answers, func(a judged) bool { return now.Sub(a.at) <= breakerWindow })
	b.answers = b.answers[max(old, 0):]
	latest := b.answers[max(len(b.answers)-recentResponses, 0):]
	if j.refused && (tooMany(b.answers) || tooMany(latest)) {
		b.hold(now)
	}
}

func (b *breaker) hold(now time.Time) {
	b.holds, b.probeAt, b.answers = true, now.Add(breakerProbeInterval), nil
	b.raised.Set(1)
	b.log.Error("mass_refusal: many connections are refused at once, so no more refresh tokens are spent; "+
		"see whether Pleo is ill, or our client's registration or secret. One connection is tried every so often",
		zap.Duration("tried_every", breakerProbeInterval))
}

func (b *breaker) release() {
	b.holds = false
	b.raised.Set(0)
	b.log.Info("refresh tokens are accepted again; the brake is released")
}
