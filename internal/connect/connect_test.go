package connect

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// Secrets of the tests, which must not appear anywhere.
const (
	codeCanary   = "code-canary-Q3w9Z"
	accessCanary = "access-canary-L7k2P"
	keyCanary    = "pls_canary_V5r8T"
)

const returnURL = "https://books.example.com/done?from=pleo"

// env is the pages with a store in memory and a fake Pleo.
type env struct {
	t     *testing.T
	pages *Pages
	store *sqlstore.Store
	links *LinkIssuer
	pleo  *fakePleo
	later atomic.Int64 // how far the clock is ahead, in nanoseconds
}

// fakePleo is an authorization server, and stores what customers grant.
type fakePleo struct {
	store *sqlstore.Store

	mu             sync.Mutex // guards what follows
	exchanges      []exchangeCall
	keys           []apikey.Change
	err            error             // of the next consent or key
	company        credstore.Company // of consents and keys
	companyUnknown bool              // the company cannot be verified
}

type exchangeCall struct{ code, verifier, redirectURI string }

func (p *fakePleo) AuthorizeURL(state, verifier credstore.Secret, redirectURI string, scopes []string) string {
	return "https://auth.example.com/oauth/authorize?" + url.Values{
		"state": {state.Reveal()}, "challenge_of": {verifier.Reveal()}, "redirect_uri": {redirectURI}, "scope": {strings.Join(scopes, " ")},
	}.Encode()
}

func (p *fakePleo) Exchange(_ context.Context, code, verifier credstore.Secret, redirectURI string) (pleo.Tokens, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exchanges = append(p.exchanges, exchangeCall{code.Reveal(), verifier.Reveal(), redirectURI})
	return pleo.Tokens{
		AccessToken: credstore.NewSecret(accessCanary), RefreshToken: credstore.NewSecret(accessCanary + verifier.Reveal()),
		SentAt: time.Now(), Lifetime: time.Hour,
	}, nil
}

func (p *fakePleo) Consent(ctx context.Context, g refresh.ConsentGrant) (credstore.Connection, error) {
	tokens, err := g.Exchange(ctx)
	if err == nil {
		err = p.err
	}
	if err != nil {
		return credstore.Connection{}, err
	}
	return p.replace(ctx, g.ConnectionID, credstore.Replacement{
		Credential: credstore.NewCredential{AccessToken: tokens.AccessToken, RefreshToken: tokens.RefreshToken},
		ObtainedAt: tokens.SentAt, Scope: "users:read", LinkToken: g.LinkToken,
	})
}

func (p *fakePleo) SetKey(ctx context.Context, g apikey.Change) (credstore.Connection, error) {
	p.mu.Lock()
	p.keys = append(p.keys, g)
	p.mu.Unlock()
	if p.err != nil {
		return credstore.Connection{}, p.err
	}
	return p.replace(ctx, g.ConnectionID, credstore.Replacement{
		Credential: credstore.NewCredential{APIKey: g.Key}, LinkToken: g.LinkToken,
	})
}

func (p *fakePleo) replace(ctx context.Context, id string, r credstore.Replacement) (credstore.Connection, error) {
	lease, err := p.store.Credentials.Acquire(ctx, id, "test")
	if err != nil {
		return credstore.Connection{}, err
	}
	defer func() { _ = lease.Release() }()
	r.Company, r.CompanyUnverified = p.company, p.companyUnknown
	return p.store.Connections.Replace(ctx, lease, r)
}

// calls returns the number of token requests.
func (p *fakePleo) calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.exchanges)
}

// newEnv returns an env with the public URL, configured by change.
func newEnv(t *testing.T, publicURL string, change func(*Config)) *env {
	t.Helper()
	keyset, err := keyset.NewTemporary()
	if err != nil {
		t.Fatal(err)
	}
	o := &env{t: t}
	now := func() time.Time { return time.Now().Add(time.Duration(o.later.Load())) }
	store, err := sqlstore.Open(t.Context(), sqlstore.Config{Now: now, Memory: sqlstore.NewMemory(), Keyset: keyset, Binding: credstore.Binding{Environment: "custom"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	o.store, o.pleo = store, &fakePleo{store: store, company: credstore.Company{ID: "c-1", Name: "Acme ApS"}}
	public, err := url.Parse(publicURL)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Store:  pageStore{store.Connections, store.Links, store.History},
		Grants: o.pleo, Server: o.pleo, PublicURL: public,
		AuthURL: &url.URL{Scheme: "https", Host: "auth.example.com"},
		Now:     now,
		Scopes:  []string{"users:read"}, ReturnURLs: []string{returnURL}, Branding: Branding{Name: "Fjord Books"},
	}
	if change != nil {
		change(&c)
	}
	if o.pages, err = New(c); err != nil {
		t.Fatal(err)
	}
	o.links = NewLinkIssuer(LinkIssuerConfig{Store: store.Links, PublicURL: public})
	return o
}

// connection creates a connection without a credential and returns its id.
func (o *env) connection(name string, kind credstore.Kind) string {
	o.t.Helper()
	c, err := o.store.Connections.Create(o.t.Context(), credstore.NewConnection{Name: name, Kind: kind, ExternalTenant: "Tenant of " + name})
	if err != nil {
		o.t.Fatal(err)
	}
	return c.ID
}

// link issues a link for the connection with the id, and returns its path.
func (o *env) link(id string) string {
	o.t.Helper()
	link, _, err := o.links.Issue(o.t.Context(), id, credstore.LinkRequest{ReturnURL: returnURL, ReplaceExisting: true})
	if err != nil {
		o.t.Fatal(err)
	}
	u, err := url.Parse(link)
	if err != nil {
		o.t.Fatal(err)
	}
	return u.Path
}

func (o *env) state(id string) credstore.State {
	o.t.Helper()
	s, err := o.store.Connections.Read(o.t.Context(), id)
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

// browser is a browser with cookies, which does not follow redirects by itself.
type browser struct {
	o       *env
	cookies map[string]*http.Cookie
	header  map[string]string // of all requests
	host    string
}

func (o *env) browser() *browser {
	return &browser{o: o, cookies: map[string]*http.Cookie{}, host: o.pages.PublicURL.Host}
}

// send sends a request to the pages and stores the cookies of the response.
func (p *browser) send(method, target, body string) *httptest.ResponseRecorder {
	p.o.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = p.host
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range p.header {
		r.Header.Set(name, value)
	}
	for _, c := range p.cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	p.o.pages.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 {
			delete(p.cookies, c.Name)
			continue
		}
		p.cookies[c.Name] = c
	}
	return w
}

// start clicks the button of the link and returns the authorization request.
func (p *browser) start(link string) url.Values {
	p.o.t.Helper()
	p.send("GET", link, "")
	w := p.send("POST", link, "")
	to, err := url.Parse(w.Header().Get("Location"))
	if err != nil || w.Code != http.StatusSeeOther || to.Host != "auth.example.com" {
		p.o.t.Fatalf("POST %s = %d to %q, want 303 to Pleo", link, w.Code, to)
	}
	return to.Query()
}

// callback follows Pleo's redirect with the state and a code.
func (p *browser) callback(state string) *httptest.ResponseRecorder {
	p.o.t.Helper()
	return p.send("GET", p.o.pages.base+callbackPath+"?"+url.Values{"state": {state}, "code": {codeCanary}}.Encode(), "")
}

// follow follows the redirect w and returns the page.
func (p *browser) follow(w *httptest.ResponseRecorder) string {
	p.o.t.Helper()
	if w.Code != http.StatusSeeOther {
		p.o.t.Fatalf("status %d, want 303:\n%s", w.Code, w.Body)
	}
	return p.send("GET", w.Header().Get("Location"), "").Body.String()
}

func wantText(t *testing.T, page string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			t.Errorf("the page does not contain %q:\n%s", text, page)
		}
	}
}

// TestCustomerResolvesCompanyConflict checks that a connection which was disabled
// because its company is bound to another connection can be connected again, unlike
// one that an operator has disabled.
func TestCustomerResolvesCompanyConflict(t *testing.T) {
	o := newEnv(t, publicURL, nil)
	first, second := o.connection("first", credstore.OAuth), o.connection("second", credstore.OAuth)
	if err := o.store.Connections.SetCompany(t.Context(), first, credstore.Company{ID: "c-2"}); err != nil {
		t.Fatal(err)
	}
	o.pleo.company, o.pleo.companyUnknown = credstore.Company{}, true
	alice := o.browser()
	page := alice.follow(alice.callback(alice.start(o.link(second)).Get("state")))
	if wantText(t, page, "Almost done", "cannot tell us at the moment which company"); strings.Contains(page, "is now connected") {
		t.Errorf("a consent for an unknown company is shown as connected:\n%s", page)
	}
	if err := o.store.Connections.SetCompany(t.Context(), second, credstore.Company{ID: "c-2"}); !errors.Is(err, credstore.ErrCompanyBound) {
		t.Fatalf("Identify = %v, want a conflict", err)
	}
	link := o.link(second)
	wantText(t, alice.send("GET", link, "").Body.String(), "is already connected to Fjord Books", "Tenant of second")
	o.pleo.company, o.pleo.companyUnknown = credstore.Company{ID: "c-1", Name: "Acme ApS"}, false
	wantText(t, alice.follow(alice.callback(alice.start(link).Get("state"))), "Connected", "Acme ApS")
	if s := o.state(second).Connection.Status; s != credstore.Active {
		t.Errorf("the connection is %s, want active", s)
	}
	if err := o.store.Connections.Disable(t.Context(), second, credstore.ReasonOperator); err != nil {
		t.Fatal(err)
	}
	wantText(t, alice.send("GET", o.link(second), "").Body.String(), "This connection is turned off")
}

// pageStore is the part of a store that the pages use.
type pageStore struct {
	credstore.Connections
	credstore.Links
	credstore.History
}
