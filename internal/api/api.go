// Package api serves the JSON API for operators, health endpoints and metrics.
package api

import (
	"errors"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// Config is what [New] needs. Operator and Gatherer are required.
type Config struct {
	Operator *manage.Operator
	// Gatherer has the metrics, except for those that are read from the store.
	Gatherer prometheus.Gatherer

	// Ready returns nil while the program can serve requests, and otherwise why it
	// cannot. Nil means always ready.
	Ready func() error
	// Checks are run for /readyz?verbose and for [API.Health], each for at most 2
	// seconds.
	Checks []Check

	// AllowedHosts are names, without port, that requests may have in Host besides
	// those that [webguard.PrivateHosts] allows.
	AllowedHosts []string
	// Token returns the admin token, which every change requires. Nil, or an empty
	// token: nothing can be changed.
	Token func() credstore.Secret
	// Exposed is whether other users than those of this machine can reach the
	// listener. Then reading requires the token too.
	Exposed bool
}

// API serves the JSON API, health endpoints and metrics. Use [New] to make one.
type API struct {
	operator *manage.Operator
	access   access
	health   health
	hosts    webguard.Hosts
	metrics  http.Handler
}

// New returns an API.
func New(c Config) (*API, error) {
	if c.Operator == nil || c.Gatherer == nil {
		return nil, errors.New("api: Config needs an Operator and a Gatherer")
	}
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	if c.Token == nil {
		c.Token = func() credstore.Secret { return credstore.Secret{} }
	}
	return &API{
		operator: c.Operator,
		access:   access{token: c.Token, exposed: c.Exposed},
		health:   health{ready: c.Ready, checks: c.Checks},
		hosts:    webguard.PrivateHosts(c.AllowedHosts...),
		metrics:  metricsHandler(c.Gatherer, c.Operator.Store),
	}, nil
}

// Handler returns the handler of the admin listener. It rejects requests that web
// pages of other origins send, and passes on those that are for neither API, metrics
// nor health endpoints to pages.
func (a *API) Handler(pages http.Handler) http.Handler {
	mux := http.NewServeMux()
	a.health.register(mux)
	handleGet(mux, "/metrics", a.access.requireReader(a.metrics.ServeHTTP))
	a.register(mux)
	mux.HandleFunc("/api/", notFound)
	mux.Handle("/", pages)
	return private(a.checkOrigin(mux))
}

// HealthHandler returns the handler of the health listener: health endpoints and
// metrics for all clients, and nothing else.
func (a *API) HealthHandler() http.Handler {
	mux := http.NewServeMux()
	a.health.register(mux)
	handleGet(mux, "/metrics", a.metrics.ServeHTTP)
	mux.HandleFunc("/", notFound)
	return private(mux)
}

// checkOrigin rejects requests of web pages of other origins. Reading may require
// no password, so that a page which makes a browser request 127.0.0.1:8485, or
// which points its own name there (DNS rebinding), could otherwise read the list
// of connections. Links to pages are followed: no GET changes anything, and no page
// can be framed.
func (a *API) checkOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.hosts.Allow(r) {
			writeProblem(w, manage.NewProblem(manage.CodeHostNotAllowed, "This host name is not allowed. If it is yours, add it to proxy.allowed_hosts."))
			return
		}
		if !webguard.SameOrigin(r) && !webguard.TopLevelNavigation(r) {
			writeProblem(w, manage.NewProblem(manage.CodeCrossSiteRequest, "Web pages of other origins cannot send requests to this listener."))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// private keeps responses out of caches, and browsers from guessing media types.
func private(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	writeProblem(w, manage.NewProblem(manage.CodeNotFound, "There is nothing at this address."))
}
