package refresh

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/broadcast"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/breaker"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

// Limits that users are promised, and that nothing needs to change.
const (
	maxOnDemandConcurrent   = 64
	maxBackgroundConcurrent = 16
	// refreshWaitTimeout is how long a request with a good token waits for a
	// refresh under way: Pleo ends the old access token at the rotation.
	refreshWaitTimeout = 2 * time.Second
	// readTimeout bounds one read of the store on behalf of requests.
	readTimeout = 10 * time.Second
)

// AuthorizationServer is Pleo's token endpoint and its introspection, as
// [pleo.AuthorizationServer] speaks to them. An error of Refresh is a
// *pleo.NotSentError, *pleo.ResponseError or *pleo.UnknownOutcomeError.
type AuthorizationServer interface {
	Refresh(ctx context.Context, refreshToken credstore.Secret) (pleo.Tokens, error)
	Active(ctx context.Context, token credstore.Secret, hint string) (bool, error)
}

// API tells whom a credential belongs to, as [pleo.API] does.
type API interface {
	Introspect(ctx context.Context, authorization credstore.Secret) (pleo.Identity, error)
}

// Spool keeps token pairs that the store has not saved, as [spool.Dir] does.
type Spool interface {
	Reserve(parent credstore.Parent) (spool.Record, error)
	Abandoned(parent credstore.Parent) bool
	Replay(ctx context.Context, store spool.Store, log *zap.Logger, unsaved func(int)) error
	Replayed() <-chan struct{}
}

// Config is what a [Manager] is made of.
type Config struct {
	Store  credstore.Store     // required
	Server AuthorizationServer // nil: OAuth is not configured, and no token is refreshed
	API    API                 // nil: companies are not learned and 401s not double-checked
	Spool  Spool               // required when Server is set

	// OtherEnvironment is the API of Pleo's other environment, which tells keys that
	// are used in the wrong one from keys that are no good. Nil: nobody is asked.
	OtherEnvironment API

	// HighWaterMark detects a store that was restored from a backup. Nil: none is
	// detected.
	HighWaterMark *rollback.Mark

	// Shared says that other processes may use the store at the same time. What
	// all of them might do at once is spread then, and a store that has lost what
	// it had confirmed, as one does that fails over to a replica that lags, is
	// taken into use at once: each token in it is asked about before it is
	// presented.
	Shared bool

	// Owner names this process in leases and intents. Required; never used by
	// another process, or by this one after a restart.
	Owner string

	// BeforeExpiry is how long ahead of its expiry a token is refreshed, but
	// never more than a fifth of its life. 0 means 2 minutes.
	BeforeExpiry time.Duration
	// Wait is how long a request waits for a credential. 0 means 20 seconds.
	Wait time.Duration

	Logger     *zap.Logger           // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are not registered
	Now        func() time.Time      // nil: time.Now
	// Jitter returns a random part of a wait, so that connections do not come
	// back in step. Nil: uniformly from 0 up to the wait.
	Jitter func(wait time.Duration) time.Duration
}

// Manager hands out authorizations and keeps them fresh. Its methods may be
// called by several goroutines at once.
type Manager struct {
	Config

	byName  sync.Map // name → *entry
	byID    sync.Map // connection id → *entry
	loading singleflight.Group
	metrics *metrics
	oracle  *introspection
	breaker *breaker.Breaker
	guard   *rollback.Guard // nil: a restored store is not detected

	onDemand   *semaphore.Weighted
	background *semaphore.Weighted

	health      health
	changeCount atomic.Int64     // counts the notices of changes
	storeBack   broadcast.Signal // rings when the store has settled a pair

	sole atomic.Pointer[bool] // whether the store holds at most one connection; nil when not known

	mu       sync.Mutex     // guards draining, and running against Add after Wait
	draining bool           // no refresh is started any more
	running  sync.WaitGroup // refreshes, until what they brought is saved

	lifetime context.Context // ends when the process gives up on background work
	giveUp   context.CancelFunc
}

// New returns a Manager. It starts nothing by itself: [Manager.Run] does.
func New(c Config) (*Manager, error) {
	if c.Store.Connections == nil || c.Owner == "" {
		return nil, errors.New("refresh: Config needs a Store and an Owner")
	}
	if c.Server != nil && c.Spool == nil {
		return nil, errors.New("refresh: Config with a Server needs a Spool")
	}
	m := &Manager{
		Config:     c.withDefaults(),
		metrics:    newMetrics(c.Registerer),
		onDemand:   semaphore.NewWeighted(maxOnDemandConcurrent),
		background: semaphore.NewWeighted(maxBackgroundConcurrent),
	}
	if m.HighWaterMark != nil {
		m.guard = rollback.NewGuard(rollback.Config{
			Mark: m.HighWaterMark, Store: m.Store.Changes, Shared: m.Shared, Now: m.Now, Logger: m.Logger,
			OnLoss: m.saveLatest, OnStoreError: m.metrics.storeErrors.Inc,
		})
	}
	m.oracle = newIntrospection(m.Server, m.Store)
	m.breaker = breaker.New(m.Logger, m.metrics.breakerOpen, m.Now)
	m.lifetime, m.giveUp = context.WithCancel(context.Background())
	m.health.gauge = m.metrics.unsaved
	m.health.register(m.Registerer, m.Restored)
	return m, nil
}

func (c Config) withDefaults() Config {
	if c.BeforeExpiry == 0 {
		c.BeforeExpiry = 2 * time.Minute
	}
	if c.Wait == 0 {
		c.Wait = 20 * time.Second
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.N[time.Duration]
	}
	return c
}

// Authorize returns the authorization to send a request of the connection
// called name with. It never returns one that is known to have expired. When
// there is none it waits for a refresh, for at most Config.Wait and as long as
// ctx lasts. Errors are *[Error], or ctx's.
func (m *Manager) Authorize(ctx context.Context, name string) (*Authorization, error) {
	e, err := m.find(ctx, name)
	if err != nil {
		return nil, err
	}
	s := e.current.Load()
	if f := e.flight.Load(); f != nil && f.presented.Load() && s.good(m.Now()) {
		if err := f.wait(ctx, refreshWaitTimeout); err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s = e.current.Load()
	}
	if s.good(m.Now()) {
		m.used(e, s)
		return s.auth, nil
	}
	if err := s.refusal(); err != nil {
		if s.conn.Kind.IsKey() {
			return m.authorizeKey(ctx, e)
		}
		return nil, err
	}
	return m.await(ctx, e, purpose{version: s.conn.Version})
}

// Reauthorize is called after the API has answered 401 to a request sent with
// rejected. It returns the authorization to send the request again with: a newer
// one that is there already, or one refreshed for the occasion. The error
// [ErrSuppressed] means that the 401 stands; others are as for Authorize.
func (m *Manager) Reauthorize(ctx context.Context, rejected *Authorization) (*Authorization, error) {
	e, err := m.find(ctx, rejected.Connection)
	if err != nil {
		return nil, err
	}
	if e.id != rejected.ConnectionID {
		return nil, ErrSuppressed
	}
	if rejected.Kind.IsKey() {
		return m.reauthorizeKey(ctx, e, rejected)
	}
	s := e.current.Load()
	if a := s.newerThan(rejected, m.Now()); a != nil {
		return a, nil
	}
	if e.exonerated.Load() == rejected.Version && s.good(m.Now()) && !m.condemnedByAPI(ctx, e, rejected) {
		return nil, ErrSuppressed
	}
	if err := s.refusal(); err != nil {
		e.forget(rejected.Version)
		return nil, err
	}
	return m.await(ctx, e, purpose{version: rejected.Version, rejected: true})
}

// Restored reports whether refreshes wait for an operator to accept a store that
// is older than its high-water mark.
func (m *Manager) Restored() bool { return m.guard.Detected() }

// CheckServer returns an error if the authorization server was unavailable when a
// token was last sent to it.
func (m *Manager) CheckServer(context.Context) error { return m.health.checkServer() }

// CheckCredentials returns an error while credentials need an operator's
// attention: a pair that is not saved, a spool or a store that cannot be written,
// a restored store, or an open circuit breaker.
func (m *Manager) CheckCredentials(context.Context) error {
	errs := []error{m.health.check()}
	if m.Restored() {
		errs = append(errs, rollback.ErrRestored)
	}
	if m.breaker.Open() {
		errs = append(errs, breaker.ErrOpen)
	}
	return errors.Join(errs...)
}

// saveLatest saves the pairs again that this process has obtained, each onto its
// parent, where that is stored again: a shared store has lost changes.
func (m *Manager) saveLatest(ctx context.Context) {
	m.byID.Range(func(_, found any) bool {
		e, ok := found.(*entry)
		if ok && e.latest.Load() != nil {
			_ = m.reread(ctx, e) // counted; the next refresh tries again
		}
		return ctx.Err() == nil
	})
}

// ReplayRejected is called when the API has answered 401 to a replay too. The
// token is then not the reason: no 401 leads to a refresh of this version any
// more, unless introspection refuses it as well.
func (m *Manager) ReplayRejected(a *Authorization) {
	if e, ok := m.byID.Load(a.ConnectionID); ok {
		e.(*entry).exonerated.Store(a.Version)
	}
}

// Sole reports whether the store holds at most one connection.
func (m *Manager) Sole(ctx context.Context) (bool, error) {
	if known := m.sole.Load(); known != nil {
		return *known, nil
	}
	page, err := m.Store.Connections.List(ctx, credstore.Query{Limit: 2})
	if err != nil {
		return false, m.storeError("", err)
	}
	sole := len(page.Connections) < 2
	m.sole.Store(&sole)
	return sole, nil
}

// await waits for a refresh of e that takes the place of w.version and returns
// what it brought. A refresh that others had begun may be of an older version, or
// its token may end before all who wait for it have woken: then they wait for the
// next one, for as long as the patience lasts.
func (m *Manager) await(ctx context.Context, e *entry, w purpose) (*Authorization, error) {
	for began := m.Now(); ; {
		s := e.current.Load()
		if err := m.mustWait(e, s, w); err != nil {
			return nil, err
		}
		f, joined := m.start(e, w)
		err := f.wait(ctx, m.Wait-m.Now().Sub(began))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s = e.current.Load()
		if s.good(m.Now()) && (!w.rejected || s.conn.Version > w.version) {
			m.used(e, s)
			return s.auth, nil
		}
		if refused := s.refusal(); refused != nil {
			return nil, refused
		}
		switch {
		case errors.Is(err, errStillRunning):
			return nil, &Error{Code: ServerUnavailable, Connection: s.conn.Name, RetryAfter: time.Second, Err: err}
		case err != nil:
			return nil, err
		case !joined: // it found nothing to do, or its token was gone again at once
			return nil, &Error{Code: ServerUnavailable, Connection: s.conn.Name, RetryAfter: time.Second}
		case s.conn.Version > w.version:
			w = purpose{version: s.conn.Version}
		}
	}
}

// mustWait answers at once, without a flight, when the next try lies ahead.
func (m *Manager) mustWait(e *entry, s *snapshot, w purpose) error {
	if e.flight.Load() != nil || s.conn.Version > w.version {
		return nil
	}
	if left := s.retryAt.Sub(m.Now()); left > 0 {
		return &Error{Code: ServerUnavailable, Connection: s.conn.Name, Reason: s.conn.Reason, RetryAfter: left}
	}
	return nil
}

// condemnedByAPI asks the API itself about a token that a replay has shown to
// be fresh and that is refused all the same, at most once in 30 seconds.
func (m *Manager) condemnedByAPI(ctx context.Context, e *entry, a *Authorization) bool {
	if m.API == nil || !e.mayAsk(m.Now()) {
		return false
	}
	_, err := m.API.Introspect(ctx, a.Value)
	return errors.Is(err, pleo.ErrUnauthorized)
}
