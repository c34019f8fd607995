// Package dashboard serves the pages for operators.
//
// They work without scripts.
package dashboard

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

//go:embed assets
var assetFiles embed.FS

// Config is what [New] needs. Operator and Gatherer are required.
type Config struct {
	Operator *manage.Operator
	// Gatherer has the metrics that the charts are drawn from.
	Gatherer prometheus.Gatherer
	// Health returns how the parts of the program are. Nil: none are shown.
	Health func(context.Context) []Check
	// Environment is the name of the environment of Pleo, which every page shows.
	// Empty: none is shown.
	Environment string

	// Token returns the admin token, which operators sign in with. Nil, or an empty
	// token: signing in is not possible.
	Token func() credstore.Secret
	// TokenFile is where operators find the token, for the sign-in page.
	TokenFile string
	// Exposed is whether other users than those of this machine can reach the
	// listener. Then reading requires signing in too.
	Exposed bool

	Logger *zap.Logger      // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
}

// Check is how one part of the program is.
type Check struct {
	Name  string
	Error string // empty: no problem
}

// Dashboard serves the pages. Use [New] to make one.
type Dashboard struct {
	Config

	series *timeSeries
	pages  *renderer
	auth   *auth
}

// New returns a Dashboard.
func New(c Config) (*Dashboard, error) {
	if c.Operator == nil || c.Gatherer == nil {
		return nil, errors.New("dashboard: Config needs an Operator and a Gatherer")
	}
	c = c.withDefaults()
	pages, err := newRenderer(c)
	if err != nil {
		return nil, fmt.Errorf("parsing the pages: %w", err)
	}
	failures := &failureLimiter{now: c.Now, byNetwork: map[string]failures{}}
	return &Dashboard{Config: c, series: &timeSeries{gatherer: c.Gatherer, now: c.Now}, pages: pages, auth: &auth{c, pages, failures}}, nil
}

func (c Config) withDefaults() Config {
	if c.Health == nil {
		c.Health = func(context.Context) []Check { return nil }
	}
	if c.Token == nil {
		c.Token = func() credstore.Secret { return credstore.Secret{} }
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Run samples the metrics for the charts until ctx ends.
func (d *Dashboard) Run(ctx context.Context) { d.series.run(ctx) }

// Handler returns the handler of all pages, and of addresses at which there is
// nothing. The caller has checked the origin of requests.
func (d *Dashboard) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]handler{
		"GET /{$}":                             d.auth.requireReader(d.overview),
		"GET /connections":                     d.auth.requireReader(d.list),
		"GET /connections/{name}":              d.auth.requireReader(d.show),
		"GET /new":                             d.auth.requireSession(d.createForm),
		"POST /new":                            d.auth.requireForm(d.create),
		"GET /connections/{name}/{operation}":  d.auth.requireSession(d.confirmForm),
		"POST /connections/{name}/{operation}": d.auth.requireForm(d.runOperation),
		"GET /sign-in":                         d.auth.signInForm,
		"POST /sign-in":                        d.auth.signIn,
		"POST /sign-out":                       d.auth.requireForm(d.auth.signOut),
	} {
		mux.HandleFunc(pattern, d.pages.serve(h))
	}
	for _, asset := range []string{"style.css", "copy.js", "icon.svg"} {
		mux.HandleFunc("GET /assets/"+asset, func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, assetFiles, "assets/"+asset)
		})
	}
	mux.HandleFunc("/", d.pages.notFound)
	return mux
}
