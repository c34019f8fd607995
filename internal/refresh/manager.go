package refresh

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/breaker"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
)

// Limits that users are promised, and that nothing needs to change.
const (
	maxOnDemandConcurrent   = 64
	maxBackgroundConcurrent = 16
	// refreshWaitTimeout is how long a request with a valid token waits for a refresh
	// in progress: Pleo revokes the old access token when it issues a new one.
	refreshWaitTimeout = 2 * time.Second
)

// Manager returns authorizations and keeps them fresh. Its methods may be called
// by several goroutines at once.
type Manager struct {
	*core

	guard     *rollback.Guard
	breaker   *breaker.Breaker
	companies *companies
	scheduler *scheduler
	replacer  *replacer
	consents  *consents
	keys      *apikey.Keys
	keyChecks singleflight.Group // by connection id

	single atomic.Pointer[bool] // whether the store holds at most one connection; nil: unknown
}

// New returns a Manager. It starts nothing by itself: [Manager.Run] does.
func New(c Config) (*Manager, error) {
	if c.Store.Connections == nil || c.Owner == "" {
		return nil, errors.New("refresh: Config needs a Store and an Owner")
	}
	if c.Server != nil && c.Spool == nil {
		return nil, errors.New("refresh: Config with a Server needs a Spool")
	}
	c = c.withDefaults()
	m := &Manager{core: newCore(c)}
	m.breaker = breaker.New(c.Logger, m.metrics.breakerOpen, c.Now)
	m.companies = &companies{m.core}
	m.keys = &apikey.Keys{Store: c.Store, API: c.API, OtherEnvironment: c.OtherEnvironment, Owner: c.Owner, Now: c.Now, Logger: c.Logger}
	if c.HighWaterMark != nil {
		m.guard = rollback.NewGuard(rollback.Config{
			Mark: c.HighWaterMark, Store: c.Store, Shared: c.Shared, Now: c.Now, Logger: c.Logger,
			OnLoss: m.cache.saveAllLost, OnStoreError: m.metrics.storeErrors.Inc,
		})
	}
	m.health.register(c.Registerer, m.guard.Detected)
	introspection := &introspection{server: c.Server, facts: c.Store}
	r := &refresher{
		core: m.core, guard: m.guard, breaker: m.breaker, introspection: introspection, companies: m.companies,
		recorder: &recorder{m.core, introspection}, saver: &saver{core: m.core},
		onDemand:   semaphore.NewWeighted(maxOnDemandConcurrent),
		background: semaphore.NewWeighted(maxBackgroundConcurrent),
	}
	m.scheduler = &scheduler{m.core, r}
	m.replacer = &replacer{m.core, m.scheduler}
	m.consents = &consents{r, m.replacer}
	return m, nil
}

// Run watches the store for changes, replays the spool, resumes unsettled
// refreshes and keeps idle grants alive, until ctx ends. It returns ctx's error.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return m.Store.Watch(ctx, func(changes []credstore.Change) {
			m.single.Store(nil)
			m.scheduler.changed(changes)
		})
	})
	if m.Server != nil {
		g.Go(func() error { return m.guard.Run(ctx) })
		g.Go(func() error { return m.replaySpool(ctx) })
		g.Go(func() error { return m.scheduler.resume(ctx) })
		g.Go(func() error { return m.scheduler.keepAlive(ctx) })
	}
	return g.Wait()
}

// replaySpool saves what earlier processes left, but not into a restored store
// before it is accepted: there every pair would look superseded, and be dropped.
func (m *Manager) replaySpool(ctx context.Context) error {
	if err := await(ctx, m.guard.Trusted()); err != nil {
		return err
	}
	before := 0
	return m.Spool.Replay(ctx, m.Store, m.Logger, func(unsaved int) {
		m.health.addUnsaved(unsaved - before)
		before = unsaved
	})
}

// Drain starts no refresh any more. It returns when those in progress have had
// their response and their pairs are durable: in the store or, when ctx has ended,
// at least in the spool. It may outlast ctx: the only copy of a token pair is never
// dropped.
func (m *Manager) Drain(ctx context.Context) error { return m.life.drain(ctx) }

// CheckServer returns an error if the authorization server was unavailable when a
// token was last sent to it.
func (m *Manager) CheckServer(context.Context) error { return m.health.server.get() }

// CheckCredentials returns an error while credentials need an operator's
// attention: a pair that is not saved, a spool or a store that cannot be written,
// a restored store, or an open circuit breaker.
func (m *Manager) CheckCredentials(context.Context) error {
	errs := []error{m.health.check()}
	if m.guard.Detected() {
		errs = append(errs, rollback.ErrRestored)
	}
	if m.breaker.Open() {
		errs = append(errs, breaker.ErrOpen)
	}
	return errors.Join(errs...)
}

// Sole reports whether the store holds at most one connection.
func (m *Manager) Sole(ctx context.Context) (bool, error) {
	if known := m.single.Load(); known != nil {
		return *known, nil
	}
	page, err := m.Store.List(ctx, credstore.Query{Limit: 2})
	if err != nil {
		return false, m.cache.storeError("", err)
	}
	single := len(page.Connections) < 2
	m.single.Store(&single)
	return single, nil
}
