package connect

import (
	"errors"
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
			t.Errorf("verifier %q is not one of RFC 7636", verifier)
		}
		if seen[verifier] || seen[asked.Get("state")] {
			t.Error("a verifier or a state was used before")
		}
		seen[verifier], seen[asked.Get("state")] = true, true
		if asked.Get("redirect_uri") != "https://connect.example.com/oauth/callback" || asked.Get("scope") != "users:read" {
			t.Errorf("Pleo is asked with %v", asked)
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
	if len(state) < 43 { // 256 bits in base64url; 128 would do
		t.Errorf("state %q has less than 256 bits", state)
	}
	wantText(t, alice.follow(alice.callback(state)), "Connected", "Acme ApS", "Tenant of acme")
	wantText(t, alice.follow(alice.callback(state)), "This page has expired")
	if n := o.pleo.calls(); n != 1 {
		t.Errorf("%d token calls, want 1", n)
	}
}

func TestStateExpiresAfterTenMinutes(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	link, alice := o.link(o.connection("acme", credstore.OAuth)), o.browser()
	state := alice.start(link).Get("state")
	o.later.Store(int64(10*time.Minute + time.Second))
	wantText(t, alice.follow(alice.callback(state)), "This page has expired")
	if n := o.pleo.calls(); n != 0 {
		t.Errorf("%d token calls, want none", n)
	}
	wantText(t, alice.follow(alice.callback(alice.start(link).Get("state"))), "Connected") // the link lasts longer
}

// TestLinkExpiresDuringConsent: whoever has begun in time may finish, but
// not by a link that the operator has replaced meanwhile.
func TestLinkExpiresDuringConsent(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	id := o.connection("acme", credstore.OAuth)
	alice, bob := o.browser(), o.browser()
	ended := bob.start(o.link(id)).Get("state")
	link := o.link(id)
	wantText(t, bob.follow(bob.callback(ended)), "This link has expired")
	if n := o.pleo.calls(); n != 0 {
		t.Errorf("%d token calls by a link that was replaced, want none", n)
	}
	o.later.Store(int64(defaultTTL - time.Minute))
	state := alice.start(link).Get("state")
	o.later.Add(int64(2 * time.Minute))
	wantText(t, alice.follow(alice.callback(state)), "Connected", "Acme ApS")
	wantText(t, bob.send("GET", link, "").Body.String(), "This link has already been used")
}

// TestStateInOtherBrowserMakesNoTokenRequest: PKCE does not stop somebody who
// has got the victim's browser to begin and comes back with the answer himself,
// or the other way round.
func TestStateInOtherBrowserMakesNoTokenRequest(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	link := o.link(o.connection("acme", credstore.OAuth))
	other := o.link(o.connection("other", credstore.OAuth))
	alice, mallory, nobody := o.browser(), o.browser(), o.browser()
	state := alice.start(link).Get("state")
	mallory.start(other) // has a cookie too
	for name, p := range map[string]*browser{"with a cookie": mallory, "without": nobody} {
		wantText(t, p.follow(p.callback(state)), "Please continue in the same browser")
		if n := o.pleo.calls(); n != 0 {
			t.Errorf("%s: %d token calls, want none", name, n)
		}
	}
	wantText(t, alice.follow(alice.callback(state)), "Connected") // it was not spent
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
			t.Errorf("%s: cookie %+v, want %s, HttpOnly, SameSite=Lax, for this host alone", test.public, c, test.name)
		}
	}
}

// TestMixUpMakesNoTokenRequest: two flows begun at once each come back to their own
// connection, whichever comes first, and a state brought back to the other
// browser does nothing.
func TestMixUpMakesNoTokenRequest(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	first, second := o.connection("first", credstore.OAuth), o.connection("second", credstore.OAuth)
	alice, bob := o.browser(), o.browser()
	ofAlice, ofBob := alice.start(o.link(first)), bob.start(o.link(second))
	alice.callback(ofBob.Get("state"))
	bob.callback(ofAlice.Get("state"))
	if n := o.pleo.calls(); n != 0 {
		t.Fatalf("%d token calls for crossed states, want none", n)
	}
	// One person, two tabs: the later flow comes back first.
	third := alice.start(o.link(second))
	o.pleo.company = credstore.Company{ID: "c-2", Name: "Beta ApS"}
	wantText(t, alice.follow(alice.callback(third.Get("state"))), "Tenant of second", "Beta ApS")
	o.pleo.company = credstore.Company{ID: "c-1", Name: "Acme ApS"}
	wantText(t, alice.follow(alice.callback(ofAlice.Get("state"))), "Tenant of first", "Acme ApS")
	for i, verifier := range []string{third.Get("challenge_of"), ofAlice.Get("challenge_of")} {
		if o.pleo.exchanges[i].verifier != verifier {
			t.Errorf("exchange %d was made with another flow's verifier", i+1)
		}
	}
}

// TestGetChangesNothing: programs that look at links before people do leave
// them as they are.
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
			t.Error("the answer to HEAD has a body")
		}
	}
	if n := o.pleo.calls(); n != 0 {
		t.Errorf("%d token calls, want none", n)
	}
	alice := o.browser()
	wantText(t, alice.follow(alice.callback(alice.start(link).Get("state"))), "Connected")
}

// TestHeadAtCallbackChangesNothing: what looks at addresses asks with HEAD too.
func TestHeadAtCallbackChangesNothing(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	alice := o.browser()
	state := alice.start(o.link(o.connection("acme", credstore.OAuth))).Get("state")
	if w := alice.send("HEAD", "/oauth/callback?code=x&state="+state, ""); w.Code/100 != 4 {
		t.Errorf("HEAD = %d, want a refusal", w.Code)
	}
	wantText(t, alice.follow(alice.callback(state)), "Connected")
}

// TestConsentRequiresSameOrigin: a form on another site that sends a customer to
// approve somebody else's connection is refused.
func TestConsentRequiresSameOrigin(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	link := o.link(o.connection("acme", credstore.OAuth))
	for name, test := range map[string]struct {
		header map[string]string
		begun  bool
	}{
		"our page":                     {map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "null"}, true},
		"our page, in an old browser":  {map[string]string{"Origin": "https://connect.example.com"}, true},
		"no browser":                   {nil, true},
		"another site":                 {map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, false},
		"a sibling":                    {map[string]string{"Sec-Fetch-Site": "same-site"}, false},
		"another site, in an old one":  {map[string]string{"Origin": "https://evil.example"}, false},
		"a sandbox, in an old browser": {map[string]string{"Origin": "null"}, false},
	} {
		p := o.browser()
		p.header = test.header
		if w := p.send("POST", link, ""); (w.Code == http.StatusSeeOther) != test.begun {
			t.Errorf("%s: POST = %d, begun should be %v", name, w.Code, test.begun)
		}
	}
	old := o.browser()
	old.send("GET", link, "")
	old.header = map[string]string{"Origin": "null"} // what no-referrer makes of our own
	if w := old.send("POST", link, ""); w.Code != http.StatusSeeOther {
		t.Errorf("an old browser on our page: POST = %d, want 303", w.Code)
	}
}

func TestIssuerIsChecked(t *testing.T) {
	for name, test := range map[string]struct {
		configured, iss string
		connected       bool
	}{
		"not said":         {"", "", true},
		"as configured":    {"pleo.production", "pleo.production", true},
		"the server's URL": {"", "https://auth.example.com", true},
		"with a slash":     {"", "https://auth.example.com/", true},
		"another server":   {"", "https://auth.example.org", false},
		"another path":     {"", "https://auth.example.com/evil", false},
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
				t.Errorf("connected = %v with %d token calls, want %v:\n%s", connected, o.pleo.calls(), test.connected, page)
			}
		})
	}
}

// TestErrorCallback: the state is checked, the text escaped, and nothing stored.
func TestErrorCallback(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	id := o.connection("acme", credstore.OAuth)
	link, alice, mallory := o.link(id), o.browser(), o.browser()
	state := alice.start(link).Get("state")
	refused := func(p *browser, state, code string) string {
		q := url.Values{"state": {state}, "error": {code}, "error_description": {"<script>description-canary</script>"}}
		return p.follow(p.send("GET", "/oauth/callback?"+q.Encode(), ""))
	}
	wantText(t, refused(mallory, state, "access_denied"), "Please continue in the same browser")
	wantText(t, refused(alice, state, "access_denied"), "Pleo is not connected", "Try again", "error=consent_denied", "status=pending")
	wantText(t, refused(alice, state, "access_denied"), "This page has expired")

	page := refused(alice, alice.start(link).Get("state"), `<img src=x onerror=alert(1)>`)
	wantText(t, page, "Pleo did not grant access", "&lt;img src=x onerror=alert(1)&gt;")
	if strings.Contains(page, "<img") || strings.Contains(page, "canary") {
		t.Errorf("the page shows what came with the address:\n%s", page)
	}
	if s := o.state(id); s.Connection.Version != 0 || o.pleo.calls() != 0 {
		t.Errorf("after denied consents the connection has version %d and %d token calls were made, want none", s.Connection.Version, o.pleo.calls())
	}
	wantText(t, alice.follow(alice.callback(alice.start(link).Get("state"))), "Connected") // the link is still good
}

func TestReturnURLMustBeConfigured(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	id := o.connection("acme", credstore.OAuth)
	for _, other := range []string{
		returnURL + "&x=1", "https://books.example.com/done", returnURL + "/", "https://books.example.com.evil.example/done?from=pleo",
		strings.ToUpper(returnURL), "javascript:alert(1)",
	} {
		if _, _, err := o.links.Issue(t.Context(), id, credstore.LinkRequest{ReturnURL: other}); !errors.Is(err, ErrReturnURL) {
			t.Errorf("Open with return URL %q = %v, want ErrReturnURL", other, err)
		}
	}
	alice := o.browser()
	link := o.link(id)
	page := alice.follow(alice.callback(alice.start(link).Get("state")))
	wantText(t, page, `href="https://books.example.com/done?connection=acme&amp;from=pleo&amp;status=active"`)
	// What the configuration allows at the moment counts, not when the link was made.
	o.pages.views.returnURLs = nil
	if page := alice.send("GET", link, "").Body.String(); strings.Contains(page, "books.example.com") {
		t.Errorf("the page leads to where it no longer may:\n%s", page)
	}
}

// TestCallbackRedirectsToCleanURL: neither code nor state stays in the address bar.
func TestCallbackRedirectsToCleanURL(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", nil)
	link, alice := o.link(o.connection("acme", credstore.OAuth)), o.browser()
	state := alice.start(link).Get("state")
	for name, w := range map[string]interface{ Result() *http.Response }{
		"another browser": o.browser().callback(state),
		"the right one":   alice.callback(state),
		"nonsense":        alice.send("GET", "/oauth/callback?code=a&code=b", ""),
		"bad percents":    alice.send("GET", "/oauth/callback?code=%zz&state="+state, ""),
	} {
		res := w.Result()
		if to := res.Header.Get("Location"); res.StatusCode != http.StatusSeeOther || strings.Contains(to, "?") || strings.Contains(to, state) {
			t.Errorf("%s: %d to %q, want 303 to an address that says nothing", name, res.StatusCode, to)
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
				t.Errorf("%s: policy %q lacks %s", target, csp, part)
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
				t.Errorf("%s: the page loads or leads to %q", target, loaded[1])
			}
		}
		if strings.Contains(w.Body.String(), "<script") || strings.Contains(w.Body.String(), "style=") {
			t.Errorf("%s: the page has a script or a style of its own", target)
		}
	}
	// A form whose answer leads elsewhere needs leave for that; one with a key has none.
	if csp := alice.send("GET", key, "").Header().Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self';") {
		t.Errorf("the key's form may be sent elsewhere: %q", csp)
	}
}

// TestMissingScopesAreShown: it is used, and the customer can tell why something
// does not work.
func TestMissingScopesAreShown(t *testing.T) {
	o := newEnv(t, "https://connect.example.com", func(c *Config) { c.Scopes = []string{"users:read", "export-jobs:write"} })
	link, alice := o.link(o.connection("acme", credstore.OAuth)), o.browser()
	wantText(t, alice.follow(alice.callback(alice.start(link).Get("state"))), "Connected", "Some permissions are missing", "Export your expenses and report the results")
}
