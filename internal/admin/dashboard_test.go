package admin

import (
	"context"
	"crypto/tls"
	"errors"
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

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// browser is a browser at the dashboard, as far as cookies and forms go.
type browser struct {
	t         *testing.T
	h         http.Handler
	cookie    string // as it is sent; empty: none
	csrfToken string // what the session's forms send back
	change    func(*http.Request)
}

var csrfPattern = regexp.MustCompile(`name="csrf_token" value="([^"]*)"`)

// requireSession returns a visitor who has signed in.
func signedIn(t *testing.T, h http.Handler) *browser {
	t.Helper()
	v := &browser{t: t, h: h, cookie: signIn(t, h)}
	v.readCSRFToken()
	return v
}

// readCSRFToken takes what forms send back from a page.
func (v *browser) readCSRFToken() {
	v.t.Helper()
	found := csrfPattern.FindStringSubmatch(v.open("/").Body.String())
	if found == nil {
		v.t.Fatal("the page of somebody who has signed in has no form to sign out")
	}
	v.csrfToken = html.UnescapeString(found[1])
}

// signIn signs in and returns the cookie.
func signIn(t *testing.T, h http.Handler) string {
	t.Helper()
	return (&browser{t: t, h: h}).signIn()
}

// signIn signs in, as somebody who may have done so before, and returns the cookie.
func (v *browser) signIn() string {
	v.t.Helper()
	w := v.post("/sign-in", map[string]string{"token": adminToken})
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

// post sends a form as it is.
func (v *browser) post(target string, values map[string]string) *httptest.ResponseRecorder {
	form := url.Values{}
	for name, value := range values {
		form.Set(name, value)
	}
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return v.send(r)
}

// pagePaths are the pages that can be asked for.
func pagePaths() []string {
	pages := []string{"/", "/connections", "/connections/acme", "/new", "/sign-in"}
	for _, o := range operations() {
		pages = append(pages, "/connections/acme/"+o.Name)
	}
	return pages
}

func TestPageSecurityHeaders(t *testing.T) {
	h := newAdmin(t, &memoryStore{connections: []credstore.Connection{fullConnection()}}, withLinks).Handler()
	b := signedIn(t, h)
	for _, page := range append(pagePaths(), "/connections/nobody", "/connections?limit=x") {
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

// TestChangesRequireSessionForm: nothing is done by GET, and nothing by a form that
// the session was not given.
func TestChangesRequireSessionForm(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection()}}
	h := newAdmin(t, store, withLinks).Handler()
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
	if len(store.events) > 0 || len(store.connections) != 1 {
		t.Errorf("something was changed: %v", store.events)
	}
}

func TestCrossSiteNavigation(t *testing.T) {
	h := newAdmin(t, &memoryStore{connections: []credstore.Connection{fullConnection()}}, withLinks).Handler()
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

// TestPagesReadableWithoutSignIn is for listeners that this machine alone can
// reach; others show nothing but the page to sign in at.
func TestPagesReadableWithoutSignIn(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection()}}
	local := &browser{t: t, h: newAdmin(t, store, withLinks).Handler()}
	reached := &browser{t: t, h: newAdmin(t, store, exposed).Handler()}
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
			t.Errorf("GET %s on a listener that others reach = %d to %q, want 303 to %q", page, w.Code, got, toSignIn)
		}
	}
	w := reached.post("/sign-in", map[string]string{"token": adminToken, "next": "/connections?q=a"})
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

// TestSessionExpiry: by time idle, by age, by signing out, and with the token.
func TestSessionExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := adminToken
		h := newAdmin(t, &memoryStore{}, func(c *Config) {
			c.Exposed = true
			c.Token = func() credstore.Secret { return credstore.NewSecret(token) }
		}).Handler()
		open := func(b *browser) bool { return b.open("/").Code == http.StatusOK }
		b := signedIn(t, h)
		time.Sleep(sessionIdleTimeout - time.Second)
		if !open(b) {
			t.Error("the session ended before it was idle for long")
		}
		time.Sleep(sessionIdleTimeout)
		if open(b) {
			t.Error("the session goes on although it was idle")
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
			t.Error("the session goes on for ever")
		}
		b = signedIn(t, h)
		before := *b
		if b.cookie = b.signIn(); open(&before) || !open(b) {
			t.Error("signing in again leaves the session before open")
		}
		b.readCSRFToken()
		copied := *b
		w := b.submit("/sign-out", nil)
		if c := w.Result().Cookies(); len(c) != 1 || c[0].MaxAge >= 0 {
			t.Errorf("signing out leaves the cookie: %v", c)
		}
		if open(&copied) {
			t.Error("a copied cookie is good after signing out")
		}
		b = signedIn(t, h)
		token = "another-token-of-the-operator"
		if open(b) {
			t.Error("the session goes on although the token was replaced")
		}
	})
}

func TestSessionCookie(t *testing.T) {
	h := newAdmin(t, &memoryStore{}, withToken).Handler()
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
		cookies := v.post("/sign-in", map[string]string{"token": " " + adminToken + "\n"}).Result().Cookies()
		if len(cookies) != 1 {
			t.Fatalf("%s: %d cookies, want 1", name, len(cookies))
		}
		c := cookies[0]
		if c.Name != test.cookie || c.Secure != test.secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("%s: the cookie is %v, want %s, HttpOnly, SameSite=Strict, Path=/, Secure %v", name, c, test.cookie, test.secure)
		}
	}
}

// TestDashboardsOnTwoPortsOfOneHost: of staging and production, brought over to two ports of
// the same machine, signing in to one leaves the session with the other as it is.
// Browsers send cookies to all ports of a host.
func TestDashboardsOnTwoPortsOfOneHost(t *testing.T) {
	first := signedIn(t, newAdmin(t, &memoryStore{}, exposed).Handler())
	other := &browser{t: t, h: newAdmin(t, &memoryStore{}, exposed).Handler(), change: func(r *http.Request) { r.Host = "127.0.0.1:9485" }}
	c := other.post("/sign-in", map[string]string{"token": adminToken}).Result().Cookies()[0]
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
			t.Errorf("with cookies of both, one answers %d, want 200", w.Code)
		}
	}
}

// TestFailedSignInsAreLimited: an address that has given too many is not heard for
// a while, and others are.
func TestFailedSignInsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newAdmin(t, &memoryStore{}, withToken).Handler()
		from := func(address string) *browser {
			return &browser{t: t, h: h, change: func(r *http.Request) { r.RemoteAddr = address }}
		}
		wrong, right := map[string]string{"token": "wrong"}, map[string]string{"token": adminToken}
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
			t.Errorf("after a while = %d, want 303", w.Code)
		}
	})
}

// TestSessionMemoryIsBounded: whoever fills the memory needs the token, or many
// addresses.
func TestSessionMemoryIsBounded(t *testing.T) {
	a := newAdmin(t, &memoryStore{}, withToken)
	s := a.dashboard.sessions
	first := signIn(t, a.Handler())
	for range maxSessions + 10 {
		s.create()
	}
	if len(s.byID) > maxSessions {
		t.Errorf("%d sessions are kept, want %d at most", len(s.byID), maxSessions)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", first)
	if s.find(r) != nil {
		t.Error("the session that was idle for longest stays")
	}
	for i := range maxTrackedNetworks + 10 {
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.1:1", i/256, i%256)
		if !s.signInBlocked(r) {
			s.recordFailure(r)
		}
	}
	if len(s.failures) > maxTrackedNetworks {
		t.Errorf("wrong tokens of %d addresses are counted, want %d at most", len(s.failures), maxTrackedNetworks)
	}
}

// TestOverviewNeedsAttention: with what to do, in words, and the
// button for it.
func TestOverviewNeedsAttention(t *testing.T) {
	refused := fullConnection()
	refused.ID, refused.Name, refused.Status, refused.Reason = "z", "zeta", credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenRejected
	key := bareConnection()
	key.Status, key.Reason = credstore.ReauthorizationRequired, credstore.ReasonKeyRejected
	conflict, off := fullConnection(), fullConnection()
	conflict.ID, conflict.Name, conflict.Status, conflict.Reason = "m", "mixed-up", credstore.Disabled, credstore.ReasonCompanyConflict
	off.ID, off.Name, off.Status, off.Reason = "o", "off", credstore.Disabled, credstore.ReasonOperator
	ending, lasting := keyedConnection(), keyedConnection()
	ending.ID, ending.Name, ending.ExpiresAt = "e", "nearly-over", time.Now().Add(5*24*time.Hour)
	lasting.ID, lasting.Name, lasting.ExpiresAt = "l", "lasting", time.Now().Add(90*24*time.Hour)
	store := &memoryStore{connections: []credstore.Connection{fullConnection(), key, conflict, ending, lasting, off, refused}}
	page := (&browser{t: t, h: newAdmin(t, store, withLinks).Handler()}).open("/").Body.String()
	at := -1
	for _, want := range []string{
		"Need a person", `href="/connections/bare"`, `href="/connections/bare/key"`, `href="/connections/zeta"`,
		"give consent once more", `href="/connections/zeta/link"`,
		"another company&#39;s", `<span class="count">1</span>`, `href="/connections/mixed-up"`, `href="/connections/mixed-up/link"`,
		"key that ends soon", `href="/connections/nearly-over"`, `href="/connections/nearly-over/key"`, "may recover", `href="/connections/acme"`, "The last hour",
	} {
		found := strings.Index(page, want)
		if found <= at {
			t.Errorf("the page has %q at %d, want it after %d", want, found, at)
		}
		at = found
	}
	for _, other := range []string{"off", "lasting"} {
		if strings.Contains(page, `href="/connections/`+other+`"`) {
			t.Errorf("the page has the connection %s, which needs nobody", other)
		}
	}
}

// TestOverviewLinksToFullList: what it shows the first of can be seen in whole,
// on the pages of the list, which lets one choose it too.
func TestOverviewLinksToFullList(t *testing.T) {
	store := &memoryStore{}
	for i := range 260 {
		c := credstore.Connection{ID: fmt.Sprint(i), Name: fmt.Sprintf("c%03d", i), Kind: credstore.OAuth, Status: credstore.Disabled, Reason: credstore.ReasonCompanyConflict}
		if i%10 == 0 {
			c.Reason = credstore.ReasonOperator
		}
		store.connections = append(store.connections, c)
	}
	v := &browser{t: t, h: newAdmin(t, store, withLinks).Handler()}
	page := v.open("/").Body.String()
	if !strings.Contains(page, `<span class="count">200+</span>`) || strings.Count(page, `<li class="card`) != maxShown {
		t.Errorf("the page does not say that there are over 200 and show the first %d:\n%s", maxShown, page)
	}
	all := regexp.MustCompile(`<a href="([^"]*)">See all`).FindStringSubmatch(page)
	if all == nil {
		t.Fatal("the page does not lead to all of them")
	}
	names, next := 0, regexp.MustCompile(`rel="next" href="([^"]*)"`)
	for target := all[1]; target != ""; {
		page := v.open(target).Body.String()
		if !strings.Contains(page, `<option value="company_conflict" selected>`) {
			t.Errorf("%s does not show what it was asked for:\n%s", target, page)
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
	store := &memoryStore{}
	for i := range 120 {
		store.connections = append(store.connections, credstore.Connection{
			ID: fmt.Sprint(i), Name: fmt.Sprintf("c%03d", i), Kind: credstore.OAuth, Status: credstore.Active,
		})
	}
	v := &browser{t: t, h: newAdmin(t, store, withLinks).Handler()}
	target, names := "/connections?q=c&status=active&kind=oauth", 0
	next := regexp.MustCompile(`rel="next" href="([^"]*)"`)
	for pages := 1; ; pages++ {
		page := v.open(target).Body.String()
		names += strings.Count(page, `<a class="name"`)
		if !strings.Contains(page, `value="c"`) || !strings.Contains(page, `<option value="active" selected>`) {
			t.Errorf("page %d does not show what it was asked for", pages)
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

// TestPagesEscapeInput what comes from elsewhere.
func TestPagesEscapeInput(t *testing.T) {
	c := fullConnection()
	const evil = `"><script>alert(1)</script>`
	c.CompanyName, c.ExternalTenant, c.LastError.Message = evil, evil, evil
	store := &memoryStore{connections: []credstore.Connection{c}}
	store.events = []credstore.Event{{ConnectionID: c.ID, ID: "e", Type: credstore.EventCreated, Message: evil, Actor: evil}}
	b := signedIn(t, newAdmin(t, store, withLinks).Handler())
	for _, page := range append(pagePaths(), "/connections?q="+url.QueryEscape(evil)) {
		if body := b.open(page).Body.String(); strings.Contains(body, "<script>") {
			t.Errorf("GET %s runs what comes from elsewhere:\n%s", page, body)
		}
	}
	if body := b.submit("/new", map[string]string{"name": evil, "kind": evil, "external_tenant": evil}).Body.String(); strings.Contains(body, "<script>") {
		t.Errorf("the form runs what was typed into it:\n%s", body)
	}
}

// TestOperations does each of them by its page and looks at what is said.
func TestOperations(t *testing.T) {
	refused := bareConnection()
	refused.ID, refused.Name, refused.Kind, refused.Status = "r", "refused", credstore.OAuth, credstore.ReauthorizationRequired
	off := fullConnection()
	off.ID, off.Name, off.Status = "o", "off", credstore.Disabled
	for _, test := range []struct {
		target string
		values map[string]string
		fail   error
		status int
		want   string // on the page, or on the one that follows
	}{
		{"/connections/acme/link", nil, nil, 200, canaryLink + "-acme"},
		{"/connections/acme/link", map[string]string{"fresh": "on"}, nil, 200, canaryLink + "-acme-fresh"},
		{"/connections/acme/link", map[string]string{"return_url": "https://evil.example"}, nil, 400, "not among connect.return_urls"},
		{"/connections/acme/check", nil, nil, 200, "calls it inactive"},
		{"/connections/acme/refresh", nil, nil, 303, "Pleo has given a new token pair."},
		{"/connections/acme/refresh", nil, manage.ErrRefreshPending, 303, "under way"},
		{"/connections/acme/refresh", nil, &manage.RefreshError{Message: "the server answered 429"}, 502, "The refresh failed: the server answered 429."},
		{"/connections/acme/disable", nil, nil, 303, "The connection is disabled."},
		{"/connections/off/enable", nil, nil, 303, "The connection is enabled."},
		{"/connections/refused/retry", nil, nil, 303, "presented once more"},
		{"/connections/bare/key", map[string]string{"api_key": canaryKey, "expires_on": "2099-12-31"}, nil, 303, "The API key was stored."},
		{"/connections/keyed/key", map[string]string{"api_key": canaryKey, "next": "on"}, nil, 303, "The next API key was stored."},
		{"/connections/bare/key", map[string]string{"api_key": canaryKey, "expires_on": "soon"}, nil, 400, "must be a date"},
		{"/connections/bare/key", map[string]string{"api_key": canaryKey, "expires_on": "2020-01-31"}, nil, 400, "The last day of the key is over already."},
		{"/connections/bare/key", nil, nil, 400, "The API key is missing"},
		{"/connections/acme/key", map[string]string{"api_key": canaryKey}, nil, 409, "this is not possible"},
		{"/connections/acme/enable", nil, nil, 409, "this is not possible"},
		{"/connections/acme/explode", nil, nil, 404, "nothing at this address"},
		{"/connections/nobody/disable", nil, nil, 404, "no connection"},
		{"/connections/acme/remove", map[string]string{"uninstall": "on"}, nil, 303, "Connection acme was removed."},
		{"/new", map[string]string{"name": "new", "kind": "oauth"}, nil, 303, "Connection new was made."},
		{"/new", map[string]string{"name": "acme", "kind": "oauth", "external_tenant": "t-1"}, nil, 409, "There is a connection acme already."},
		{"/new", map[string]string{"name": "a b", "kind": "oauth"}, nil, 400, "The name must have"},
	} {
		t.Run(test.target+" "+test.want, func(t *testing.T) {
			store := &memoryStore{connections: []credstore.Connection{fullConnection(), bareConnection(), keyedConnection(), off, refused}}
			b := signedIn(t, newAdmin(t, store, func(c *Config) {
				withLinks(c)
				c.Actions = &fakeActions{store: store, err: test.fail}
			}).Handler())
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

// TestConfirmationWarnings of what the reason makes dangerous or useless, before it is
// done.
func TestConfirmationWarnings(t *testing.T) {
	for _, test := range []struct{ reason, page, want string }{
		{credstore.ReasonCompanyConflict, "enable", "a company that it should not belong to"},
		{credstore.ReasonCompanyConflict, "link", ""},
		{credstore.ReasonExported, "enable", "Its secrets were exported"},
		{credstore.ReasonExported, "link", "leads nowhere before you enable it"},
		{credstore.ReasonOperator, "enable", ""},
		{credstore.ReasonOperator, "link", "leads nowhere before you enable it"},
	} {
		c := fullConnection()
		c.Status, c.Reason = credstore.Disabled, test.reason
		b := signedIn(t, newAdmin(t, &memoryStore{connections: []credstore.Connection{c}}, withLinks).Handler())
		page := b.open("/connections/acme/" + test.page).Body.String()
		if warns := strings.Contains(page, `class="notice bad"`); warns != (test.want != "") || !strings.Contains(page, test.want) {
			t.Errorf("the page to confirm %s of a connection disabled for %s does not warn %q:\n%s", test.page, test.reason, test.want, page)
		}
	}
}

// TestExpiredAccessTokenOfIdleConnection: that its access token has expired is no trouble.
func TestExpiredAccessTokenOfIdleConnection(t *testing.T) {
	idle := fullConnection()
	idle.Status, idle.Reason, idle.LastError, idle.ExpiresAt = credstore.Active, "", nil, time.Now().Add(-time.Hour)
	used := idle
	used.ID, used.Name, used.ExpiresAt = "u", "used", time.Now().Add(time.Hour)
	v := &browser{t: t, h: newAdmin(t, &memoryStore{connections: []credstore.Connection{idle, used}}, withLinks).Handler()}
	for name, want := range map[string]bool{"acme": true, "used": false} {
		if page := v.open("/connections/" + name).Body.String(); strings.Contains(page, "the next request gets a new one") != want {
			t.Errorf("the page of %s says that the next request gets a new token: %v, want %v", name, !want, want)
		}
	}
}

// TestListExplainsStatus a connection is not simply at work, in words.
func TestListExplainsStatus(t *testing.T) {
	works, pending, conflict, ending := fullConnection(), bareConnection(), fullConnection(), keyedConnection()
	works.Status, works.Reason, works.LastError = credstore.Active, "", nil
	conflict.ID, conflict.Name, conflict.Status, conflict.Reason = "c", "conflict", credstore.Disabled, credstore.ReasonCompanyConflict
	ending.ExpiresAt = time.Now().Add(5*24*time.Hour + time.Hour)
	store := &memoryStore{connections: []credstore.Connection{works, pending, conflict, ending}}
	page := (&browser{t: t, h: newAdmin(t, store, withLinks).Handler()}).open("/connections").Body.String()
	for _, want := range []string{"Nobody has entered an API key yet.", "a company that it should not belong to", "its API key ends in 5 days"} {
		if !strings.Contains(page, want) {
			t.Errorf("the list does not say %q", want)
		}
	}
	if got := strings.Count(page, `class="why"`); got != 3 {
		t.Errorf("the list says why of %d connections, want the 3 that do not simply work", got)
	}
}

// TestNotFoundPageOrProblem, with a way on, and programs get documents.
func TestNotFoundPageOrProblem(t *testing.T) {
	h := newAdmin(t, &memoryStore{}, withLinks).Handler()
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
			t.Errorf("the page about %s leads nowhere:\n%s", test.path, w.Body)
		}
	}
}

// TestSearchTrimsSpace finds it without the spaces and line breaks beside it.
func TestSearchTrimsSpace(t *testing.T) {
	v := &browser{t: t, h: newAdmin(t, &memoryStore{connections: []credstore.Connection{fullConnection()}}, withLinks).Handler()}
	if page := v.open("/connections?q=" + url.QueryEscape(" acme\t")).Body.String(); !strings.Contains(page, `href="/connections/acme"`) {
		t.Errorf("the list lacks acme:\n%s", page)
	}
}

// TestOverviewWithStoreUnavailable says so, and shows what is known all the same: how the
// rest of the program is, and its traffic.
func TestOverviewWithStoreUnavailable(t *testing.T) {
	a := newAdmin(t, &memoryStore{err: credstore.ErrUnavailable}, func(c *Config) {
		withLinks(c)
		c.Checks = []Check{
			{Name: "store", Probe: func(context.Context) error { return errors.New("no route to the database") }},
			{Name: "authorization server", Probe: func(context.Context) error { return nil }},
		}
	})
	w := (&browser{t: t, h: a.Handler()}).open("/")
	page := w.Body.String()
	for _, want := range []string{"The store cannot be used at the moment.", "no route to the database", "authorization server", "The last hour"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if w.Code != http.StatusServiceUnavailable || strings.Contains(page, "There is no connection yet") {
		t.Errorf("the page is sent as %d, want 503, and that there is no connection must not be said:\n%s", w.Code, page)
	}
}

// TestPagesShowEnvironment, so that nobody removes from production what they meant
// to remove from staging.
func TestPagesShowEnvironment(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection()}}
	b := signedIn(t, newAdmin(t, store, func(c *Config) {
		withLinks(c)
		c.Environment = "staging"
	}).Handler())
	for _, target := range append(pagePaths(), "/connections/nobody") {
		page := b.open(target).Body.String()
		if !strings.Contains(page, "· staging · pleo-auth-proxy</title>") || !strings.Contains(page, `<span class="environment">staging</span>`) {
			t.Errorf("GET %s does not name the environment:\n%s", target, page)
		}
	}
}

// TestConfirmationForReplacedConnection: a page that asked about a connection which was removed
// meanwhile does nothing to another one that has its name now.
func TestConfirmationForReplacedConnection(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection()}}
	b := signedIn(t, newAdmin(t, store, withLinks).Handler())
	page := b.open("/connections/acme/disable").Body.String()
	of := regexp.MustCompile(`name="connection_id" value="([^"]*)"`).FindStringSubmatch(page)
	if of == nil {
		t.Fatalf("the page does not say which connection it asks about:\n%s", page)
	}
	store.connections[0].ID = "of-another"
	w := b.post("/connections/acme/disable", map[string]string{"csrf_token": b.csrfToken, "connection_id": of[1]})
	if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "another connection") {
		t.Errorf("disabling another connection than was asked about = %d, want 409:\n%s", w.Code, w.Body)
	}
	if len(store.events) > 0 {
		t.Errorf("something was changed: %v", store.events)
	}
}

// TestFormsKeepInput when it was not done, but for secrets: whoever
// corrects a key must not lose that it was to be the next one.
func TestFormsKeepInput(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection(), keyedConnection()}}
	b := signedIn(t, newAdmin(t, store, func(c *Config) {
		withLinks(c)
		c.ReturnURLs = []string{"https://erp.example.com/a", "https://erp.example.com/b"}
		c.Actions = &fakeActions{store: store, err: pleo.ErrUnauthorized}
	}).Handler())
	for _, test := range []struct {
		page   string
		values map[string]string
		want   []string
	}{
		{"/connections/keyed/key", map[string]string{"api_key": canaryKey, "next": "on", "expires_on": "2099-12-31"}, []string{
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
		if strings.Contains(page, canaryKey) {
			t.Errorf("the page after POST %s shows the key:\n%s", test.page, page)
		}
	}
}

// TestPastedKeyIsTrimmed: without the quotes, the spaces and the line break beside it.
func TestPastedKeyIsTrimmed(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{bareConnection()}}
	actions := &fakeActions{store: store}
	b := signedIn(t, newAdmin(t, store, func(c *Config) {
		withLinks(c)
		c.Actions = actions
	}).Handler())
	b.submit("/connections/bare/key", map[string]string{"api_key": " \"" + canaryKey + "\"\n"})
	if len(actions.keys) != 1 || actions.keys[0].Key.Reveal() != canaryKey {
		t.Errorf("keys set: %v, want the one that was pasted", actions.keys)
	}
}

func TestKeyExpiresAtEndOfLastDay(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{bareConnection()}}
	actions := &fakeActions{store: store}
	b := signedIn(t, newAdmin(t, store, func(c *Config) {
		withLinks(c)
		c.Actions = actions
	}).Handler())
	b.submit("/connections/bare/key", map[string]string{"api_key": canaryKey, "expires_on": "2099-12-31"})
	if want := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC); len(actions.keys) != 1 || !actions.keys[0].ExpiresAt.Equal(want) {
		t.Errorf("keys set: %v, want one that ends at %v", actions.keys, want)
	}
}
