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
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// visitor is a browser at the dashboard, as far as cookies and forms go.
type visitor struct {
	t      *testing.T
	h      http.Handler
	cookie string // as it is sent; empty: none
	form   string // what the session's forms send back
	change func(*http.Request)
}

var formPattern = regexp.MustCompile(`name="form" value="([^"]*)"`)

// signedIn returns a visitor who has signed in.
func signedIn(t *testing.T, h http.Handler) *visitor {
	t.Helper()
	v := &visitor{t: t, h: h, cookie: signIn(t, h)}
	v.learnForm()
	return v
}

// learnForm takes what forms send back from a page.
func (v *visitor) learnForm() {
	v.t.Helper()
	found := formPattern.FindStringSubmatch(v.open("/").Body.String())
	if found == nil {
		v.t.Fatal("the page of somebody who has signed in has no form to sign out")
	}
	v.form = html.UnescapeString(found[1])
}

// signIn signs in and returns the cookie.
func signIn(t *testing.T, h http.Handler) string {
	t.Helper()
	return (&visitor{t: t, h: h}).again()
}

// again signs in, as somebody who may have done so before, and returns the cookie.
func (v *visitor) again() string {
	v.t.Helper()
	w := v.post("/sign-in", map[string]string{"token": theToken})
	cookies := w.Result().Cookies()
	if w.Code != http.StatusSeeOther || len(cookies) != 1 {
		v.t.Fatalf("signing in = %d with %d cookies, want 303 with 1: %s", w.Code, len(cookies), w.Body)
	}
	return cookies[0].Name + "=" + cookies[0].Value
}

func (v *visitor) send(r *http.Request) *httptest.ResponseRecorder {
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

func (v *visitor) open(target string) *httptest.ResponseRecorder {
	return v.send(httptest.NewRequest(http.MethodGet, target, nil))
}

// submit sends a form of the session.
func (v *visitor) submit(target string, values map[string]string) *httptest.ResponseRecorder {
	all := map[string]string{"form": v.form}
	for name, value := range values {
		all[name] = value
	}
	return v.post(target, all)
}

// post sends a form as it is.
func (v *visitor) post(target string, values map[string]string) *httptest.ResponseRecorder {
	form := url.Values{}
	for name, value := range values {
		form.Set(name, value)
	}
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return v.send(r)
}

// pagesForVisitors are the pages that can be asked for.
func pagesForVisitors() []string {
	pages := []string{"/", "/connections", "/connections/acme", "/new", "/sign-in"}
	for _, o := range operations() {
		pages = append(pages, "/connections/acme/"+o.Name)
	}
	return pages
}

func TestPagesRunNothingAndAreFramedByNobody(t *testing.T) {
	h := newAdmin(t, &memoryStore{connections: []credstore.Connection{fullConnection()}}, offering).Handler()
	b := signedIn(t, h)
	for _, page := range append(pagesForVisitors(), "/connections/nobody", "/connections?limit=x") {
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

// TestNoPageChangesAnything: nothing is done by GET, and nothing by a form that
// the session was not given.
func TestNoPageChangesAnything(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection()}}
	h := newAdmin(t, store, offering).Handler()
	b := signedIn(t, h)
	for _, page := range pagesForVisitors() {
		if w := b.open(page + "?form=" + b.form + "&uninstall=1"); w.Code >= 500 {
			t.Errorf("GET %s = %d", page, w.Code)
		}
	}
	for _, o := range operations() {
		target := "/connections/acme/" + o.Name
		for name, send := range map[string]func() int{
			"no form":       func() int { return b.post(target, nil).Code },
			"wrong form":    func() int { return b.post(target, map[string]string{"form": b.form + "x"}).Code },
			"form in query": func() int { return b.post(target+"?form="+b.form, nil).Code },
			"no session":    func() int { return (&visitor{t: t, h: h}).post(target, map[string]string{"form": b.form}).Code },
			"other session": func() int { return b.post(target, map[string]string{"form": signedIn(t, h).form}).Code },
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

func TestLinksOfOtherPagesLeadIn(t *testing.T) {
	h := newAdmin(t, &memoryStore{connections: []credstore.Connection{fullConnection()}}, offering).Handler()
	b := &visitor{t: t, h: h, change: func(r *http.Request) {
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

// TestReadingPagesWithoutSigningIn is for listeners that this machine alone can
// reach; others show nothing but the page to sign in at.
func TestReadingPagesWithoutSigningIn(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection()}}
	local := &visitor{t: t, h: newAdmin(t, store, offering).Handler()}
	reached := &visitor{t: t, h: newAdmin(t, store, exposed).Handler()}
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
	w := reached.post("/sign-in", map[string]string{"token": theToken, "next": "/connections?q=a"})
	if got := w.Header().Get("Location"); got != "/connections?q=a" {
		t.Errorf("after signing in the browser goes to %q, want /connections?q=a", got)
	}
}

func TestSignInLeadsNowhereElse(t *testing.T) {
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

// TestSessionsEnd: by time idle, by age, by signing out, and with the token.
func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := theToken
		h := newAdmin(t, &memoryStore{}, func(c *Config) {
			c.Exposed = true
			c.Token = func() credstore.Secret { return credstore.NewSecret(token) }
		}).Handler()
		open := func(b *visitor) bool { return b.open("/").Code == http.StatusOK }
		b := signedIn(t, h)
		time.Sleep(sessionIdle - time.Second)
		if !open(b) {
			t.Error("the session ended before it was idle for long")
		}
		time.Sleep(sessionIdle)
		if open(b) {
			t.Error("the session goes on although it was idle")
		}
		b = signedIn(t, h)
		for range int(sessionAtMost/(10*time.Minute)) - 1 {
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
		if b.cookie = b.again(); open(&before) || !open(b) {
			t.Error("signing in again leaves the session before open")
		}
		b.learnForm()
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
		v := &visitor{t: t, h: h, change: test.change}
		cookies := v.post("/sign-in", map[string]string{"token": " " + theToken + "\n"}).Result().Cookies()
		if len(cookies) != 1 {
			t.Fatalf("%s: %d cookies, want 1", name, len(cookies))
		}
		c := cookies[0]
		if c.Name != test.cookie || c.Secure != test.secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("%s: the cookie is %v, want %s, HttpOnly, SameSite=Strict, Path=/, Secure %v", name, c, test.cookie, test.secure)
		}
	}
}

// TestDashboardsOnOneHost: of staging and production, brought over to two ports of
// the same machine, signing in to one leaves the session with the other as it is.
// Browsers send cookies to all ports of a host.
func TestDashboardsOnOneHost(t *testing.T) {
	first := signedIn(t, newAdmin(t, &memoryStore{}, exposed).Handler())
	other := &visitor{t: t, h: newAdmin(t, &memoryStore{}, exposed).Handler(), change: func(r *http.Request) { r.Host = "127.0.0.1:9485" }}
	c := other.post("/sign-in", map[string]string{"token": theToken}).Result().Cookies()[0]
	jar := map[string]string{}
	for _, cookie := range []string{first.cookie, c.Name + "=" + c.Value} {
		name, value, _ := strings.Cut(cookie, "=")
		jar[name] = value
	}
	for _, v := range []*visitor{first, other} {
		v.cookie = ""
		for name, value := range jar {
			v.cookie += name + "=" + value + "; "
		}
		if w := v.open("/"); w.Code != http.StatusOK {
			t.Errorf("with cookies of both, one answers %d, want 200", w.Code)
		}
	}
}

// TestWrongTokensAreCounted: an address that has given too many is not heard for
// a while, and others are.
func TestWrongTokensAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newAdmin(t, &memoryStore{}, withToken).Handler()
		from := func(address string) *visitor {
			return &visitor{t: t, h: h, change: func(r *http.Request) { r.RemoteAddr = address }}
		}
		wrong, right := map[string]string{"token": "wrong"}, map[string]string{"token": theToken}
		for i := range wrongTokens {
			if w := from(fmt.Sprintf("[2001:db8::%d]:1", i+1)).post("/sign-in", wrong); w.Code != http.StatusUnauthorized {
				t.Fatalf("wrong token %d = %d, want 401", i+1, w.Code)
			}
		}
		w := from("[2001:db8::ffff]:9").post("/sign-in", right)
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("after %d wrong tokens of its network = %d, want 429 with Retry-After", wrongTokens, w.Code)
		}
		if w := from("192.0.2.1:1").post("/sign-in", right); w.Code != http.StatusSeeOther {
			t.Errorf("from another address = %d, want 303", w.Code)
		}
		time.Sleep(wrongTokensKept)
		if w := from("[2001:db8::1]:1").post("/sign-in", right); w.Code != http.StatusSeeOther {
			t.Errorf("after a while = %d, want 303", w.Code)
		}
	})
}

// TestSessionsAreBounded: whoever fills the memory needs the token, or many
// addresses.
func TestSessionsAreBounded(t *testing.T) {
	a := newAdmin(t, &memoryStore{}, withToken)
	s := a.dashboard.sessions
	first := signIn(t, a.Handler())
	for range sessionsAtOnce + 10 {
		s.begin()
	}
	if len(s.open) > sessionsAtOnce {
		t.Errorf("%d sessions are kept, want %d at most", len(s.open), sessionsAtOnce)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", first)
	if s.of(r) != nil {
		t.Error("the session that was idle for longest stays")
	}
	for i := range addressesAtOnce + 10 {
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.1:1", i/256, i%256)
		if !s.tooMany(r) {
			s.failed(r)
		}
	}
	if len(s.wrong) > addressesAtOnce {
		t.Errorf("wrong tokens of %d addresses are counted, want %d at most", len(s.wrong), addressesAtOnce)
	}
}

// TestOverviewShowsWhatNeedsAPersonFirst: with what to do, in words, and the
// button for it.
func TestOverviewShowsWhatNeedsAPersonFirst(t *testing.T) {
	refused := fullConnection()
	refused.ID, refused.Name, refused.Status, refused.Reason = "z", "zeta", credstore.ReauthorizationRequired, credstore.ReasonRefused
	key := bareConnection()
	key.Status, key.Reason = credstore.ReauthorizationRequired, credstore.ReasonKeyRefused
	conflict, off := fullConnection(), fullConnection()
	conflict.ID, conflict.Name, conflict.Status, conflict.Reason = "m", "mixed-up", credstore.Disabled, credstore.ReasonCompany
	off.ID, off.Name, off.Status, off.Reason = "o", "off", credstore.Disabled, credstore.ReasonOperator
	ending, lasting := keyedConnection(), keyedConnection()
	ending.ID, ending.Name, ending.ExpiresAt = "e", "nearly-over", time.Now().Add(5*24*time.Hour)
	lasting.ID, lasting.Name, lasting.ExpiresAt = "l", "lasting", time.Now().Add(90*24*time.Hour)
	store := &memoryStore{connections: []credstore.Connection{fullConnection(), key, conflict, ending, lasting, off, refused}}
	page := (&visitor{t: t, h: newAdmin(t, store, offering).Handler()}).open("/").Body.String()
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

// TestOverviewLeadsToAllOfThem: what it shows the first of can be seen in whole,
// on the pages of the list, which lets one choose it too.
func TestOverviewLeadsToAllOfThem(t *testing.T) {
	store := &memoryStore{}
	for i := range 260 {
		c := credstore.Connection{ID: fmt.Sprint(i), Name: fmt.Sprintf("c%03d", i), Kind: credstore.OAuth, Status: credstore.Disabled, Reason: credstore.ReasonCompany}
		if i%10 == 0 {
			c.Reason = credstore.ReasonOperator
		}
		store.connections = append(store.connections, c)
	}
	v := &visitor{t: t, h: newAdmin(t, store, offering).Handler()}
	page := v.open("/").Body.String()
	if !strings.Contains(page, `<span class="count">200+</span>`) || strings.Count(page, `<li class="card`) != firstFew {
		t.Errorf("the page does not say that there are over 200 and show the first %d:\n%s", firstFew, page)
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

func TestListPagesKeepTheirFilters(t *testing.T) {
	store := &memoryStore{}
	for i := range 120 {
		store.connections = append(store.connections, credstore.Connection{
			ID: fmt.Sprint(i), Name: fmt.Sprintf("c%03d", i), Kind: credstore.OAuth, Status: credstore.Active,
		})
	}
	v := &visitor{t: t, h: newAdmin(t, store, offering).Handler()}
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

// TestPagesEscape what comes from elsewhere.
func TestPagesEscape(t *testing.T) {
	c := fullConnection()
	const evil = `"><script>alert(1)</script>`
	c.CompanyName, c.ExternalTenant, c.LastError.Message = evil, evil, evil
	store := &memoryStore{connections: []credstore.Connection{c}}
	store.events = []credstore.Event{{ConnectionID: c.ID, ID: "e", Type: credstore.EventCreated, Message: evil, Actor: evil}}
	b := signedIn(t, newAdmin(t, store, offering).Handler())
	for _, page := range append(pagesForVisitors(), "/connections?q="+url.QueryEscape(evil)) {
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
		{"/connections/acme/link", nil, nil, 200, plantedLink + "-acme"},
		{"/connections/acme/link", map[string]string{"fresh": "on"}, nil, 200, plantedLink + "-acme-fresh"},
		{"/connections/acme/link", map[string]string{"return_url": "https://evil.example"}, nil, 400, "not among connect.return_urls"},
		{"/connections/acme/check", nil, nil, 200, "calls it inactive"},
		{"/connections/acme/refresh", nil, nil, 303, "Pleo has given a new token pair."},
		{"/connections/acme/refresh", nil, ErrUnderWay, 303, "under way"},
		{"/connections/acme/refresh", nil, &RefreshError{Message: "the server answered 429"}, 502, "The refresh brought no new token: the server answered 429."},
		{"/connections/acme/disable", nil, nil, 303, "The connection is disabled."},
		{"/connections/off/enable", nil, nil, 303, "The connection is enabled."},
		{"/connections/refused/retry", nil, nil, 303, "presented once more"},
		{"/connections/bare/key", map[string]string{"api_key": plantedKey, "expires_on": "2099-12-31"}, nil, 303, "The API key was stored."},
		{"/connections/keyed/key", map[string]string{"api_key": plantedKey, "next": "on"}, nil, 303, "The next API key was stored."},
		{"/connections/bare/key", map[string]string{"api_key": plantedKey, "expires_on": "soon"}, nil, 400, "must be a date"},
		{"/connections/bare/key", map[string]string{"api_key": plantedKey, "expires_on": "2020-01-31"}, nil, 400, "The last day of the key is over already."},
		{"/connections/bare/key", nil, nil, 400, "The API key is missing"},
		{"/connections/acme/key", map[string]string{"api_key": plantedKey}, nil, 409, "this is not possible"},
		{"/connections/acme/enable", nil, nil, 409, "this is not possible"},
		{"/connections/acme/explode", nil, nil, 404, "nothing at this address"},
		{"/connections/nobody/disable", nil, nil, 404, "There is no connection"},
		{"/connections/acme/remove", map[string]string{"uninstall": "on"}, nil, 303, "Connection acme was removed."},
		{"/new", map[string]string{"name": "new", "kind": "oauth"}, nil, 303, "Connection new was made."},
		{"/new", map[string]string{"name": "acme", "kind": "oauth", "external_tenant": "t-1"}, nil, 409, "There is a connection acme already."},
		{"/new", map[string]string{"name": "a b", "kind": "oauth"}, nil, 400, "The name must have"},
	} {
		t.Run(test.target+" "+test.want, func(t *testing.T) {
			store := &memoryStore{connections: []credstore.Connection{fullConnection(), bareConnection(), keyedConnection(), off, refused}}
			b := signedIn(t, newAdmin(t, store, func(c *Config) {
				offering(c)
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

// TestConfirmingWarns of what the reason makes dangerous or useless, before it is
// done.
func TestConfirmingWarns(t *testing.T) {
	for _, test := range []struct{ reason, page, want string }{
		{credstore.ReasonCompany, "enable", "a company that it should not belong to"},
		{credstore.ReasonCompany, "link", ""},
		{credstore.ReasonExported, "enable", "Its secrets were exported"},
		{credstore.ReasonExported, "link", "leads nowhere before you enable it"},
		{credstore.ReasonOperator, "enable", ""},
		{credstore.ReasonOperator, "link", "leads nowhere before you enable it"},
	} {
		c := fullConnection()
		c.Status, c.Reason = credstore.Disabled, test.reason
		b := signedIn(t, newAdmin(t, &memoryStore{connections: []credstore.Connection{c}}, offering).Handler())
		page := b.open("/connections/acme/" + test.page).Body.String()
		if warns := strings.Contains(page, `class="notice bad"`); warns != (test.want != "") || !strings.Contains(page, test.want) {
			t.Errorf("the page to confirm %s of a connection disabled for %s does not warn %q:\n%s", test.page, test.reason, test.want, page)
		}
	}
}

// TestIdleConnectionIsNotBroken: that its access token has expired is no trouble.
func TestIdleConnectionIsNotBroken(t *testing.T) {
	idle := fullConnection()
	idle.Status, idle.Reason, idle.LastError, idle.ExpiresAt = credstore.Active, "", nil, time.Now().Add(-time.Hour)
	used := idle
	used.ID, used.Name, used.ExpiresAt = "u", "used", time.Now().Add(time.Hour)
	v := &visitor{t: t, h: newAdmin(t, &memoryStore{connections: []credstore.Connection{idle, used}}, offering).Handler()}
	for name, want := range map[string]bool{"acme": true, "used": false} {
		if page := v.open("/connections/" + name).Body.String(); strings.Contains(page, "the next request gets a new one") != want {
			t.Errorf("the page of %s says that the next request gets a new token: %v, want %v", name, !want, want)
		}
	}
}

// TestListSaysWhy a connection is not simply at work, in words.
func TestListSaysWhy(t *testing.T) {
	works, pending, conflict, ending := fullConnection(), bareConnection(), fullConnection(), keyedConnection()
	works.Status, works.Reason, works.LastError = credstore.Active, "", nil
	conflict.ID, conflict.Name, conflict.Status, conflict.Reason = "c", "conflict", credstore.Disabled, credstore.ReasonCompany
	ending.ExpiresAt = time.Now().Add(5*24*time.Hour + time.Hour)
	store := &memoryStore{connections: []credstore.Connection{works, pending, conflict, ending}}
	page := (&visitor{t: t, h: newAdmin(t, store, offering).Handler()}).open("/connections").Body.String()
	for _, want := range []string{"Nobody has entered an API key yet.", "a company that it should not belong to", "its API key ends in 5 days"} {
		if !strings.Contains(page, want) {
			t.Errorf("the list does not say %q", want)
		}
	}
	if got := strings.Count(page, `class="why"`); got != 3 {
		t.Errorf("the list says why of %d connections, want the 3 that do not simply work", got)
	}
}

// TestBrowsersGetPagesAboutErrors, with a way on, and programs get documents.
func TestBrowsersGetPagesAboutErrors(t *testing.T) {
	h := newAdmin(t, &memoryStore{}, offering).Handler()
	const browser = "text/html,application/xhtml+xml,*/*;q=0.8"
	for _, test := range []struct{ path, accept, want string }{
		{"/connections/", browser, "text/html; charset=utf-8"},
		{"/nowhere", browser, "text/html; charset=utf-8"},
		{"/nowhere", "*/*", "application/problem+json"},
		{"/nowhere", "", "application/problem+json"},
		{"/api/v1/nowhere", browser, "application/problem+json"},
	} {
		v := &visitor{t: t, h: h, change: func(r *http.Request) { r.Header.Set("Accept", test.accept) }}
		w := v.open(test.path)
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusNotFound || got != test.want {
			t.Errorf("GET %s with Accept %q = %d %s, want 404 %s", test.path, test.accept, w.Code, got, test.want)
		}
		if test.accept == browser && test.want != "application/problem+json" && !strings.Contains(w.Body.String(), `href="/connections"`) {
			t.Errorf("the page about %s leads nowhere:\n%s", test.path, w.Body)
		}
	}
}

// TestSearchForWhatWasPasted finds it without the spaces and line breaks beside it.
func TestSearchForWhatWasPasted(t *testing.T) {
	v := &visitor{t: t, h: newAdmin(t, &memoryStore{connections: []credstore.Connection{fullConnection()}}, offering).Handler()}
	if page := v.open("/connections?q=" + url.QueryEscape(" acme\t")).Body.String(); !strings.Contains(page, `href="/connections/acme"`) {
		t.Errorf("the list lacks acme:\n%s", page)
	}
}

// TestOverviewWithoutAStore says so, and shows what is known all the same: how the
// rest of the program is, and its traffic.
func TestOverviewWithoutAStore(t *testing.T) {
	a := newAdmin(t, &memoryStore{err: credstore.ErrUnavailable}, func(c *Config) {
		offering(c)
		c.Checks = []Check{
			{Name: "store", Probe: func(context.Context) error { return errors.New("no route to the database") }},
			{Name: "authorization server", Probe: func(context.Context) error { return nil }},
		}
	})
	w := (&visitor{t: t, h: a.Handler()}).open("/")
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

// TestPagesNameTheEnvironment, so that nobody removes from production what they meant
// to remove from staging.
func TestPagesNameTheEnvironment(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection()}}
	b := signedIn(t, newAdmin(t, store, func(c *Config) {
		offering(c)
		c.Environment = "staging"
	}).Handler())
	for _, target := range append(pagesForVisitors(), "/connections/nobody") {
		page := b.open(target).Body.String()
		if !strings.Contains(page, "· staging · pleo-auth-proxy</title>") || !strings.Contains(page, `<span class="environment">staging</span>`) {
			t.Errorf("GET %s does not name the environment:\n%s", target, page)
		}
	}
}

// TestConfirmedForAnother: a page that asked about a connection which was removed
// meanwhile does nothing to another one that has its name now.
func TestConfirmedForAnother(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection()}}
	b := signedIn(t, newAdmin(t, store, offering).Handler())
	page := b.open("/connections/acme/disable").Body.String()
	of := regexp.MustCompile(`name="of" value="([^"]*)"`).FindStringSubmatch(page)
	if of == nil {
		t.Fatalf("the page does not say which connection it asks about:\n%s", page)
	}
	store.connections[0].ID = "of-another"
	w := b.post("/connections/acme/disable", map[string]string{"form": b.form, "of": of[1]})
	if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "another connection") {
		t.Errorf("disabling another connection than was asked about = %d, want 409:\n%s", w.Code, w.Body)
	}
	if len(store.events) > 0 {
		t.Errorf("something was changed: %v", store.events)
	}
}

// TestFormsKeepWhatWasFilledIn when it was not done, but for secrets: whoever
// corrects a key must not lose that it was to be the next one.
func TestFormsKeepWhatWasFilledIn(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection(), keyedConnection()}}
	b := signedIn(t, newAdmin(t, store, func(c *Config) {
		offering(c)
		c.ReturnURLs = []string{"https://erp.example.com/a", "https://erp.example.com/b"}
		c.Actions = &fakeActions{store: store, err: pleo.ErrUnauthorized}
	}).Handler())
	for _, test := range []struct {
		page   string
		values map[string]string
		want   []string
	}{
		{"/connections/keyed/key", map[string]string{"api_key": plantedKey, "next": "on", "expires_on": "2099-12-31"}, []string{
			"Pleo does not know this key", `name="next" type="checkbox" checked`, `value="2099-12-31"`,
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
		if strings.Contains(page, plantedKey) {
			t.Errorf("the page after POST %s shows the key:\n%s", test.page, page)
		}
	}
}

// TestKeyIsTakenAsPasted: without the quotes, the spaces and the line break beside it.
func TestKeyIsTakenAsPasted(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{bareConnection()}}
	actions := &fakeActions{store: store}
	b := signedIn(t, newAdmin(t, store, func(c *Config) {
		offering(c)
		c.Actions = actions
	}).Handler())
	b.submit("/connections/bare/key", map[string]string{"api_key": " \"" + plantedKey + "\"\n"})
	if len(actions.keys) != 1 || actions.keys[0].Key.Reveal() != plantedKey {
		t.Errorf("keys set: %v, want the one that was pasted", actions.keys)
	}
}

func TestKeyEndsAtTheEndOfItsLastDay(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{bareConnection()}}
	actions := &fakeActions{store: store}
	b := signedIn(t, newAdmin(t, store, func(c *Config) {
		offering(c)
		c.Actions = actions
	}).Handler())
	b.submit("/connections/bare/key", map[string]string{"api_key": plantedKey, "expires_on": "2099-12-31"})
	if want := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC); len(actions.keys) != 1 || !actions.keys[0].ExpiresAt.Equal(want) {
		t.Errorf("keys set: %v, want one that ends at %v", actions.keys, want)
	}
}
