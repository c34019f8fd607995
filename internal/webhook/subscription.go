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
	maxConcurrentDeliveries = 8 // of one subscription
	recordTimeout           = 10 * time.Second
)

// The values of the label result.
const (
	resultDelivered = "delivered"
	resultFailed    = "failed"
	resultAbandoned = "abandoned"
	resultGone      = "gone"
)

func newMetric(r prometheus.Registerer) *prometheus.CounterVec {
	m := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pleo_webhook_deliveries_total",
		Help: "Attempts to deliver events to webhooks, by result: delivered, failed (will be retried), abandoned, gone (the receiver responded 410).",
	}, []string{"result"})
	for _, result := range []string{resultDelivered, resultFailed, resultAbandoned, resultGone} {
		m.WithLabelValues(result) // so that each starts at 0
	}
	if r != nil {
		r.MustRegister(m)
	}
	return m
}

// sender sends events to one receiver.
type sender interface {
	// send returns nil if the receiver has accepted the event, errGone if it must
	// not be sent any more, and a *retryAfterError if it asked for a delay.
	send(ctx context.Context, d credstore.Delivery) error
}

var errGone = errors.New("the receiver returned status 410 Gone")

// retryAfterError is a failure of a receiver that asked for a delay.
type retryAfterError struct {
	err   error
	after time.Duration
}

func (e *retryAfterError) Error() string { return e.err.Error() }

// subscription delivers the events of one subscription.
type subscription struct {
	credstore.Subscription
	sender

	outbox credstore.Outbox
	owner  string
	timing timing
	log    *zap.Logger
	count  func(result string)
	wake   *broadcast.Signal

	gone atomic.Bool // the receiver returned 410
}

// deliverAll delivers events until ctx ends, at most maxConcurrentDeliveries at a
// time.
func (s *subscription) deliverAll(ctx context.Context) {
	var (
		running  sync.WaitGroup
		active   int
		failing  bool                                           // the outbox could not be read
		finished = make(chan struct{}, maxConcurrentDeliveries) // receives one for each delivery that ends
	)
	defer running.Wait()
	for ctx.Err() == nil {
		var nextPoll <-chan time.Time // none while all slots are in use
		woken := s.wake.Wait()        // before the outbox is read, so that no event is missed
		if active < maxConcurrentDeliveries {
			claimed, err := s.outbox.ClaimDeliveries(ctx, s.Name, s.owner, time.Now(), s.timing.claimDuration, maxConcurrentDeliveries-active)
			if err != nil && !failing && ctx.Err() == nil {
				s.log.Warn("reading the outbox, events wait until it succeeds", zap.Error(err))
			}
			failing = err != nil
			for _, d := range claimed {
				active++
				running.Go(func() {
					s.deliver(ctx, d)
					finished <- struct{}{}
				})
			}
			if len(claimed) > 0 {
				continue // there may be more
			}
			nextPoll = time.After(s.untilNextPoll(ctx, failing))
		}
		select {
		case <-ctx.Done():
		case <-woken:
		case <-nextPoll:
		case <-finished: // the next event of its connection may be due
			active--
		}
	}
}

// untilNextPoll returns how long nothing is due, as far as is known.
func (s *subscription) untilNextPoll(ctx context.Context, failing bool) time.Duration {
	poll, idle := s.timing.pollInterval, s.timing.idlePollInterval
	if poll == idle || failing {
		return poll
	}
	next, err := s.outbox.NextDelivery(ctx, s.Name)
	switch {
	case err != nil:
		return poll
	case next.IsZero():
		return idle
	}
	return min(max(time.Until(next), poll/10), idle)
}

// deliver makes one attempt and records the result, also if ctx ends.
func (s *subscription) deliver(ctx context.Context, d credstore.Delivery) {
	err := errGone
	if !s.gone.Load() {
		err = s.send(ctx, d)
	}
	recording, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = s.outbox.PostponeDelivery(recording, d.ID, time.Now(), "interrupted by shutdown")
	} else {
		err = s.record(recording, d, err)
	}
	if err != nil {
		s.log.Warn("recording a webhook delivery, it will be repeated", zap.String("id", d.Event.ID), zap.Error(err))
	}
}

// record records the result of an attempt that ended in sendErr.
func (s *subscription) record(ctx context.Context, d credstore.Delivery, sendErr error) error {
	if sendErr == nil {
		s.count(resultDelivered)
		return s.outbox.MarkDelivered(ctx, d.ID)
	}
	if errors.Is(sendErr, errGone) {
		if !s.gone.Swap(true) {
			s.log.Error("webhook disabled until the next start: the receiver returned status 410 Gone; remove it from the configuration")
		}
		s.count(resultGone)
		return s.outbox.AbandonDelivery(ctx, d.ID, sendErr.Error())
	}
	log := s.log.With(zap.String("id", d.Event.ID), zap.String("type", string(d.Event.Type)),
		zap.String("connection", d.Event.Connection), zap.Int("attempt", d.Attempts), zap.Error(sendErr))
	if d.Attempts > len(s.timing.retryDelays) {
		log.Error("giving up on webhook delivery")
		s.count(resultAbandoned)
		return s.outbox.AbandonDelivery(ctx, d.ID, sendErr.Error())
	}
	delay := s.timing.jitter(s.timing.retryDelays[d.Attempts-1])
	var requested *retryAfterError
	if errors.As(sendErr, &requested) {
		delay = max(delay, requested.after)
	}
	log.Warn("webhook delivery failed", zap.Duration("retry_in", delay))
	s.count(resultFailed)
	return s.outbox.PostponeDelivery(ctx, d.ID, time.Now().Add(delay), sendErr.Error())
}
