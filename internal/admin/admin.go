// Package admin is the operator's side: health, metrics, and a JSON API that
// shows the connections.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// Store is what the operator's side reads and changes. Its methods are those of
// [credstore.Store].
type Store interface {
	Find(ctx context.Context, name string) (credstore.Connection, error)
	List(ctx context.Context, q credstore.Query) (credstore.Page, error)
	Count(ctx context.Context) (map[credstore.Group]int, error)
	Removed(ctx context.Context, name string) (id string, err error)
	History(ctx context.Context, id, before string, limit int) (credstore.HistoryPage, error)
	Create(ctx context.Context, c credstore.NewConnection) (credstore.Connection, error)
	Disable(ctx context.Context, id, reason string) error
	Enable(ctx context.Context, id string) error
	RetryRejected(ctx context.Context, id string, at time.Time) error
}

// Check is something worth knowing about a running program. Checks are shown by
// /readyz?verbose and never make the program unready: a process that holds an
// unsaved token pair is the only one that can serve it.
type Check struct {
	Name  string
	Probe func(context.Context) error // nil: all is well; the error holds no secret
}

// Config is what an [Admin] is made of. Store and Gatherer are required, and
// Actions where Token is set.
type Config struct {
	Store Store
	// Environment is that of Pleo which pages name, so that operators know where
	// they are. Empty: they name none.
	Environment string
	// Gatherer has the metrics, beside those of the store.
	Gatherer prometheus.Gatherer

	// Ready returns nil once the program can serve, and why it cannot before
	// that and while it drains. Nil means always ready.
	Ready func() error
	// Checks are probed for /readyz?verbose, each for at most 2 seconds.
	Checks []Check

	// AllowedHosts are names, without port, that requests may have in Host
	// besides those no public web page can be served from.
	AllowedHosts []string

	// Token gives the admin token, which every change takes. Nil or an empty one:
	// nothing can be changed.
	Token   func() credstore.Secret
	Actions manage.Actions
	// Links says that there are pages for customers, to which links lead.
	Links bool
	// ReturnURLs are those that a link may go back to at its end.
	ReturnURLs []string
	// TokenFile is where operators find the token; for the page to sign in at.
	TokenFile string
	// Exposed says that others than this machine's users may reach the listener:
	// then reading takes the token too.
	Exposed bool

	Logger *zap.Logger      // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
}

// Admin serves the operator's side. Use [New] to make one.
type Admin struct {
	store       Store
	environment string
	actions     manage.Actions
	ready       func() error
	checks      []Check
	hosts       webguard.Hosts
	token       func() credstore.Secret
	tokenFile   string
	exposed     bool
	links       bool
	returnURLs  []string
	metrics     http.Handler
	series      *timeSeries
	dashboard   *dashboard
	logger      *zap.Logger
	now         func() time.Time
}

// New returns an Admin.
func New(c Config) (*Admin, error) {
	if c.Store == nil || c.Gatherer == nil {
		return nil, errors.New("admin: Config needs a Store and a Gatherer")
	}
	if c.Token != nil && c.Actions == nil {
		return nil, errors.New("admin: Config with a Token needs Actions")
	}
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	if c.Token == nil {
		c.Token = func() credstore.Secret { return credstore.Secret{} }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	a := &Admin{
		store:       c.Store,
		environment: c.Environment,
		ready:       c.Ready,
		checks:      c.Checks,
		token:       c.Token,
		exposed:     c.Exposed,
		actions:     c.Actions,
		links:       c.Links,
		returnURLs:  c.ReturnURLs,
		tokenFile:   c.TokenFile,
		series:      &timeSeries{gatherer: c.Gatherer, now: c.Now},
		now:         c.Now,
		hosts:       webguard.PrivateHosts(c.AllowedHosts...),
		metrics:     metricsHandler(c.Gatherer, c.Store),
		logger:      c.Logger,
	}
	var err error
	if a.dashboard, err = newDashboard(a); err != nil {
		return nil, fmt.Errorf("reading the pages: %w", err)
	}
	return a, nil
}

// Run samples the metrics for the charts of the dashboard until ctx ends.
func (a *Admin) Run(ctx context.Context) { a.series.run(ctx) }

// Handler returns the handler of the admin listener. What web pages of others
// send to it is refused.
func (a *Admin) Handler() http.Handler {
	mux := a.probes(a.dashboard.notFound())
	handleGet(mux, "/metrics", a.requireReader(a.metrics.ServeHTTP))
	a.serveAPI(mux)
	a.dashboard.serve(mux)
	return noStore(a.checkOrigin(mux))
}

// HealthHandler returns the handler of the health listener: probes and metrics
// without any check of who asks, and nothing else.
func (a *Admin) HealthHandler() http.Handler {
	mux := a.probes(notFound)
	handleGet(mux, "/metrics", a.metrics.ServeHTTP)
	return noStore(mux)
}

// probes serves what tells nothing but whether requests should be sent here,
// and so takes no token anywhere, and missing at all other addresses.
func (a *Admin) probes(missing http.HandlerFunc) *http.ServeMux {
	mux := http.NewServeMux()
	handleGet(mux, "/livez", a.livez)
	handleGet(mux, "/readyz", a.readyz)
	mux.HandleFunc("/", missing)
	return mux
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	writeProblem(w, manage.NewProblem(manage.CodeNotFound, "There is nothing at this address."))
}

// handleGet serves GET and HEAD of the pattern and refuses other methods.
func handleGet(mux *http.ServeMux, pattern string, h http.HandlerFunc) {
	mux.HandleFunc("GET "+pattern, h)
	rejectOtherMethods(mux, pattern, http.MethodGet)
}

// noStore keeps answers out of caches, and browsers from guessing what they are.
func noStore(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}
