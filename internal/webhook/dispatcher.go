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

// Config is what a [Dispatcher] is made of.
type Config struct {
	Outbox    credstore.Outbox // required
	Endpoints []Endpoint       // each with a URL of its own

	// Describe returns what is sent about a connection; its JSON holds no secret.
	// Required where there are webhooks.
	Describe func(credstore.Connection) any

	// EventDriven says that [Dispatcher.Wake] is called when an event waits to be told, so
	// that the outbox, which many processes may share, need not be looked at each
	// second.
	EventDriven bool

	// Owner names this process in claims. Required; never used by another
	// process.
	Owner string

	Logger     *zap.Logger           // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// Dispatcher makes deliveries while [Dispatcher.Run] runs.
type Dispatcher struct {
	outbox        credstore.Outbox
	log           *zap.Logger
	pollInterval  time.Duration // see pace
	subscriptions []*subscription
	wake          broadcast.Signal
}

// timing is how long things take.
type timing struct {
	// settleDelay is how long an event waits before a webhook is told, so that an
	// alarm that ends by itself at once wakes nobody.
	settleDelay time.Duration
	// pollInterval is how often the outbox is looked at, and idly how often it is by who is
	// woken, where nothing is due before.
	pollInterval, idlePollInterval time.Duration
	// attemptTimeout bounds one try, from the dial to the head of the answer.
	attemptTimeout time.Duration
	// claimDuration is how long a claim lasts: longer than a try and the writing of what
	// came of it.
	claimDuration time.Duration
	// retryDelays is how long to wait after the first failure, the second, and so on.
	// After one more the delivery is given up.
	retryDelays []time.Duration
	// jitter changes a wait, so that what failed together does not come back
	// together.
	jitter func(time.Duration) time.Duration
}

func defaultTiming() timing {
	return timing{
		settleDelay:      2 * time.Second,
		pollInterval:     time.Second,
		idlePollInterval: 5 * time.Minute,
		attemptTimeout:   15 * time.Second,
		claimDuration:    time.Minute,
		// What Standard Webhooks recommends: more than three days.
		retryDelays: []time.Duration{
			5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
			10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
		},
		jitter: func(d time.Duration) time.Duration {
			return d - d/5 + rand.N(2*d/5+1) //nolint:gosec // G404: nobody gains by guessing it
		},
	}
}

// New returns a Notifier.
func New(c Config) *Dispatcher { return newDispatcher(c, defaultTiming()) }

func newDispatcher(c Config, p timing) *Dispatcher {
	n := &Dispatcher{outbox: c.Outbox, log: c.Logger, pollInterval: p.pollInterval}
	if n.log == nil {
		n.log = zap.NewNop()
	}
	if !c.EventDriven {
		p.idlePollInterval = 0
	}
	deliveries := newMetric(c.Registerer)
	add := func(what credstore.Subscription, who sender, log *zap.Logger, count func(string)) {
		n.subscriptions = append(n.subscriptions, &subscription{
			Subscription: what, sender: who,
			outbox: c.Outbox, owner: c.Owner, timing: p, log: log, count: count, wake: &n.wake,
		})
	}
	add(credstore.Subscription{Name: "log", Types: credstore.PublicEvents()}, logSender{n.log}, n.log, func(string) {})
	for _, w := range c.Endpoints {
		add(credstore.Subscription{Name: w.subscriptionName(), Types: w.types(), Delay: p.settleDelay},
			&endpointSender{Endpoint: w, describe: c.Describe, timeout: p.attemptTimeout},
			n.log.With(zap.String("receiver", w.URL.Host)),
			func(result string) { deliveries.WithLabelValues(result).Inc() })
	}
	return n
}

// Run makes deliveries until ctx ends; then it lets go of those under way, which
// are made again. What cannot be read or written is tried again.
func (n *Dispatcher) Run(ctx context.Context) {
	if !n.subscribe(ctx) {
		return
	}
	var running sync.WaitGroup
	for _, s := range n.subscriptions {
		running.Go(func() { s.deliverAll(ctx) })
	}
	running.Go(func() { n.reportExpiringKeys(ctx) })
	running.Wait()
}

// Wake has the outbox looked at now.
func (n *Dispatcher) Wake() { n.wake.Broadcast() }

// subscribe reports whether it could tell the store who wants to know what,
// before ctx ended.
func (n *Dispatcher) subscribe(ctx context.Context) bool {
	var all []credstore.Subscription
	for _, s := range n.subscriptions {
		all = append(all, s.Subscription)
	}
	for {
		ended, err := n.outbox.Subscribe(ctx, all)
		if err == nil {
			n.logEnded(ended)
			return true
		}
		n.log.Error("nobody is told of events: subscribing to them", zap.Error(err))
		if !pause(ctx, n.pollInterval) {
			return false
		}
	}
}

// logEnded tells of receivers that other processes may go on with, but are told
// nothing.
func (n *Dispatcher) logEnded(names []string) {
	if len(names) > 0 {
		n.log.Warn("receivers are told nothing any more, by no replica, since the configuration of this one does not name them: "+
			"replicas that share a store need the same webhooks", zap.Strings("receivers", names))
	}
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
