package notify

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/bell"
)

const (
	// atOnce is how many deliveries of one subscription are made at a time.
	atOnce = 8
	// recordWithin bounds the writing of an outcome.
	recordWithin = 10 * time.Second
	// leaveAlone bounds what a receiver can ask for by Retry-After.
	leaveAlone = 24 * time.Hour
)

// The results of the metric.
const (
	resultDelivered = "delivered"
	resultFailed    = "failed"
	resultGivenUp   = "given_up"
	resultGone      = "gone"
)

func newMetric(r prometheus.Registerer) *prometheus.CounterVec {
	m := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pleo_webhook_deliveries_total",
		Help: "Tries to tell webhooks of events, by result: delivered, failed (it is tried again), given_up, gone (the receiver wants no more).",
	}, []string{"result"})
	for _, result := range []string{resultDelivered, resultFailed, resultGivenUp, resultGone} {
		m.WithLabelValues(result) // so that it is there from the start
	}
	if r != nil {
		r.MustRegister(m)
	}
	return m
}

// subscriber is told of events.
type subscriber interface {
	// tell returns nil once the subscriber knows, errGone when it wants to know
	// nothing any more, and a *busyError when it asks to be left alone for a
	// while.
	tell(ctx context.Context, d credstore.Delivery) error
}

// errGone says that a receiver is to be told nothing more.
var errGone = errors.New("the receiver answered 410 Gone")

// busyError is a failure of a receiver that said when to come again.
type busyError struct {
	err   error
	after time.Duration
}

func (e *busyError) Error() string { return e.err.Error() }

// subscription makes the deliveries for one subscriber.
type subscription struct {
	credstore.Subscription
	subscriber

	outbox credstore.Outbox
	owner  string
	pace   pace
	log    *zap.Logger
	count  func(result string)
	bell   *bell.Bell

	gone atomic.Bool // the receiver wants no more
}

// run makes deliveries until ctx ends.
func (s *subscription) run(ctx context.Context) {
	free := make(chan struct{}, atOnce) // holds one for each delivery that may begin
	for range atOnce {
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
		rung := s.bell.Next() // before the look, so that nothing falls in between
		claimed, err := s.outbox.ClaimDeliveries(ctx, s.Name, s.owner, time.Now(), s.pace.hold, len(free))
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
		if len(claimed) == 0 && !s.rest(ctx, rung, done, err) {
			return
		}
	}
}

// rest waits for the next look, and reports whether ctx goes on. The outcome of a
// delivery ends it too: the next event of the connection may be due now, or the
// same one sooner than its claim would have lapsed. failed is why the last look
// told nothing.
func (s *subscription) rest(ctx context.Context, rung, done <-chan struct{}, failed error) bool {
	timer := time.NewTimer(s.untilDue(ctx, failed))
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

// untilDue is how long nothing is due, as far as can be told.
func (s *subscription) untilDue(ctx context.Context, failed error) time.Duration {
	if s.pace.idly == 0 || failed != nil {
		return s.pace.look
	}
	next, err := s.outbox.NextDelivery(ctx, s.Name)
	if err != nil {
		return s.pace.look
	}
	if next.IsZero() {
		return s.pace.idly
	}
	return min(max(time.Until(next), s.pace.look/10), s.pace.idly)
}

// deliver makes one delivery and writes down what came of it, also when the
// program is told to stop meanwhile.
func (s *subscription) deliver(ctx context.Context, d credstore.Delivery) {
	err := errGone
	if !s.gone.Load() {
		err = s.tell(ctx, d)
	}
	recording, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordWithin)
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
		return s.outbox.Delivered(ctx, d.ID)
	}
	if errors.Is(told, errGone) {
		if !s.gone.Swap(true) {
			s.log.Error("the receiver answered 410 Gone: nothing more is sent to it before the next start; take it out of notify.webhooks")
		}
		s.count(resultGone)
		return s.outbox.DropDelivery(ctx, d.ID, told.Error())
	}
	log := s.log.With(zap.String("id", d.Event.ID), zap.String("type", string(d.Event.Type)),
		zap.String("connection", d.Event.Connection), zap.Int("try", d.Attempts), zap.Error(told))
	if d.Attempts > len(s.pace.retry) {
		log.Error("a receiver was not told of an event, and is not told any more")
		s.count(resultGivenUp)
		return s.outbox.DropDelivery(ctx, d.ID, told.Error())
	}
	wait := s.pace.jitter(s.pace.retry[d.Attempts-1])
	var busy *busyError
	if errors.As(told, &busy) {
		wait = max(wait, busy.after)
	}
	log.Warn("a receiver was not told of an event yet", zap.Duration("again_in", wait))
	s.count(resultFailed)
	return s.outbox.PostponeDelivery(ctx, d.ID, time.Now().Add(wait), told.Error())
}
