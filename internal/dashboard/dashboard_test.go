package dashboard

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/api"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage/managetest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// testDashboard is a Dashboard behind an admin listener.
type testDashboard struct {
	*Dashboard
	handler http.Handler
}

// newTestDashboard returns a Dashboard on the store.
func newTestDashboard(t testing.TB, store *managetest.Store, change func(*Config)) testDashboard {
	t.Helper()
	c := Config{Operator: managetest.NewOperator(store), Gatherer: prometheus.NewPedanticRegistry()}
	if change != nil {
		change(&c)
	}
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Config{Operator: c.Operator, Gatherer: c.Gatherer, Token: c.Token, Exposed: c.Exposed})
	if err != nil {
		t.Fatal(err)
	}
	return testDashboard{d, a.Handler(d.Handler())}
}

func withToken(c *Config) {
	c.Token = func() credstore.Secret { return credstore.NewSecret(managetest.AdminToken) }
	c.TokenFile = "/var/lib/pleo-auth-proxy/admin-token"
}

func withLinks(c *Config) {
	withToken(c)
	c.Operator.Links = managetest.Links{Store: c.Operator.Store}
}

func exposed(c *Config) {
	withToken(c)
	c.Exposed = true
}

// browser has the cookies and forms of a web browser.
type browser struct {
	t         *testing.T
	h         http.Handler
	cookie    string // as it is sent; empty: none
	csrfToken string // what the session's forms send back
	change    func(*http.Request)
}

var csrfPattern = regexp.MustCompile(`name="csrf_token" value="([^"]*)"`)

// signedIn returns a browser that is signed in.
func signedIn(t *testing.T, h http.Handler) *browser {
	t.Helper()
	v := &browser{t: t, h: h, cookie: signIn(t, h)}
	v.readCSRFToken()
	return v
}

// readCSRFToken reads the CSRF token of the session from a page.
func (v *browser) readCSRFToken() {
	v.t.Helper()
	found := csrfPattern.FindStringSubmatch(v.open("/").Body.String())
	if found == nil {
		v.t.Fatal("the page has no form to sign out")
	}
	v.csrfToken = html.UnescapeString(found[1])
}

// signIn signs in and returns the cookie.
func signIn(t *testing.T, h http.Handler) string {
	t.Helper()
	return (&browser{t: t, h: h}).signIn()
}

// signIn signs in, possibly again, and returns the cookie.
func (v *browser) signIn() string {
	v.t.Helper()
	w := v.post("/sign-in", map[string]string{"token": managetest.AdminToken})
	cookies := w.Result().Cookies()
	if w.Code != http.StatusSeeOther || len(cookies) != 1 {
		v.t.Fatalf("signing in = %d with %d cookies, want 303 with 1: %s", w.Code, len(cookies), w.Body)
	}
	return cookies[0].Name + "=" + cookies[0].Value
}

func (v *browser) send(r *http.Request) *httptest.ResponseRecorder {
	r.Host = "127.0.0.1:8485"
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if v.cookie != "" {
		r.Header.Set("Cookie", v.cookie)
	}
	if v.change != nil {
		v.change(r)
	}
	w := httptest.NewRecorder()
	v.h.ServeHTTP(w, r)
	return w
}

func (v *browser) open(target string) *httptest.ResponseRecorder {
	return v.send(httptest.NewRequest(http.MethodGet, target, nil))
}

// submit sends a form of the session.
func (v *browser) submit(target string, values map[string]string) *httptest.ResponseRecorder {
	all := map[string]string{"csrf_token": v.csrfToken}
	for name, value := range values {
		all[name] = value
	}
	return v.post(target, all)
}

// post sends a form without the CSRF token.
func (v *browser) post(target string, values map[string]string) *httptest.ResponseRecorder {
	form := url.Values{}
	for name, value := range values {
		form.Set(name, value)
	}
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return v.send(r)
}

// callAPI sends a request of a program with the admin token and a JSON body.
func callAPI(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:8485"
	r.Header.Set("Authorization", "Bearer "+managetest.AdminToken)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// pagePaths returns the paths of all pages.
func pagePaths() []string {
	pages := []string{"/", "/connections", "/connections/acme", "/new", "/sign-in"}
	for _, o := range operations() {
		pages = append(pages, "/connections/acme/"+o.Name)
	}
	return pages
}

func TestPageSecurityHeaders(t *testing.T) {
	h := newTestDashboard(t, &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}, withLinks).handler
	b := signedIn(t, h)
	for _, page := range append(pagePaths(), "/connections/unknown", "/connections?limit=x") {
		header := b.open(page).Header()
		for name, want := range map[string]string{
			"Content-Security-Policy":    "default-src 'none'",
			"Content-Type":               "text/html; charset=utf-8",
			"X-Content-Type-Options":     "nosniff",
			"Referrer-Policy":            "same-origin",
			"Cross-Origin-Opener-Policy": "same-origin",
			"Cache-Control":              "no-store",
		} {
			if got := header.Get(name); !strings.HasPrefix(got, want) {
				t.Errorf("%s of %s = %q, want %q", name, page, got, want)
			}
		}
		for _, forbidden := range []string{"unsafe", "http:", "https:", "*"} {
			if got := header.Get("Content-Security-Policy"); strings.Contains(got, forbidden) || !strings.Contains(got, "frame-ancestors 'none'") {
				t.Errorf("the policy of %s is %q, want one without %s and without frames", page, got, forbidden)
			}
		}
	}
}

// TestChangesRequireSessionForm checks that neither GET requests nor forms of
// other sessions, pages, origins or hosts change anything.
func TestChangesRequireSessionForm(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}
	h := newTestDashboard(t, store, withLinks).handler
	b := signedIn(t, h)
	for _, page := range pagePaths() {
		if w := b.open(page + "?csrf_token=" + b.csrfToken + "&uninstall=1"); w.Code >= 500 {
			t.Errorf("GET %s = %d", page, w.Code)
		}
	}
	for _, o := range operations() {
		target := "/connections/acme/" + o.Name
		for name, send := range map[string]func() int{
			"no token":       func() int { return b.post(target, nil).Code },
			"wrong token":    func() int { return b.post(target, map[string]string{"csrf_token": b.csrfToken + "x"}).Code },
			"token in query": func() int { return b.post(target+"?csrf_token="+b.csrfToken, nil).Code },
			"no session": func() int {
				return (&browser{t: t, h: h}).post(target, map[string]string{"csrf_token": b.csrfToken}).Code
			},
			"other session": func() int { return b.post(target, map[string]string{"csrf_token": signedIn(t, h).csrfToken}).Code },
			"other page": func() int {
				other := *b
				other.change = func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }
				return other.submit(target, nil).Code
			},
			"other origin": func() int {
				other := *b
				other.change = func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }
				return other.submit(target, nil).Code
			},
			"other host": func() int {
				other := *b
				other.change = func(r *http.Request) { r.Host = "evil.example" }
				return other.submit(target, nil).Code
			},
		} {
			if got := send(); got != http.StatusForbidden {
				t.Errorf("POST %s with %s = %d, want 403", target, name, got)
			}
		}
	}
	if len(store.Recorded) > 0 || len(store.Connections) != 1 {
		t.Errorf("something was changed: %v", store.Recorded)
	}
}

// TestSessionDoesNotAuthorizeAPI checks that the cookie of a session is no substitute
// for the admin token: the API has no CSRF tokens.
func TestSessionDoesNotAuthorizeAPI(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}
	b := signedIn(t, newTestDashboard(t, store, withLinks).handler)
	const all, one = "/api/v1/connections", "/api/v1/connections/acme"
	for _, route := range []string{
		"POST " + all, "DELETE " + one, "POST " + one + "/link", "POST " + one + "/check", "POST " + one + "/refresh",
		"POST " + one + "/retry", "POST " + one + "/disable", "POST " + one + "/enable", "POST " + one + "/key", "POST /api/v1/import",
	} {
		method, target, _ := strings.Cut(route, " ")
		r := httptest.NewRequest(method, target, nil)
		r.Header.Set("Content-Type", "application/json")
		if w := b.send(r); w.Code != http.StatusUnauthorized {
			t.Errorf("%s with a session = %d, want 401", route, w.Code)
		}
	}
	if len(store.Recorded) > 0 || len(store.Connections) != 1 {
		t.Errorf("something was changed: %v", store.Recorded)
	}
}

func TestCrossSiteNavigation(t *testing.T) {
	h := newTestDashboard(t, &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}, withLinks).handler
	b := &browser{t: t, h: h, change: func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		r.Header.Set("Sec-Fetch-Mode", "navigate")
		r.Header.Set("Sec-Fetch-Dest", "document")
	}}
	if w := b.open("/connections/acme"); w.Code != http.StatusOK {
		t.Errorf("following a link from a mail = %d, want 200", w.Code)
	}
	b.change = func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		r.Header.Set("Sec-Fetch-Mode", "navigate")
		r.Header.Set("Sec-Fetch-Dest", "iframe")
	}
	if w := b.open("/connections/acme"); w.Code != http.StatusForbidden {
		t.Errorf("framing the page = %d, want 403", w.Code)
	}
}

// TestPagesReadableWithoutSignIn checks a listener that only this machine can
// reach, and an exposed one, which shows only the sign-in page.
func TestPagesReadableWithoutSignIn(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}
	local := &browser{t: t, h: newTestDashboard(t, store, withLinks).handler}
	reached := &browser{t: t, h: newTestDashboard(t, store, exposed).handler}
	for page, free := range map[string]bool{
		"/": true, "/connections?q=a": true, "/connections/acme": true, "/new": false, "/connections/acme/disable": false,
	} {
		w := local.open(page)
		if free && w.Code != http.StatusOK {
			t.Errorf("GET %s on loopback = %d, want 200", page, w.Code)
		}
		toSignIn := "/sign-in?next=" + url.QueryEscape(page)
		if got := w.Header().Get("Location"); !free && (w.Code != http.StatusSeeOther || got != toSignIn) {
			t.Errorf("GET %s on loopback = %d to %q, want 303 to %q", page, w.Code, got, toSignIn)
		}
		w = reached.open(page)
		if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != toSignIn || strings.Contains(w.Body.String(), "Acme") {
			t.Errorf("GET %s on an exposed listener = %d to %q, want 303 to %q", page, w.Code, got, toSignIn)
		}
	}
	w := reached.post("/sign-in", map[string]string{"token": managetest.AdminToken, "next": "/connections?q=a"})
	if got := w.Header().Get("Location"); got != "/connections?q=a" {
		t.Errorf("after signing in the browser goes to %q, want /connections?q=a", got)
	}
}

func TestSignInRedirectStaysLocal(t *testing.T) {
	for given, want := range map[string]string{
		"/connections/acme/key?x=1": "/connections/acme/key?x=1",
		"//evil.example/x":          "/x",
		"https://evil.example/x":    "/x",
		"/\\evil.example":           "/%5Cevil.example",
		"/..//evil.example":         "/evil.example",
		"javascript:alert(1)":       "/",
		"evil.example":              "/",
		"":                          "/",
		"/sign-in?next=/sign-in":    "/",
		"http://127.0.0.1:8485/new": "/new",
	} {
		if got := localPath(given); got != want {
			t.Errorf("localPath(%q) = %q, want %q", given, got, want)
		}
	}
}

// TestSessionExpiry ends sessions by inactivity, by age, by signing out and by a
// new admin token.
func TestSessionExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := managetest.AdminToken
		h := newTestDashboard(t, &managetest.Store{}, func(c *Config) {
			c.Exposed = true
			c.Token = func() credstore.Secret { return credstore.NewSecret(token) }
		}).handler
		open := func(b *browser) bool { return b.open("/").Code == http.StatusOK }
		b := signedIn(t, h)
		time.Sleep(sessionIdleTimeout - time.Second)
		if !open(b) {
			t.Error("the session ended before its idle timeout")
		}
		time.Sleep(sessionIdleTimeout)
		if open(b) {
			t.Error("the session is valid after its idle timeout")
		}
		b = signedIn(t, h)
		for range int(maxSessionAge/(10*time.Minute)) - 1 {
			time.Sleep(10 * time.Minute)
			if !open(b) {
				t.Fatal("the session ended while it was used")
			}
		}
		time.Sleep(10 * time.Minute)
		if open(b) {
			t.Error("the session is valid after its maximum age")
		}
		b = signedIn(t, h)
		before := *b
		if b.cookie = b.signIn(); open(&before) || !open(b) {
			t.Error("the previous session is valid after signing in again")
		}
		b.readCSRFToken()
		copied := *b
		w := b.submit("/sign-out", nil)
		if c := w.Result().Cookies(); len(c) != 1 || c[0].MaxAge >= 0 {
			t.Errorf("signing out leaves the cookie: %v", c)
		}
		if open(&copied) {
			t.Error("a copied cookie is valid after signing out")
		}
		b = signedIn(t, h)
		token = "another-token-of-the-operator"
		if open(b) {
			t.Error("the session is valid although the admin token was replaced")
		}
	})
}

func TestSessionCookie(t *testing.T) {
	h := newTestDashboard(t, &managetest.Store{}, withToken).handler
	for name, test := range map[string]struct {
		change func(*http.Request)
		cookie string
		secure bool
	}{
		"plain":        {func(*http.Request) {}, "pleo_admin_8485", false},
		"TLS":          {func(r *http.Request) { r.TLS = &tls.ConnectionState{} }, "__Host-pleo_admin_8485", true},
		"TLS in front": {func(r *http.Request) { r.Header.Set("Origin", "https://127.0.0.1:8485") }, "__Host-pleo_admin_8485", true},
		"IPv6":         {func(r *http.Request) { r.Host = "[::1]:8485" }, "pleo_admin_8485", false},
		"no port":      {func(r *http.Request) { r.Host = "localhost" }, "pleo_admin", false},
	} {
		v := &browser{t: t, h: h, change: test.change}
		cookies := v.post("/sign-in", map[string]string{"token": " " + managetest.AdminToken + "\n"}).Result().Cookies()
		if len(cookies) != 1 {
			t.Fatalf("%s: %d cookies, want 1", name, len(cookies))
		}
		c := cookies[0]
		if c.Name != test.cookie || c.Secure != test.secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("%s: the cookie is %v, want %s, HttpOnly, SameSite=Strict, Path=/, Secure %v", name, c, test.cookie, test.secure)
		}
	}
}

// TestDashboardsOnTwoPortsOfOneHost checks that signing in to one dashboard does
// not end the session of the other: browsers send cookies to all ports of a host.
func TestDashboardsOnTwoPortsOfOneHost(t *testing.T) {
	first := signedIn(t, newTestDashboard(t, &managetest.Store{}, exposed).handler)
	other := &browser{t: t, h: newTestDashboard(t, &managetest.Store{}, exposed).handler, change: func(r *http.Request) { r.Host = "127.0.0.1:9485" }}
	c := other.post("/sign-in", map[string]string{"token": managetest.AdminToken}).Result().Cookies()[0]
	jar := map[string]string{}
	for _, cookie := range []string{first.cookie, c.Name + "=" + c.Value} {
		name, value, _ := strings.Cut(cookie, "=")
		jar[name] = value
	}
	for _, v := range []*browser{first, other} {
		v.cookie = ""
		for name, value := range jar {
			v.cookie += name + "=" + value + "; "
		}
		if w := v.open("/"); w.Code != http.StatusOK {
			t.Errorf("with the cookies of both dashboards, one responds with %d, want 200", w.Code)
		}
	}
}

// TestFailedSignInsAreLimited checks that only the network with too many failed
// sign-ins is blocked, and only for a while.
func TestFailedSignInsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestDashboard(t, &managetest.Store{}, withToken).handler
		from := func(address string) *browser {
			return &browser{t: t, h: h, change: func(r *http.Request) { r.RemoteAddr = address }}
		}
		wrong, right := map[string]string{"token": "wrong"}, map[string]string{"token": managetest.AdminToken}
		for i := range maxFailedSignIns {
			if w := from(fmt.Sprintf("[2001:db8::%d]:1", i+1)).post("/sign-in", wrong); w.Code != http.StatusUnauthorized {
				t.Fatalf("wrong token %d = %d, want 401", i+1, w.Code)
			}
		}
		w := from("[2001:db8::ffff]:9").post("/sign-in", right)
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("after %d wrong tokens of its network = %d, want 429 with Retry-After", maxFailedSignIns, w.Code)
		}
		if w := from("192.0.2.1:1").post("/sign-in", right); w.Code != http.StatusSeeOther {
			t.Errorf("from another address = %d, want 303", w.Code)
		}
		time.Sleep(failedSignInWindow)
		if w := from("[2001:db8::1]:1").post("/sign-in", right); w.Code != http.StatusSeeOther {
			t.Errorf("after the window = %d, want 303", w.Code)
		}
	})
}

func TestSessionMemoryIsBounded(t *testing.T) {
	a := newTestDashboard(t, &managetest.Store{}, withToken)
	s := a.pages.sessions
	first := signIn(t, a.handler)
	for range maxSessions + 10 {
		s.create()
	}
	if len(s.byID) > maxSessions {
		t.Errorf("%d sessions, want at most %d", len(s.byID), maxSessions)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", first)
	if s.find(r) != nil {
		t.Error("the least recently used session was not removed")
	}
	for i := range maxTrackedNetworks + 10 {
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.1:1", i/256, i%256)
		if !a.auth.failures.blocked(r) {
			a.auth.failures.record(r)
		}
	}
	if len(a.auth.failures.byNetwork) > maxTrackedNetworks {
		t.Errorf("failed sign-ins of %d networks are counted, want at most %d", len(a.auth.failures.byNetwork), maxTrackedNetworks)
	}
}

// TestOverviewNeedsAttention checks the order of the groups, the next steps and
// their buttons.
func TestOverviewNeedsAttention(t *testing.T) {
	rejected := managetest.FullConnection()
	rejected.ID, rejected.Name, rejected.Status, rejected.Reason = "z", "zeta", credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenRejected
	key := managetest.BareConnection()
	key.Status, key.Reason = credstore.ReauthorizationRequired, credstore.ReasonKeyRejected
	conflict, off := managetest.FullConnection(), managetest.FullConnection()
	conflict.ID, conflict.Name, conflict.Status, conflict.Reason = "m", "mixed-up", credstore.Disabled, credstore.ReasonCompanyConflict
	off.ID, off.Name, off.Status, off.Reason = "o", "off", credstore.Disabled, credstore.ReasonOperator
	ending, lasting := managetest.KeyedConnection(), managetest.KeyedConnection()
	ending.ID, ending.Name, ending.ExpiresAt = "e", "nearly-over", time.Now().Add(5*24*time.Hour)
	lasting.ID, lasting.Name, lasting.ExpiresAt = "l", "lasting", time.Now().Add(90*24*time.Hour)
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), key, conflict, ending, lasting, off, rejected}}
	page := (&browser{t: t, h: newTestDashboard(t, store, withLinks).handler}).open("/").Body.String()
	at := -1
	for _, want := range []string{
		"Reauthorization required", `href="/connections/bare"`, `href="/connections/bare/key"`, `href="/connections/zeta"`,
		"has to connect again", `href="/connections/zeta/link"`,
		"Disabled because of a company conflict", `<span class="count">1</span>`, `href="/connections/mixed-up"`, `href="/connections/mixed-up/link"`,
		"API key expires soon", `href="/connections/nearly-over"`, `href="/connections/nearly-over/key"`, "may recover automatically", `href="/connections/acme"`, "Last hour",
	} {
		found := strings.Index(page, want)
		if found <= at {
			t.Errorf("the page has %q at %d, want it after %d", want, found, at)
		}
		at = found
	}
	for _, other := range []string{"off", "lasting"} {
		if strings.Contains(page, `href="/connections/`+other+`"`) {
			t.Errorf("the page shows connection %s, which does not need attention", other)
		}
	}
}

// TestOverviewLinksToFullList follows the link from a group on the overview to
// the complete list.
func TestOverviewLinksToFullList(t *testing.T) {
	store := &managetest.Store{}
	for i := range 260 {
		c := credstore.Connection{ID: fmt.Sprint(i), Name: fmt.Sprintf("c%03d", i), Kind: credstore.OAuth, Status: credstore.Disabled, Reason: credstore.ReasonCompanyConflict}
		if i%10 == 0 {
			c.Reason = credstore.ReasonOperator
		}
		store.Connections = append(store.Connections, c)
	}
	v := &browser{t: t, h: newTestDashboard(t, store, withLinks).handler}
	page := v.open("/").Body.String()
	if !strings.Contains(page, `<span class="count">200+</span>`) || strings.Count(page, `<li class="card`) != maxShown {
		t.Errorf("the page does not show 200+ and the first %d:\n%s", maxShown, page)
	}
	all := regexp.MustCompile(`<a href="([^"]*)">View all`).FindStringSubmatch(page)
	if all == nil {
		t.Fatal("the page has no link to the complete list")
	}
	names, next := 0, regexp.MustCompile(`rel="next" href="([^"]*)"`)
	for target := all[1]; target != ""; {
		page := v.open(target).Body.String()
		if !strings.Contains(page, `<option value="company_conflict" selected>`) {
			t.Errorf("%s does not show its filter:\n%s", target, page)
		}
		names += strings.Count(page, `<a class="name"`)
		target = ""
		if found := next.FindStringSubmatch(page); found != nil {
			target = html.UnescapeString(found[1])
		}
	}
	if names != 234 {
		t.Errorf("the list has %d connections that are disabled for their company, want 234", names)
	}
}

func TestListPaginationKeepsFilters(t *testing.T) {
	store := &managetest.Store{}
	for i := range 120 {
		store.Connections = append(store.Connections, credstore.Connection{
			ID: fmt.Sprint(i), Name: fmt.Sprintf("c%03d", i), Kind: credstore.OAuth, Status: credstore.Active,
		})
	}
	v := &browser{t: t, h: newTestDashboard(t, store, withLinks).handler}
	target, names := "/connections?q=c&status=active&kind=oauth", 0
	next := regexp.MustCompile(`rel="next" href="([^"]*)"`)
	for pages := 1; ; pages++ {
		page := v.open(target).Body.String()
		names += strings.Count(page, `<a class="name"`)
		if !strings.Contains(page, `value="c"`) || !strings.Contains(page, `<option value="active" selected>`) {
			t.Errorf("page %d does not show its filters", pages)
		}
		found := next.FindStringSubmatch(page)
		if found == nil {
			if names != 120 || pages != 3 {
				t.Errorf("%d connections on %d pages, want 120 on 3", names, pages)
			}
			return
		}
		target = html.UnescapeString(found[1])
	}
}

// TestPagesEscapeInput checks values that come from other systems and from forms.
func TestPagesEscapeInput(t *testing.T) {
	c := managetest.FullConnection()
	const evil = `"><script>alert(1)</script>`
	c.CompanyName, c.ExternalTenant, c.LastError.Message = evil, evil, evil
	store := &managetest.Store{Connections: []credstore.Connection{c}}
	store.Recorded = []credstore.Event{{ConnectionID: c.ID, ID: "e", Type: credstore.EventCreated, Message: evil, Actor: evil}}
	b := signedIn(t, newTestDashboard(t, store, withLinks).handler)
	for _, page := range append(pagePaths(), "/connections?q="+url.QueryEscape(evil)) {
		if body := b.open(page).Body.String(); strings.Contains(body, "<script>") {
			t.Errorf("GET %s contains a script from a field:\n%s", page, body)
		}
	}
	if body := b.submit("/new", map[string]string{"name": evil, "kind": evil, "external_tenant": evil}).Body.String(); strings.Contains(body, "<script>") {
		t.Errorf("the form contains a script from its input:\n%s", body)
	}
}

// TestOperations runs each operation by its page and checks the page that
// follows.
func TestOperations(t *testing.T) {
	rejected := managetest.BareConnection()
	rejected.ID, rejected.Name, rejected.Kind, rejected.Status = "r", "rejected", credstore.OAuth, credstore.ReauthorizationRequired
	off := managetest.FullConnection()
	off.ID, off.Name, off.Status = "o", "off", credstore.Disabled
	for _, test := range []struct {
		target string
		values map[string]string
		fail   error
		status int
		want   string // on the page, or on the one that follows
	}{
		{"/connections/acme/link", nil, nil, 200, managetest.CanaryLink + "-acme"},
		{"/connections/acme/link", map[string]string{"fresh": "on"}, nil, 200, managetest.CanaryLink + "-acme-fresh"},
		{"/connections/acme/link", map[string]string{"return_url": "https://evil.example"}, nil, 400, "not listed in connect.return_urls"},
		{"/connections/acme/check", nil, nil, 200, "reports it as inactive"},
		{"/connections/acme/refresh", nil, nil, 303, "Pleo returned a new token pair."},
		{"/connections/acme/refresh", nil, manage.ErrRefreshPending, 303, "still in progress"},
		{"/connections/acme/refresh", nil, &manage.RefreshError{Message: "the server responded with 429"}, 502, "The refresh failed: the server responded with 429."},
		{"/connections/acme/disable", nil, nil, 303, "The connection was disabled."},
		{"/connections/off/enable", nil, nil, 303, "The connection was enabled."},
		{"/connections/rejected/retry", nil, nil, 303, "is being retried"},
		{"/connections/bare/key", map[string]string{"api_key": managetest.CanaryKey, "expires_on": "2099-12-31"}, nil, 303, "The API key was stored."},
		{"/connections/keyed/key", map[string]string{"api_key": managetest.CanaryKey, "next": "on"}, nil, 303, "The next API key was stored."},
		{"/connections/bare/key", map[string]string{"api_key": managetest.CanaryKey, "expires_on": "soon"}, nil, 400, "must be a date"},
		{"/connections/bare/key", map[string]string{"api_key": managetest.CanaryKey, "expires_on": "2020-01-31"}, nil, 400, "The expiry date is in the past."},
		{"/connections/bare/key", nil, nil, 400, "The API key is missing"},
		{"/connections/acme/key", map[string]string{"api_key": managetest.CanaryKey}, nil, 409, "is not possible"},
		{"/connections/acme/enable", nil, nil, 409, "is not possible"},
		{"/connections/acme/explode", nil, nil, 404, "nothing at this address"},
		{"/connections/unknown/disable", nil, nil, 404, "no connection"},
		{"/connections/acme/remove", map[string]string{"uninstall": "on"}, nil, 303, "Connection acme was removed."},
		{"/new", map[string]string{"name": "new", "kind": "oauth"}, nil, 303, "Connection new was created."},
		{"/new", map[string]string{"name": "acme", "kind": "oauth", "external_tenant": "t-1"}, nil, 409, "There is already a connection \"acme\"."},
		{"/new", map[string]string{"name": "a b", "kind": "oauth"}, nil, 400, "The name must have"},
	} {
		t.Run(test.target+" "+test.want, func(t *testing.T) {
			store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), managetest.BareConnection(), managetest.KeyedConnection(), off, rejected}}
			b := signedIn(t, newTestDashboard(t, store, func(c *Config) {
				withLinks(c)
				(&managetest.Pleo{Store: store, Err: test.fail}).Attach(c.Operator)
			}).handler)
			w := b.submit(test.target, test.values)
			if w.Code != test.status {
				t.Errorf("POST %s = %d, want %d", test.target, w.Code, test.status)
			}
			if w.Code == http.StatusSeeOther {
				w = b.open(w.Header().Get("Location"))
			}
			if page := html.UnescapeString(w.Body.String()); !strings.Contains(page, test.want) {
				t.Errorf("the page lacks %q:\n%s", test.want, page)
			}
		})
	}
}

// TestConfirmationWarnings checks the warnings before dangerous or useless
// operations.
func TestConfirmationWarnings(t *testing.T) {
	for _, test := range []struct{ reason, page, want string }{
		{credstore.ReasonCompanyConflict, "enable", "wrong company"},
		{credstore.ReasonCompanyConflict, "link", ""},
		{credstore.ReasonExported, "enable", "secrets of this connection were exported"},
		{credstore.ReasonExported, "link", "does not work before you enable it"},
		{credstore.ReasonOperator, "enable", ""},
		{credstore.ReasonOperator, "link", "does not work before you enable it"},
	} {
		c := managetest.FullConnection()
		c.Status, c.Reason = credstore.Disabled, test.reason
		b := signedIn(t, newTestDashboard(t, &managetest.Store{Connections: []credstore.Connection{c}}, withLinks).handler)
		page := b.open("/connections/acme/" + test.page).Body.String()
		if warns := strings.Contains(page, `class="notice bad"`); warns != (test.want != "") || !strings.Contains(page, test.want) {
			t.Errorf("the page to confirm %s of a connection disabled for %s lacks the warning %q:\n%s", test.page, test.reason, test.want, page)
		}
	}
}

// TestExpiredAccessTokenOfIdleConnection checks that an expired access token is
// explained: it is not a problem.
func TestExpiredAccessTokenOfIdleConnection(t *testing.T) {
	idle := managetest.FullConnection()
	idle.Status, idle.Reason, idle.LastError, idle.ExpiresAt = credstore.Active, "", nil, time.Now().Add(-time.Hour)
	used := idle
	used.ID, used.Name, used.ExpiresAt = "u", "used", time.Now().Add(time.Hour)
	v := &browser{t: t, h: newTestDashboard(t, &managetest.Store{Connections: []credstore.Connection{idle, used}}, withLinks).handler}
	for name, want := range map[string]bool{"acme": true, "used": false} {
		if page := v.open("/connections/" + name).Body.String(); strings.Contains(page, "refreshed with the next request") != want {
			t.Errorf("the page of %s explains the refresh: %v, want %v", name, !want, want)
		}
	}
}

// TestListExplainsStatus checks that the list explains all statuses but active.
func TestListExplainsStatus(t *testing.T) {
	works, pending, conflict, ending := managetest.FullConnection(), managetest.BareConnection(), managetest.FullConnection(), managetest.KeyedConnection()
	works.Status, works.Reason, works.LastError = credstore.Active, "", nil
	conflict.ID, conflict.Name, conflict.Status, conflict.Reason = "c", "conflict", credstore.Disabled, credstore.ReasonCompanyConflict
	ending.ExpiresAt = time.Now().Add(5*24*time.Hour + time.Hour)
	store := &managetest.Store{Connections: []credstore.Connection{works, pending, conflict, ending}}
	page := (&browser{t: t, h: newTestDashboard(t, store, withLinks).handler}).open("/connections").Body.String()
	for _, want := range []string{"No API key has been entered yet.", "wrong company", "API key expires in 5 days"} {
		if !strings.Contains(page, want) {
			t.Errorf("the list lacks %q", want)
		}
	}
	if got := strings.Count(page, `class="why"`); got != 3 {
		t.Errorf("the list explains %d connections, want 3", got)
	}
}

// TestNotFoundPageOrProblem checks that browsers get a page with a link, and
// programs a problem document.
func TestNotFoundPageOrProblem(t *testing.T) {
	h := newTestDashboard(t, &managetest.Store{}, withLinks).handler
	const acceptHTML = "text/html,application/xhtml+xml,*/*;q=0.8"
	for _, test := range []struct{ path, accept, want string }{
		{"/connections/", acceptHTML, "text/html; charset=utf-8"},
		{"/nowhere", acceptHTML, "text/html; charset=utf-8"},
		{"/nowhere", "*/*", "application/problem+json"},
		{"/nowhere", "", "application/problem+json"},
		{"/api/v1/nowhere", acceptHTML, "application/problem+json"},
	} {
		v := &browser{t: t, h: h, change: func(r *http.Request) { r.Header.Set("Accept", test.accept) }}
		w := v.open(test.path)
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusNotFound || got != test.want {
			t.Errorf("GET %s with Accept %q = %d %s, want 404 %s", test.path, test.accept, w.Code, got, test.want)
		}
		if test.accept == acceptHTML && test.want != "application/problem+json" && !strings.Contains(w.Body.String(), `href="/connections"`) {
			t.Errorf("the page for %s has no link:\n%s", test.path, w.Body)
		}
	}
}

func TestSearchTrimsSpace(t *testing.T) {
	v := &browser{t: t, h: newTestDashboard(t, &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}, withLinks).handler}
	if page := v.open("/connections?q=" + url.QueryEscape(" acme\t")).Body.String(); !strings.Contains(page, `href="/connections/acme"`) {
		t.Errorf("the list lacks acme:\n%s", page)
	}
}

// TestOverviewWithStoreUnavailable checks that the overview still shows health
// and traffic.
func TestOverviewWithStoreUnavailable(t *testing.T) {
	a := newTestDashboard(t, &managetest.Store{Err: credstore.ErrUnavailable}, func(c *Config) {
		withLinks(c)
		c.Health = func(context.Context) []Check {
			return []Check{{Name: "store", Error: "no route to the database"}, {Name: "authorization server"}}
		}
	})
	w := (&browser{t: t, h: a.handler}).open("/")
	page := w.Body.String()
	for _, want := range []string{"The store is currently unavailable.", "no route to the database", "Authorization server", "Last hour"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if w.Code != http.StatusServiceUnavailable || strings.Contains(page, "No connections yet") {
		t.Errorf("status %d, want 503, without a message that there are no connections:\n%s", w.Code, page)
	}
}

// TestPagesShowEnvironment protects operators from removing in production what
// they meant to remove in staging.
func TestPagesShowEnvironment(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}
	b := signedIn(t, newTestDashboard(t, store, func(c *Config) {
		withLinks(c)
		c.Environment = "staging"
	}).handler)
	for _, target := range append(pagePaths(), "/connections/unknown") {
		page := b.open(target).Body.String()
		if !strings.Contains(page, "· staging · pleo-auth-proxy</title>") || !strings.Contains(page, `<span class="environment">staging</span>`) {
			t.Errorf("GET %s does not name the environment:\n%s", target, page)
		}
	}
}

// TestConfirmationForReplacedConnection checks that an operation does not run on
// another connection that has got the name since the page was loaded.
func TestConfirmationForReplacedConnection(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}
	b := signedIn(t, newTestDashboard(t, store, withLinks).handler)
	page := b.open("/connections/acme/disable").Body.String()
	of := regexp.MustCompile(`name="connection_id" value="([^"]*)"`).FindStringSubmatch(page)
	if of == nil {
		t.Fatalf("the form has no connection id:\n%s", page)
	}
	store.Connections[0].ID = "of-another"
	w := b.post("/connections/acme/disable", map[string]string{"csrf_token": b.csrfToken, "connection_id": of[1]})
	if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "another connection") {
		t.Errorf("disabling another connection than the confirmed one = %d, want 409:\n%s", w.Code, w.Body)
	}
	if len(store.Recorded) > 0 {
		t.Errorf("something was changed: %v", store.Recorded)
	}
}

// TestFormsKeepInput checks that a form which failed keeps what was filled in,
// except for secrets.
func TestFormsKeepInput(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), managetest.KeyedConnection()}}
	b := signedIn(t, newTestDashboard(t, store, func(c *Config) {
		withLinks(c)
		c.Operator.ReturnURLs = []string{"https://erp.example.com/a", "https://erp.example.com/b"}
		(&managetest.Pleo{Store: store, Err: pleo.ErrUnauthorized}).Attach(c.Operator)
	}).handler)
	for _, test := range []struct {
		page   string
		values map[string]string
		want   []string
	}{
		{"/connections/keyed/key", map[string]string{"api_key": managetest.CanaryKey, "next": "on", "expires_on": "2099-12-31"}, []string{
			"Pleo does not accept this key", `name="next" type="checkbox" checked`, `value="2099-12-31"`,
		}},
		{"/connections/acme/link", map[string]string{"return_url": "https://erp.example.com/b", "fresh": "on", "allow_other_company": "on", "allow_shared_company": "on"}, []string{
			"<details open>", `<option selected>https://erp.example.com/b`, `name="fresh" type="checkbox" checked`,
			`name="allow_other_company" type="checkbox" checked`, `name="allow_shared_company" type="checkbox" checked`,
		}},
		{"/connections/acme/remove", map[string]string{"uninstall": "on"}, []string{`name="uninstall" type="checkbox" checked`}},
	} {
		if fresh := b.open(test.page).Body.String(); strings.Contains(fresh, " checked") || strings.Contains(fresh, "<details open") || strings.Contains(fresh, " selected") {
			t.Errorf("GET %s is filled in already:\n%s", test.page, fresh)
		}
		page := b.submit(test.page, test.values).Body.String()
		for _, want := range test.want {
			if !strings.Contains(page, want) {
				t.Errorf("the page after POST %s lacks %q:\n%s", test.page, want, page)
			}
		}
		if strings.Contains(page, managetest.CanaryKey) {
			t.Errorf("the page after POST %s shows the key:\n%s", test.page, page)
		}
	}
}

// TestPastedKeyIsTrimmed checks a key with quotes, spaces and a line break around
// it.
func TestPastedKeyIsTrimmed(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.BareConnection()}}
	server := &managetest.Pleo{Store: store}
	b := signedIn(t, newTestDashboard(t, store, func(c *Config) {
		withLinks(c)
		server.Attach(c.Operator)
	}).handler)
	b.submit("/connections/bare/key", map[string]string{"api_key": " \"" + managetest.CanaryKey + "\"\n"})
	if len(server.Keys) != 1 || server.Keys[0].Key.Reveal() != managetest.CanaryKey {
		t.Errorf("keys set: %v, want the one that was pasted", server.Keys)
	}
}

func TestKeyExpiresAtEndOfLastDay(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.BareConnection()}}
	server := &managetest.Pleo{Store: store}
	b := signedIn(t, newTestDashboard(t, store, func(c *Config) {
		withLinks(c)
		server.Attach(c.Operator)
	}).handler)
	b.submit("/connections/bare/key", map[string]string{"api_key": managetest.CanaryKey, "expires_on": "2099-12-31"})
	if want := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC); len(server.Keys) != 1 || !server.Keys[0].ExpiresAt.Equal(want) {
		t.Errorf("keys set: %v, want one that ends at %v", server.Keys, want)
	}
}

// TestHistoryNamesActor checks that requests to the API are recorded as the back
// office's, and those of pages as the operator's.
func TestHistoryNamesActor(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}
	h := newTestDashboard(t, store, withLinks).handler
	if w := callAPI(h, "POST", "/api/v1/connections/acme/disable", ""); w.Code != http.StatusOK {
		t.Fatalf("disable = %d: %s", w.Code, w.Body)
	}
	b := signedIn(t, h)
	if w := b.submit("/connections/acme/enable", nil); w.Code != http.StatusSeeOther {
		t.Fatalf("enable = %d: %s", w.Code, w.Body)
	}
	w := callAPI(h, "GET", "/api/v1/connections/acme/history", "")
	var history manage.History
	if err := json.Unmarshal(w.Body.Bytes(), &history); err != nil {
		t.Fatal(err)
	}
	var did []string
	for _, e := range history.Events {
		did = append(did, e.Type+" by "+e.Actor)
	}
	const want = "[connection.enabled by operator (dashboard) connection.disabled by back office]"
	if got := fmt.Sprint(did); got != want {
		t.Errorf("history = %v, want %v", got, want)
	}
}

func TestHistoryOfRemovedConnection(t *testing.T) {
	store := &managetest.Store{
		Connections: []credstore.Connection{managetest.FullConnection()},
		Recorded: []credstore.Event{
			{ID: "1", ConnectionID: "first", Connection: "gone", Type: credstore.EventRemoved, Actor: "another actor"},
			{ID: "2", ConnectionID: "last", Connection: "gone", Type: credstore.EventExported, Actor: credstore.ActorCommandLine},
			{ID: "3", ConnectionID: "last", Connection: "gone", Type: credstore.EventRemoved, Actor: credstore.ActorDashboard},
		},
	}
	h := newTestDashboard(t, store, withLinks).handler
	w := callAPI(h, "GET", "/api/v1/connections/gone/history", "")
	if body := w.Body.String(); w.Code != http.StatusOK || !strings.Contains(body, "connection.exported") || strings.Contains(body, "another actor") {
		t.Errorf("history = %d: %s, want 200 and the events of the last connection with the name", w.Code, body)
	}
	w = callAPI(h, "GET", "/connections/gone", "")
	if body := w.Body.String(); w.Code != http.StatusGone || !strings.Contains(body, "This connection was removed") || !strings.Contains(body, credstore.ActorDashboard) {
		t.Errorf("page = %d: %s, want 410 and the history", w.Code, body)
	}
	for _, path := range []string{"/connections/unknown", "/api/v1/connections/unknown/history", "/connections/no%20name", "/api/v1/connections/gone"} {
		if w := callAPI(h, "GET", path, ""); w.Code != http.StatusNotFound {
			t.Errorf("GET %s = %d, want 404", path, w.Code)
		}
	}
}

// TestNoSecretInResponsesPagesAndLogs uses an admin token, an API key and a
// connect link in all ways that succeed and fail, and searches for them. Only the
// response to a request for a link may contain it.
func TestNoSecretInResponsesPagesAndLogs(t *testing.T) {
	logs, entries := observer.New(zap.DebugLevel)
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), managetest.BareConnection()}}
	server := &managetest.Pleo{Store: store}
	h := newTestDashboard(t, store, func(c *Config) {
		withLinks(c)
		server.Attach(c.Operator)
		c.Logger = zap.New(logs)
	}).handler
	b := signedIn(t, h)
	session := strings.TrimPrefix(b.cookie, plainCookie+"=")
	responses := map[string]*httptest.ResponseRecorder{}
	note := func(what string, w *httptest.ResponseRecorder) { responses[what] = w }
	for _, target := range []string{
		"/", "/?period=24h", "/connections", "/connections?q=" + managetest.CanaryKey[7:], "/connections/acme", "/connections/bare",
		"/connections/bare/key", "/connections/acme/remove", "/new", "/sign-in", "/metrics", "/readyz?verbose",
		"/api/v1/connections", "/api/v1/connections/acme", "/api/v1/connections/acme/history", "/api/v1/openapi.yaml",
	} {
		note("GET "+target, b.open(target))
	}
	for _, err := range []error{nil, credstore.ErrUnavailable, credstore.ErrBusy} {
		server.Err = err
		note(fmt.Sprint("key by the API, ", err), callAPI(h, "POST", "/api/v1/connections/bare/key", `{"api_key":"`+managetest.CanaryKey+`"}`))
		note(fmt.Sprint("key by the page, ", err), b.submit("/connections/bare/key", map[string]string{"api_key": managetest.CanaryKey}))
		note(fmt.Sprint("check, ", err), b.submit("/connections/acme/check", nil))
	}
	note("malformed", callAPI(h, "POST", "/api/v1/connections/bare/key", `{"api_key":["`+managetest.CanaryKey+`"]}`))
	note("bad form", b.submit("/connections/bare/key", map[string]string{"api_key": managetest.CanaryKey + "\n", "expires_on": "x"}))
	note("wrong token", b.post("/sign-in", map[string]string{"token": managetest.AdminToken + "x"}))
	note("in the query", callAPI(h, "POST", "/sign-in?token="+managetest.AdminToken, ""))
	note("no such page", b.open("/connections/acme/"+managetest.CanaryKey))
	note("after all", b.open("/connections/bare"))
	secrets := []string{managetest.AdminToken, managetest.CanaryKey, managetest.CanaryLink, session}
	for what, w := range responses {
		for _, secret := range secrets {
			if strings.Contains(w.Body.String(), secret) || strings.Contains(fmt.Sprint(w.Header()), secret) {
				t.Errorf("%s shows %s:\n%v\n%s", what, secret, w.Header(), w.Body)
			}
		}
	}
	for _, e := range entries.All() {
		line := fmt.Sprint(e.Message, e.ContextMap())
		for _, secret := range secrets {
			if strings.Contains(line, secret) {
				t.Errorf("the log shows %s: %s", secret, line)
			}
		}
	}
	if len(server.Keys) != 2 || entries.Len() == 0 {
		t.Errorf("%d keys were set and %d lines logged, so that was not tried", len(server.Keys), entries.Len())
	}
}
