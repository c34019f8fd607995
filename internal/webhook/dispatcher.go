package webhook

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/broadcast"
)

// Config configures a [Dispatcher].
type Config struct {
	Outbox    credstore.Outbox // required
	Endpoints []Endpoint       // with different URLs

	// Describe returns what is sent about a connection. Its JSON must not contain
	// secrets. Required with Endpoints.
	Describe func(credstore.Connection) any

	// EventDriven means that Wake is called for each new event. The outbox, which
	// many processes may share, is then polled only as a fallback.
	EventDriven bool

	// Owner identifies this process in claims. It must be unique. Required.
	Owner string

	Logger     *zap.Logger           // nil means no log
	Registerer prometheus.Registerer // nil means that metrics are not registered
}

// Dispatcher delivers events while [Dispatcher.Run] runs.
type Dispatcher struct {
	outbox        credstore.Outbox
	log           *zap.Logger
	pollInterval  time.Duration
	subscriptions []*subscription
	wake          broadcast.Signal
}

// timing holds the durations that tests shorten.
type timing struct {
	// settleDelay is how long an event waits before it is sent to a webhook, so
	// that an outage which ends by itself causes no alarm.
	settleDelay time.Duration
	// idlePollInterval replaces pollInterval if the dispatcher is event-driven.
	pollInterval, idlePollInterval time.Duration
	// attemptTimeout bounds one attempt, up to the response header.
	attemptTimeout time.Duration
	// claimDuration must be longer than an attempt and the recording of its
	// result.
	claimDuration time.Duration
	// retryDelays follow the first failure, the second, and so on. After one more
	// failure the delivery is abandoned.
	retryDelays []time.Duration
	// jitter varies a delay, so that deliveries that failed together are not
	// retried together.
	jitter func(time.Duration) time.Duration
}

func defaultTiming() timing {
	return timing{
		settleDelay:      2 * time.Second,
		pollInterval:     time.Second,
		idlePollInterval: 5 * time.Minute,
		attemptTimeout:   15 * time.Second,
		claimDuration:    time.Minute,
		// The schedule of Standard Webhooks: more than three days.
		retryDelays: []time.Duration{
			5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
			10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
		},
		jitter: func(d time.Duration) time.Duration {
			return d - d/5 + rand.N(2*d/5+1) //nolint:gosec // G404: it need not be unpredictable
		},
	}
}

// New returns a Dispatcher for the endpoints and the log.
func New(c Config) *Dispatcher { return newDispatcher(c, defaultTiming()) }

func newDispatcher(c Config, t timing) *Dispatcher {
	d := &Dispatcher{outbox: c.Outbox, log: c.Logger, pollInterval: t.pollInterval}
	if d.log == nil {
		d.log = zap.NewNop()
	}
	if !c.EventDriven {
		t.idlePollInterval = t.pollInterval
	}
	deliveries := newMetric(c.Registerer)
	add := func(s credstore.Subscription, to sender, log *zap.Logger, count func(string)) {
		d.subscriptions = append(d.subscriptions, &subscription{
			Subscription: s, sender: to,
			outbox: c.Outbox, owner: c.Owner, timing: t, log: log, count: count, wake: &d.wake,
		})
	}
	add(credstore.Subscription{Name: "log", Types: credstore.PublicEvents()}, logSender{d.log}, d.log, func(string) {})
	for _, e := range c.Endpoints {
		add(credstore.Subscription{Name: e.subscriptionName(), Types: e.types(), Delay: t.settleDelay},
			&endpointSender{Endpoint: e, describe: c.Describe, timeout: t.attemptTimeout},
			d.log.With(zap.String("receiver", e.URL.Host)),
			func(result string) { deliveries.WithLabelValues(result).Inc() })
	}
	return d
}

// Run delivers events until ctx ends. Attempts that are then in progress are
// cancelled and repeated by the next process. Errors of the outbox are retried.
func (d *Dispatcher) Run(ctx context.Context) {
	if !d.subscribe(ctx) {
		return
	}
	var running sync.WaitGroup
	for _, s := range d.subscriptions {
		running.Go(func() { s.deliverAll(ctx) })
	}
	running.Go(func() { d.reportExpiringKeys(ctx) })
	running.Wait()
}

// Wake makes the dispatcher read the outbox now.
func (d *Dispatcher) Wake() { d.wake.Broadcast() }

// subscribe registers the subscriptions with the store and reports whether that
// succeeded before ctx ended.
func (d *Dispatcher) subscribe(ctx context.Context) bool {
	var all []credstore.Subscription
	for _, s := range d.subscriptions {
		all = append(all, s.Subscription)
	}
	for {
		ended, err := d.outbox.Subscribe(ctx, all)
		if err == nil {
			d.logEnded(ended)
			return true
		}
		d.log.Error("subscribing to events, nothing is delivered until it succeeds", zap.Error(err))
		if !sleep(ctx, d.pollInterval) {
			return false
		}
	}
}

// logEnded warns about subscriptions that another replica may still have in its
// configuration.
func (d *Dispatcher) logEnded(names []string) {
	if len(names) > 0 {
		d.log.Warn("webhooks removed for all replicas because this one does not configure them: "+
			"replicas that share a store need the same webhooks", zap.Strings("receivers", names))
	}
}

// sleep waits and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
