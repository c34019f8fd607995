package connect

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// RFC 7636 section 4.1.
var verifierPattern = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

func TestVerifierIsFreshPerAttempt(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	id := o.connection("acme", credstore.OAuth)
	link, alice := o.link(id), o.browser()
	seen := map[string]bool{}
	for range 3 {
		asked := alice.start(link)
		verifier := asked.Get("challenge_of")
		if !verifierPattern.MatchString(verifier) {
			t.Errorf("verifier %q is not valid according to RFC 7636", verifier)
		}
		if seen[verifier] || seen[asked.Get("state")] {
			t.Error("a verifier or a state was used before")
		}
		seen[verifier], seen[asked.Get("state")] = true, true
		if asked.Get("redirect_uri") != "https://connect.example.com/oauth/callback" || asked.Get("scope") != "users:read" {
			t.Errorf("authorization request %v", asked)
		}
	}
	asked := alice.start(link)
	alice.callback(asked.Get("state"))
	want := exchangeCall{codeCanary, asked.Get("challenge_of"), "https://connect.example.com/oauth/callback"}
	if got := o.pleo.exchanges; len(got) != 1 || got[0] != want {
		t.Errorf("exchanges = %v, want only %v", got, want)
	}
}

func TestStateIsLongAndUsedOnce(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	id := o.connection("acme", credstore.OAuth)
	alice := o.browser()
	state := alice.start(o.link(id)).Get("state")
	if len(state) < 43 { // 256 bits in base64url
		t.Errorf("state %q has less than 256 bits", state)
	}
	wantText(t, alice.follow(alice.callback(state)), "Connected", "Acme ApS", "Tenant of acme")
	wantText(t, alice.follow(alice.callback(state)), "This page has expired")
	if n := o.pleo.calls(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func TestStateExpiresAfterTenMinutes(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	link, alice := o.link(o.connection("acme", credstore.OAuth)), o.browser()
	state := alice.start(link).Get("state")
	o.later.Store(int64(10*time.Minute + time.Second))
	wantText(t, alice.follow(alice.callback(state)), "This page has expired")
	if n := o.pleo.calls(); n != 0 {
		t.Errorf("%d token requests, want none", n)
	}
	wantText(t, alice.follow(alice.callback(alice.start(link).Get("state"))), "Connected") // the link is still valid
}

// TestLinkExpiresDuringConsent checks that a consent can be finished after its link has
// expired, but not after the link was replaced.
func TestLinkExpiresDuringConsent(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	id := o.connection("acme", credstore.OAuth)
	alice, bob := o.browser(), o.browser()
	replaced := bob.start(o.link(id)).Get("state")
	link := o.link(id)
	wantText(t, bob.follow(bob.callback(replaced)), "This link has expired")
	if n := o.pleo.calls(); n != 0 {
		t.Errorf("%d token requests for a link that was replaced, want none", n)
	}
	o.later.Store(int64(defaultTTL - time.Minute))
	state := alice.start(link).Get("state")
	o.later.Add(int64(2 * time.Minute))
	wantText(t, alice.follow(alice.callback(state)), "Connected", "Acme ApS")
	wantText(t, bob.send("GET", link, "").Body.String(), "This link has already been used")
}

// TestStateInOtherBrowserMakesNoTokenRequest checks that the state is bound to the
// browser. PKCE does not prevent an attacker from starting a consent in the victim's
// browser and finishing it in another, or the other way round.
func TestStateInOtherBrowserMakesNoTokenRequest(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	link := o.link(o.connection("acme", credstore.OAuth))
	other := o.link(o.connection("other", credstore.OAuth))
	alice, mallory, fresh := o.browser(), o.browser(), o.browser()
	state := alice.start(link).Get("state")
	mallory.start(other) // has a cookie too
	for name, p := range map[string]*browser{"with a cookie": mallory, "without": fresh} {
		wantText(t, p.follow(p.callback(state)), "Please continue in the same browser")
		if n := o.pleo.calls(); n != 0 {
			t.Errorf("%s: %d token requests, want none", name, n)
		}
	}
	wantText(t, alice.follow(alice.callback(state)), "Connected") // the state is still valid
}

func TestCookieBindsTheBrowser(t *testing.T) {
	for _, test := range []struct {
		public, name string
		secure       bool
	}{
		{"https://connect.example.com", "__Host-pleo-browser", true},
		{"http://127.0.0.1:8486", "pleo-browser", false},
	} {
		o := newEnv(t, test.public, nil)
		alice := o.browser()
		alice.start(o.link(o.connection("acme", credstore.OAuth)))
		c := alice.cookies[test.name]
		if c == nil || c.Secure != test.secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("%s: cookie %+v, want %s, HttpOnly, SameSite=Lax, without a domain", test.public, c, test.name)
		}
	}
}

// TestMixUpMakesNoTokenRequest checks that concurrent flows return to the right
// connection in any order, and that a state does nothing in the other browser.
func TestMixUpMakesNoTokenRequest(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	first, second := o.connection("first", credstore.OAuth), o.connection("second", credstore.OAuth)
	alice, bob := o.browser(), o.browser()
	ofAlice, ofBob := alice.start(o.link(first)), bob.start(o.link(second))
	alice.callback(ofBob.Get("state"))
	bob.callback(ofAlice.Get("state"))
	if n := o.pleo.calls(); n != 0 {
		t.Fatalf("%d token requests for swapped states, want none", n)
	}
	// One browser with two tabs: the later flow returns first.
	third := alice.start(o.link(second))
	o.pleo.company = credstore.Company{ID: "c-2", Name: "Beta ApS"}
	wantText(t, alice.follow(alice.callback(third.Get("state"))), "Tenant of second", "Beta ApS")
	o.pleo.company = credstore.Company{ID: "c-1", Name: "Acme ApS"}
	wantText(t, alice.follow(alice.callback(ofAlice.Get("state"))), "Tenant of first", "Acme ApS")
	for i, verifier := range []string{third.Get("challenge_of"), ofAlice.Get("challenge_of")} {
		if o.pleo.exchanges[i].verifier != verifier {
			t.Errorf("exchange %d used the verifier of another flow", i+1)
		}
	}
}

// TestGetChangesNothing checks that mail scanners and previews do not use up a link.
func TestGetChangesNothing(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	id := o.connection("acme", credstore.OAuth)
	link := o.link(id)
	scanner := o.browser()
	for _, method := range []string{"GET", "HEAD", "GET"} {
		w := scanner.send(method, link, "")
		if w.Code != http.StatusOK || w.Header().Get("Location") != "" {
			t.Errorf("%s = %d to %q, want 200 and no redirect", method, w.Code, w.Header().Get("Location"))
		}
		if method == "HEAD" && w.Body.Len() > 0 {
			t.Error("the response to HEAD has a body")
		}
	}
	if n := o.pleo.calls(); n != 0 {
		t.Errorf("%d token requests, want none", n)
	}
	alice := o.browser()
	wantText(t, alice.follow(alice.callback(alice.start(link).Get("state"))), "Connected")
}

// TestHeadAtCallbackChangesNothing checks that scanners do not use up a state.
func TestHeadAtCallbackChangesNothing(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	alice := o.browser()
	state := alice.start(o.link(o.connection("acme", credstore.OAuth))).Get("state")
	if w := alice.send("HEAD", "/oauth/callback?code=x&state="+state, ""); w.Code/100 != 4 {
		t.Errorf("HEAD = %d, want status 4xx", w.Code)
	}
	wantText(t, alice.follow(alice.callback(state)), "Connected")
}

// TestConsentRequiresSameOrigin checks that a form on another site cannot start a
// consent for the attacker's connection.
func TestConsentRequiresSameOrigin(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	link := o.link(o.connection("acme", credstore.OAuth))
	for name, test := range map[string]struct {
		header  map[string]string
		started bool
	}{
		"our page":                     {map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "null"}, true},
		"our page, old browser":        {map[string]string{"Origin": "https://connect.example.com"}, true},
		"not a browser":                {nil, true},
		"another site":                 {map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, false},
		"another subdomain":            {map[string]string{"Sec-Fetch-Site": "same-site"}, false},
		"another site, old browser":    {map[string]string{"Origin": "https://evil.example"}, false},
		"sandboxed frame, old browser": {map[string]string{"Origin": "null"}, false},
	} {
		p := o.browser()
		p.header = test.header
		if w := p.send("POST", link, ""); (w.Code == http.StatusSeeOther) != test.started {
			t.Errorf("%s: POST = %d, want started %v", name, w.Code, test.started)
		}
	}
	old := o.browser()
	old.send("GET", link, "")
	old.header = map[string]string{"Origin": "null"} // as sent with no-referrer
	if w := old.send("POST", link, ""); w.Code != http.StatusSeeOther {
		t.Errorf("our page in an old browser: POST = %d, want 303", w.Code)
	}
}

func TestIssuerIsChecked(t *testing.T) {
	for name, test := range map[string]struct {
		configured, iss string
		connected       bool
	}{
		"absent":            {"", "", true},
		"configured":        {"pleo.production", "pleo.production", true},
		"URL of the server": {"", "https://auth.example.com", true},
		"trailing slash":    {"", "https://auth.example.com/", true},
		"other server":      {"", "https://auth.example.org", false},
		"other path":        {"", "https://auth.example.com/evil", false},
	} {
		t.Run(name, func(t *testing.T) {
			o := newEnv(t, "https://connect.example.com", func(c *Config) { c.Issuer = test.configured })
			alice := o.browser()
			q := url.Values{"state": {alice.start(o.link(o.connection("acme", credstore.OAuth))).Get("state")}, "code": {codeCanary}}
			if test.iss != "" {
				q.Set("iss", test.iss)
			}
			page := alice.follow(alice.send("GET", "/oauth/callback?"+q.Encode(), ""))
			if connected := strings.Contains(page, "Connected"); connected != test.connected || (o.pleo.calls() == 1) != test.connected {
				t.Errorf("connected = %v with %d token requests, want %v:\n%s", connected, o.pleo.calls(), test.connected, page)
			}
		})
	}
}

// TestErrorCallback checks that the state is verified, the code escaped and nothing
// stored.
func TestErrorCallback(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	id := o.connection("acme", credstore.OAuth)
	link, alice, mallory := o.link(id), o.browser(), o.browser()
	state := alice.start(link).Get("state")
	failed := func(p *browser, state, code string) string {
		q := url.Values{"state": {state}, "error": {code}, "error_description": {"<script>description-canary</script>"}}
		return p.follow(p.send("GET", "/oauth/callback?"+q.Encode(), ""))
	}
	wantText(t, failed(mallory, state, "access_denied"), "Please continue in the same browser")
	wantText(t, failed(alice, state, "access_denied"), "Pleo is not connected", "Try again", "error=consent_denied", "status=pending")
	wantText(t, failed(alice, state, "access_denied"), "This page has expired")

	page := failed(alice, alice.start(link).Get("state"), `<img src=x onerror=alert(1)>`)
	wantText(t, page, "Pleo did not grant access", "&lt;img src=x onerror=alert(1)&gt;")
	if strings.Contains(page, "<img") || strings.Contains(page, "canary") {
		t.Errorf("the page contains text from the URL:\n%s", page)
	}
	if s := o.state(id); s.Connection.Version != 0 || o.pleo.calls() != 0 {
		t.Errorf("after denied consents: version %d and %d token requests, want none", s.Connection.Version, o.pleo.calls())
	}
	wantText(t, alice.follow(alice.callback(alice.start(link).Get("state"))), "Connected") // the link is still valid
}

func TestReturnURLMustBeConfigured(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	id := o.connection("acme", credstore.OAuth)
	alice := o.browser()
	link := o.link(id)
	page := alice.follow(alice.callback(alice.start(link).Get("state")))
	wantText(t, page, `href="https://books.example.com/done?connection=acme&amp;from=pleo&amp;status=active"`)
	// The configuration at the time of the request decides.
	o.pages.views.returnURLs = nil
	if page := alice.send("GET", link, "").Body.String(); strings.Contains(page, "books.example.com") {
		t.Errorf("the page has a return URL that is no longer configured:\n%s", page)
	}
}

// TestCallbackRedirectsToCleanURL checks that code and state do not stay in the address
// bar.
func TestCallbackRedirectsToCleanURL(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	link, alice := o.link(o.connection("acme", credstore.OAuth)), o.browser()
	state := alice.start(link).Get("state")
	for name, w := range map[string]interface{ Result() *http.Response }{
		"other browser": o.browser().callback(state),
		"right browser": alice.callback(state),
		"repeated code": alice.send("GET", "/oauth/callback?code=a&code=b", ""),
		"invalid query": alice.send("GET", "/oauth/callback?code=%zz&state="+state, ""),
	} {
		res := w.Result()
		if to := res.Header.Get("Location"); res.StatusCode != http.StatusSeeOther || strings.Contains(to, "?") || strings.Contains(to, state) {
			t.Errorf("%s: %d to %q, want 303 to a URL without parameters", name, res.StatusCode, to)
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	link := o.link(o.connection("acme", credstore.OAuth))
	key := o.link(o.connection("keyed", credstore.StandaloneKey))
	alice := o.browser()
	for _, target := range []string{link, key, "/", "/connect/x", "/oauth/callback", "/stopped/other_browser", "/stopped/x", o.pages.renderer.stylePath} {
		w := alice.send("GET", target, "")
		h := w.Header()
		csp := h.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "style-src 'self'", "img-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, part) {
				t.Errorf("%s: policy %q does not contain %s", target, csp, part)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") {
			t.Errorf("%s: policy %q allows scripts", target, csp)
		}
		if h.Get("Referrer-Policy") != "no-referrer" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: header %v", target, h)
		}
		if cached := h.Get("Cache-Control"); target != o.pages.renderer.stylePath && cached != "no-store" {
			t.Errorf("%s: Cache-Control %q, want no-store", target, cached)
		}
		for _, loaded := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(w.Body.String(), -1) {
			if !strings.HasPrefix(loaded[1], "/assets/") && !strings.HasPrefix(loaded[1], "/stopped/") {
				t.Errorf("%s: the page refers to %q", target, loaded[1])
			}
		}
		if strings.Contains(w.Body.String(), "<script") || strings.Contains(w.Body.String(), "style=") {
			t.Errorf("%s: the page has an inline script or style", target)
		}
	}
	// Only the consent form may redirect to another host.
	if csp := alice.send("GET", key, "").Header().Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self';") {
		t.Errorf("the key form may redirect to another host: %q", csp)
	}
}

// TestMissingScopesAreShown checks that a consent with fewer scopes is accepted, and that
// the page lists the missing ones.
func TestMissingScopesAreShown(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", func(c *Config) { c.Scopes = []string{"users:read", "export-jobs:write"} })
	link, alice := o.link(o.connection("acme", credstore.OAuth)), o.browser()
	wantText(t, alice.follow(alice.callback(alice.start(link).Get("state"))), "Connected", "Some permissions are missing", "Export your expenses and report the results")
}
