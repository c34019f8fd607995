// Package connect serves the pages for customers: consent, callback and key
// entry.
//
// A connect link leads to one page, /connect/TOKEN, which shows what to do and
// afterwards the outcome:
//
//	GET  /connect/TOKEN    the form; changes nothing               links.go
//	POST /connect/TOKEN    oauth: 303 to Pleo                      consent.go
//	                       keys: the key is checked and stored     key.go
//	GET  /oauth/callback   Pleo's redirect; 303 to the link        consent.go
//	GET  /connect/TOKEN    the outcome, in this browser only       outcome.go
//
// Requests share no state in the process: an attempt is in the store and its
// outcome in a cookie, so that each request may reach another replica.
package connect

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// Store is the part of the credential store that the pages use.
type Store interface {
	Read(ctx context.Context, id string) (credstore.State, error)
	FindLink(ctx context.Context, token credstore.Secret) (credstore.Link, error)
	BeginConsent(ctx context.Context, c credstore.Consent) error
	TakeConsent(ctx context.Context, state credstore.Secret, browser []byte) (credstore.Consent, error)
	RecordEvent(ctx context.Context, id string, e credstore.Event) error
}

// AuthorizationServer is implemented by [pleo.AuthorizationServer].
type AuthorizationServer interface {
	AuthorizeURL(state, verifier credstore.Secret, redirectURI string, scopes []string) string
	Exchange(ctx context.Context, code, verifier credstore.Secret, redirectURI string) (pleo.Tokens, error)
}

// Grants stores what customers grant. [refresh.Manager] implements it.
type Grants interface {
	Consent(ctx context.Context, g refresh.ConsentGrant) (credstore.Connection, error)
	SetKey(ctx context.Context, g apikey.Change) (credstore.Connection, error)
}

// Branding is the name and logo on the pages.
type Branding struct {
	Name string // of the product that asks for access; empty means "the integration"
	Logo []byte // PNG, JPEG, GIF, WebP or SVG; nil means none
}

// Config configures [Pages].
type Config struct {
	Store  Store               // required
	Grants Grants              // required
	Server AuthorizationServer // nil means that OAuth is not configured
	// PublicURL is the URL of the pages for browsers. Required.
	PublicURL *url.URL
	// AuthURL is the URL of the authorization server for browsers. Required with
	// Server.
	AuthURL *url.URL
	// Issuer is compared with the iss parameter of callbacks, if they have one
	// (RFC 9207). Empty means AuthURL.
	Issuer string
	// Scopes are requested in a consent and required of keys. Nil means those that
	// the client is registered for, and any key.
	Scopes []string
	// PleoURL is where customers sign in to Pleo. Empty means unknown.
	PleoURL string
	// Environment is the name of Pleo's environment on the key page. Empty means
	// production.
	Environment string
	// ReturnURLs are the URLs that links may return to.
	ReturnURLs []string
	Branding   Branding
	Logger     *zap.Logger      // nil means no log
	Now        func() time.Time // nil means time.Now
}

// Pages is the handler of the connect listener. Use [New] to create it. It is safe
// for concurrent use.
type Pages struct {
	Config

	base     string // the path of PublicURL, without a trailing slash
	hosts    webguard.Hosts
	cookies  cookies
	views    views
	renderer *renderer
	attempts *attemptLimiter
	handler  http.Handler
}

// New returns the pages of c. The error says what is wrong with c.
func New(c Config) (*Pages, error) {
	switch {
	case c.Store == nil || c.Grants == nil:
		return nil, errors.New("connect: Config needs a Store and Grants")
	case c.PublicURL == nil || c.PublicURL.Host == "":
		return nil, errors.New("connect: Config needs a PublicURL")
	case c.Server != nil && c.AuthURL == nil:
		return nil, errors.New("connect: Config with a Server needs its AuthURL")
	}
	t, err := readTexts()
	if err != nil {
		return nil, err
	}
	c = c.withDefaults()
	p := &Pages{
		Config:  c,
		base:    strings.TrimSuffix(c.PublicURL.Path, "/"),
		hosts:   webguard.PublicHosts(c.PublicURL.Hostname()),
		cookies: cookies{secure: c.PublicURL.Scheme == "https"},
		views: views{
			brand: c.Branding.Name, scopes: c.Scopes, pleoURL: c.PleoURL, environment: c.Environment,
			returnURLs: c.ReturnURLs, texts: t,
		},
		attempts: newAttemptLimiter(c.Now),
	}
	if p.renderer, err = newRenderer(p.base, c.Branding, c.Logger); err != nil {
		return nil, err
	}
	p.handler = p.guard(p.routes())
	return p, nil
}

func (c Config) withDefaults() Config {
	if c.Branding.Name == "" {
		c.Branding.Name = "the integration"
	}
	if c.Issuer == "" && c.AuthURL != nil {
		c.Issuer = c.AuthURL.String()
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// ServeHTTP serves the pages.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

// Paths below that of the public URL.
const (
	linkPath     = "/connect/"
	callbackPath = "/oauth/callback"
	stoppedPath  = "/stopped/"
)

func (p *Pages) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+p.base+linkPath+"{token}", waitForSlot(maxConcurrentLookups, p.showLink))
	mux.HandleFunc("POST "+p.base+linkPath+"{token}", p.limitConcurrent(maxConcurrentExchanges, p.useLink))
	mux.HandleFunc("GET "+p.base+callbackPath, p.limitConcurrent(maxConcurrentExchanges, p.callback))
	mux.HandleFunc("GET "+p.base+stoppedPath+"{reason}", p.showStopped)
	p.renderer.assets(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { p.showReason(w, r, notFound) })
	return mux
}

// redirectURI is the redirect URI that is registered at Pleo.
func (p *Pages) redirectURI() string { return p.PublicURL.JoinPath(callbackPath).String() }

// linkURL returns the path of a link.
func (p *Pages) linkURL(token credstore.Secret) string {
	return p.base + linkPath + url.PathEscape(token.Reveal())
}

func (p *Pages) show(w http.ResponseWriter, r *http.Request, v view) { p.renderer.show(w, r, v) }

// showReason shows why a request was stopped, without the names of a link.
func (p *Pages) showReason(w http.ResponseWriter, r *http.Request, why reason) {
	p.show(w, r, p.views.stopped(why, names{brand: p.Branding.Name}))
}

// logError logs an error that the page shows as a problem on our side.
func (p *Pages) logError(message string, v visit, err error) {
	p.Logger.Error(message, zap.String("connection", v.conn().Name), zap.Error(err))
}
