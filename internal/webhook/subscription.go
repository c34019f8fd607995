package webhook

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/broadcast"
)

const (
	// maxConcurrentDeliveries is how many deliveries of one subscription are made at a time.
	maxConcurrentDeliveries = 8
	// recordTimeout bounds the writing of an outcome.
	recordTimeout = 10 * time.Second
	// maxRetryAfter bounds what a receiver can ask for by Retry-After.
	maxRetryAfter = 24 * time.Hour
)

// The results of the metric.
const (
	resultDelivered = "delivered"
	resultFailed    = "failed"
	resultAbandoned = "abandoned"
	resultGone      = "gone"
)

func newMetric(r prometheus.Registerer) *prometheus.CounterVec {
	m := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pleo_webhook_deliveries_total",
		Help: "Tries to tell webhooks of events, by result: delivered, failed (it is tried again), abandoned, gone (the receiver wants no more).",
	}, []string{"result"})
	for _, result := range []string{resultDelivered, resultFailed, resultAbandoned, resultGone} {
		m.WithLabelValues(result) // so that it is there from the start
	}
	if r != nil {
		r.MustRegister(m)
	}
	return m
}

// sender is told of events.
type sender interface {
	// send returns nil once the subscriber knows, errGone when it wants to know
	// nothing any more, and a *retryAfterError when it asks to be left alone for a
	// while.
	send(ctx context.Context, d credstore.Delivery) error
}

// errGone says that a receiver is to be told nothing more.
var errGone = errors.New("the receiver answered 410 Gone")

// retryAfterError is a failure of a receiver that said when to come again.
type retryAfterError struct {
	err   error
	after time.Duration
}

func (e *retryAfterError) Error() string { return e.err.Error() }

// subscription makes the deliveries for one subscriber.
type subscription struct {
	credstore.Subscription
	sender

	outbox credstore.Outbox
	owner  string
	timing timing
	log    *zap.Logger
	count  func(result string)
	wake   *broadcast.Signal

	gone atomic.Bool // the receiver wants no more
}

// deliverAll makes deliveries until ctx ends.
func (s *subscription) deliverAll(ctx context.Context) {
	free := make(chan struct{}, maxConcurrentDeliveries) // holds one for each delivery that may begin
	for range maxConcurrentDeliveries {
		free <- struct{}{}
	}
	var running sync.WaitGroup
	defer running.Wait()
	done := make(chan struct{}, 1) // gets one when a delivery has an outcome
	unread := false                // the outbox could not be read the last time
	for {
		select {
		case one := <-free:
			free <- one
		case <-ctx.Done():
			return
		}
		rung := s.wake.Wait() // before the look, so that nothing falls in between
		claimed, err := s.outbox.ClaimDeliveries(ctx, s.Name, s.owner, time.Now(), s.timing.claimDuration, len(free))
		if err != nil && !unread && ctx.Err() == nil {
			s.log.Warn("events wait: the store does not tell what to deliver", zap.Error(err))
		}
		unread = err != nil
		for _, d := range claimed {
			<-free
			running.Go(func() {
				s.deliver(ctx, d)
				free <- struct{}{}
				select {
				case done <- struct{}{}:
				default: // there is one that nobody has seen yet
				}
			})
		}
		if len(claimed) == 0 && !s.wait(ctx, rung, done, err) {
			return
		}
	}
}

// wait waits for the next look, and reports whether ctx goes on. The outcome of a
// delivery ends it too: the next event of the connection may be due now, or the
// same one sooner than its claim would have lapsed. failed is why the last look
// told nothing.
func (s *subscription) wait(ctx context.Context, rung, done <-chan struct{}, failed error) bool {
	timer := time.NewTimer(s.untilNextPoll(ctx, failed))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-rung:
	case <-done:
	case <-timer.C:
	}
	return true
}

// untilNextPoll is how long nothing is due, as far as can be told.
func (s *subscription) untilNextPoll(ctx context.Context, failed error) time.Duration {
	if s.timing.idlePollInterval == 0 || failed != nil {
		return s.timing.pollInterval
	}
	next, err := s.outbox.NextDelivery(ctx, s.Name)
	if err != nil {
		return s.timing.pollInterval
	}
	if next.IsZero() {
		return s.timing.idlePollInterval
	}
	return min(max(time.Until(next), s.timing.pollInterval/10), s.timing.idlePollInterval)
}

// deliver makes one delivery and writes down what came of it, also when the
// program is told to stop meanwhile.
func (s *subscription) deliver(ctx context.Context, d credstore.Delivery) {
	err := errGone
	if !s.gone.Load() {
		err = s.send(ctx, d)
	}
	recording, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = s.outbox.PostponeDelivery(recording, d.ID, time.Now(), "the program was told to stop")
	} else {
		err = s.record(recording, d, err)
	}
	if err != nil {
		s.log.Warn("what became of a delivery could not be written down; it is made again", zap.String("id", d.Event.ID), zap.Error(err))
	}
}

// record writes down what came of telling.
func (s *subscription) record(ctx context.Context, d credstore.Delivery, told error) error {
	if told == nil {
		s.count(resultDelivered)
		return s.outbox.MarkDelivered(ctx, d.ID)
	}
	if errors.Is(told, errGone) {
		if !s.gone.Swap(true) {
			s.log.Error("the receiver answered 410 Gone: nothing more is sent to it before the next start; take it out of webhooks")
		}
		s.count(resultGone)
		return s.outbox.AbandonDelivery(ctx, d.ID, told.Error())
	}
	log := s.log.With(zap.String("id", d.Event.ID), zap.String("type", string(d.Event.Type)),
		zap.String("connection", d.Event.Connection), zap.Int("try", d.Attempts), zap.Error(told))
	if d.Attempts > len(s.timing.retryDelays) {
		log.Error("a receiver was not told of an event, and is not told any more")
		s.count(resultAbandoned)
		return s.outbox.AbandonDelivery(ctx, d.ID, told.Error())
	}
	wait := s.timing.jitter(s.timing.retryDelays[d.Attempts-1])
	var busy *retryAfterError
	if errors.As(told, &busy) {
		wait = max(wait, busy.after)
	}
	log.Warn("a receiver was not told of an event yet", zap.Duration("again_in", wait))
	s.count(resultFailed)
	return s.outbox.PostponeDelivery(ctx, d.ID, time.Now().Add(wait), told.Error())
}
