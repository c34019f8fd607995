// Package connect serves the customer's pages: consent in Pleo, the callback
// from there, and the entry of an API key.
//
// A connect link leads to one page, /connect/TOKEN, which shows what there is to
// do and, afterwards, what has come of it:
//
//	GET  /connect/TOKEN    who asks for what; spends nothing      link.go
//	POST /connect/TOKEN    oauth: 303 to Pleo                     consent.go
//	                       keys: the key is checked and stored    key.go
//	GET  /oauth/callback   what Pleo answered; 303 back           consent.go
//	GET  /connect/TOKEN    the outcome, to this browser only      outcome.go
//
// Nothing is kept in this process between two requests: an attempt is in the
// store, and an outcome in a cookie, so that each may come to another replica.
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
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// Store is what the pages read and write. Its methods are those of
// [credstore.Store].
type Store interface {
	Read(ctx context.Context, id string) (credstore.State, error)
	FindLink(ctx context.Context, token credstore.Secret) (credstore.Link, error)
	BeginConsent(ctx context.Context, c credstore.Consent) error
	TakeConsent(ctx context.Context, state credstore.Secret, browser []byte) (credstore.Consent, error)
	RecordEvent(ctx context.Context, id string, e credstore.Event) error
}

// AuthorizationServer is Pleo's, as [pleo.AuthorizationServer] speaks to it.
type AuthorizationServer interface {
	AuthorizeURL(state, verifier credstore.Secret, redirectURI string, scopes []string) string
	Exchange(ctx context.Context, code, verifier credstore.Secret, redirectURI string) (pleo.Tokens, error)
}

// Grants takes what customers give, as [refresh.Manager] does.
type Grants interface {
	Consent(ctx context.Context, g refresh.ConsentGrant) (credstore.Connection, error)
	SetKey(ctx context.Context, g refresh.KeyChange) (credstore.Connection, error)
}

// Branding is how the pages name whoever asks for access.
type Branding struct {
	Name string // empty: "the integration"
	Logo []byte // PNG, JPEG, GIF, WebP or SVG; nil: none
}

// Config is what [New] makes the pages of.
type Config struct {
	Store  Store               // required
	Grants Grants              // required
	Server AuthorizationServer // nil: OAuth is not configured
	// PublicURL is where browsers reach the pages. Required.
	PublicURL *url.URL
	// AuthURL is where browsers reach the authorization server. Required with Server.
	AuthURL *url.URL
	// Issuer is what the authorization server calls itself, if it says so in the
	// callback (RFC 9207). Empty: its AuthURL.
	Issuer string
	// Scopes is what consent is asked for, and what keys must allow. Nil: what
	// the client is registered for, and anything.
	Scopes []string
	// PleoURL is where customers sign in to Pleo; empty: not known.
	PleoURL string
	// Environment is what Pleo's environment is called where it is not
	// production; the key page says so.
	Environment string
	// ReturnURLs are where links may lead back to.
	ReturnURLs []string
	Branding   Branding
	Logger     *zap.Logger      // nil: nothing is logged
	Now        func() time.Time // nil: time.Now
}

// Pages is the handler of the connect listener. Use [New] to make one.
type Pages struct {
	Config

	base     string // the path of PublicURL, without a slash at the end
	secure   bool   // PublicURL is https
	hosts    webguard.Hosts
	theme    *theme
	messages map[reason]message // never changed
	attempts *attemptLimiter
	handler  http.Handler
}

// New returns the pages of c, or what is wrong with c.
func New(c Config) (*Pages, error) {
	if c.Store == nil || c.Grants == nil {
		return nil, errors.New("connect: Config needs a Store and Grants")
	}
	if c.PublicURL == nil || c.PublicURL.Host == "" {
		return nil, errors.New("connect: Config needs a PublicURL")
	}
	if c.Server != nil && c.AuthURL == nil {
		return nil, errors.New("connect: Config with a Server needs its AuthURL")
	}
	p := &Pages{
		Config: c.withDefaults(),
		base:   strings.TrimSuffix(c.PublicURL.Path, "/"),
		secure: c.PublicURL.Scheme == "https",
		hosts:  webguard.PublicHosts(c.PublicURL.Hostname()),
	}
	var err error
	if p.theme, err = newTheme(p.base, c.Branding.Logo); err != nil {
		return nil, err
	}
	p.messages, p.attempts = messages(), newAttemptLimiter(p.Now)
	p.handler = p.guard(p.routes())
	return p, nil
}

func (c Config) withDefaults() Config {
	if c.Branding.Name == "" {
		c.Branding.Name = "the integration"
	}
	if c.Issuer == "" && c.AuthURL != nil {
		c.Issuer = strings.TrimSuffix(c.AuthURL.String(), "/")
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

func (p *Pages) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+p.base+linkPath+"{token}", waitForSlot(maxConcurrentLookups, p.showLink))
	mux.HandleFunc("POST "+p.base+linkPath+"{token}", p.limitConcurrent(maxConcurrentExchanges, p.useLink))
	mux.HandleFunc("GET "+p.base+callbackPath, p.limitConcurrent(maxConcurrentExchanges, p.callback))
	mux.HandleFunc("GET "+p.base+stoppedPath+"{why}", p.showStopped)
	mux.HandleFunc("GET "+p.theme.stylePath, p.theme.serveStyle)
	if p.theme.logoPath != "" {
		mux.HandleFunc("GET "+p.theme.logoPath, p.theme.serveLogo)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { p.show(w, r, p.stoppedWithoutLink(notFound)) })
	return mux
}

// Where the pages are, behind the path of the public URL.
const (
	linkPath     = "/connect/"
	callbackPath = "/oauth/callback"
	stoppedPath  = "/stopped/"
)

// redirectURI is where Pleo sends browsers back to. It is registered there.
func (p *Pages) redirectURI() string { return p.PublicURL.JoinPath(callbackPath).String() }

// linkURL returns the address of a link, within the origin.
func (p *Pages) linkURL(token credstore.Secret) string {
	return p.base + linkPath + url.PathEscape(token.Reveal())
}
