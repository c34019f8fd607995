package notify

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/bell"
)

// Config is what a [Notifier] is made of.
type Config struct {
	Outbox   credstore.Outbox // required
	Webhooks []Webhook        // each with a URL of its own

	// Describe returns what is sent about a connection; its JSON holds no secret.
	// Required where there are webhooks.
	Describe func(credstore.Connection) any

	// Woken says that [Notifier.Wake] is called when an event waits to be told, so
	// that the outbox, which many processes may share, need not be looked at each
	// second.
	Woken bool

	// Owner names this process in claims. Required; never used by another
	// process.
	Owner string

	Logger     *zap.Logger           // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// Notifier makes deliveries while [Notifier.Run] runs.
type Notifier struct {
	outbox        credstore.Outbox
	log           *zap.Logger
	look          time.Duration // see pace
	subscriptions []*subscription
	bell          bell.Bell
}

// pace is how long things take.
type pace struct {
	// settle is how long an event waits before a webhook is told, so that an
	// alarm that ends by itself at once wakes nobody.
	settle time.Duration
	// look is how often the outbox is looked at, and idly how often it is by who is
	// woken, where nothing is due before.
	look, idly time.Duration
	// answer bounds one try, from the dial to the head of the answer.
	answer time.Duration
	// hold is how long a claim lasts: longer than a try and the writing of what
	// came of it.
	hold time.Duration
	// retry is how long to wait after the first failure, the second, and so on.
	// After one more the delivery is given up.
	retry []time.Duration
	// jitter changes a wait, so that what failed together does not come back
	// together.
	jitter func(time.Duration) time.Duration
}

func usualPace() pace {
	return pace{
		settle: 2 * time.Second,
		look:   time.Second,
		idly:   5 * time.Minute,
		answer: 15 * time.Second,
		hold:   time.Minute,
		// What Standard Webhooks recommends: more than three days.
		retry: []time.Duration{
			5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
			10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
		},
		jitter: func(d time.Duration) time.Duration {
			return d - d/5 + rand.N(2*d/5+1) //nolint:gosec // G404: nobody gains by guessing it
		},
	}
}

// New returns a Notifier.
func New(c Config) *Notifier { return newNotifier(c, usualPace()) }

func newNotifier(c Config, p pace) *Notifier {
	n := &Notifier{outbox: c.Outbox, log: c.Logger, look: p.look}
	if n.log == nil {
		n.log = zap.NewNop()
	}
	if !c.Woken {
		p.idly = 0
	}
	deliveries := newMetric(c.Registerer)
	add := func(what credstore.Subscription, who subscriber, log *zap.Logger, count func(string)) {
		n.subscriptions = append(n.subscriptions, &subscription{
			Subscription: what, subscriber: who,
			outbox: c.Outbox, owner: c.Owner, pace: p, log: log, count: count, bell: &n.bell,
		})
	}
	add(credstore.Subscription{Name: "log", Types: credstore.PublicEvents()}, logSubscriber{n.log}, n.log, func(string) {})
	for _, w := range c.Webhooks {
		add(credstore.Subscription{Name: w.name(), Types: w.types(), Delay: p.settle},
			&webhookSubscriber{Webhook: w, describe: c.Describe, within: p.answer},
			n.log.With(zap.String("receiver", w.URL.Host)),
			func(result string) { deliveries.WithLabelValues(result).Inc() })
	}
	return n
}

// Run makes deliveries until ctx ends; then it lets go of those under way, which
// are made again. What cannot be read or written is tried again.
func (n *Notifier) Run(ctx context.Context) {
	if !n.subscribe(ctx) {
		return
	}
	var running sync.WaitGroup
	for _, s := range n.subscriptions {
		running.Go(func() { s.run(ctx) })
	}
	running.Go(func() { n.remind(ctx) })
	running.Wait()
}

// Wake has the outbox looked at now.
func (n *Notifier) Wake() { n.bell.Ring() }

// subscribe reports whether it could tell the store who wants to know what,
// before ctx ended.
func (n *Notifier) subscribe(ctx context.Context) bool {
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
		if !pause(ctx, n.look) {
			return false
		}
	}
}

// logEnded tells of receivers that other processes may go on with, but are told
// nothing.
func (n *Notifier) logEnded(names []string) {
	if len(names) > 0 {
		n.log.Warn("receivers are told nothing any more, by no replica, since the configuration of this one does not name them: "+
			"replicas that share a store need the same notify.webhooks", zap.Strings("receivers", names))
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
