package connect

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

const publicURL = "https://connect.example.com"

// TestConsentErrorPages checks the page and the history for each way in which a
// consent can fail.
func TestConsentErrorPages(t *testing.T) {
	for _, test := range []struct {
		name  string
		err   error
		texts []string
		code  reason
	}{
		{
			"other company", &credstore.OtherCompanyError{Have: credstore.Company{Name: "Acme ApS"}, Got: credstore.Company{Name: "Beta <ApS>"}},
			[]string{"You chose a different company", "Beta &lt;ApS&gt;"}, otherCompany,
		},
		{
			"other company with the same name",
			&credstore.OtherCompanyError{Have: credstore.Company{ID: "c-1", Name: "Upper"}, Got: credstore.Company{ID: "c-2", Name: "Upper"}},
			[]string{"is for Upper (c-1) in Pleo, but you chose Upper (c-2)", "Try again and choose Upper (c-1)"}, otherCompany,
		},
		{
			"company without a printable name", &credstore.OtherCompanyError{Have: credstore.Company{ID: "c-1", Name: " "}, Got: credstore.Company{Name: "\u202EBeta"}},
			[]string{"is for c-1 in Pleo, but you chose Beta."}, otherCompany,
		},
		{
			"organisation", &credstore.OtherCompanyError{Have: credstore.Company{ID: "c-1"}, Got: credstore.Company{Subject: "urn:pleo:organisation:o-7"}},
			[]string{"you chose the organisation o-7."}, otherCompany,
		},
		{"company unknown", refresh.ErrCompanyUnknown, []string{"We could not tell which company this is"}, companyUnknown},
		{"incomplete response", &pleo.UnknownOutcomeError{Err: refresh.ErrTokensMissing}, []string{"Pleo did not grant access"}, consentFailed},
		{
			"company of another connection", &refresh.CompanyTakenError{Company: credstore.Company{ID: "c-9"}, Err: &credstore.ConflictError{Err: credstore.ErrCompanyBound, With: "secret-customer"}},
			[]string{"This company is already connected", "c-9"}, companyTaken,
		},
		{"code rejected", &pleo.ResponseError{Class: pleo.TokenRejected, Status: 400, Code: "invalid_grant"}, []string{"We could not complete your approval", "invalid_grant"}, codeRejected},
		{"client rejected", &pleo.ResponseError{Class: pleo.ClientRejected, Status: 401, Code: "invalid_client"}, []string{"Pleo does not accept Fjord Books"}, clientRejected},
		{"rate limited", &pleo.ResponseError{Class: pleo.RateLimited, Status: 429}, []string{"Pleo is not responding"}, pleoUnavailable},
		{"unexpected response", &pleo.ResponseError{Class: pleo.Unexpected, Status: 418}, []string{"Pleo did not grant access"}, consentFailed},
		{"Pleo unreachable", &pleo.NotSentError{Err: errors.New("connection refused")}, []string{"Pleo is not responding"}, pleoUnavailable},
		{"store unavailable", &refresh.Error{Code: refresh.StoreUnavailable}, []string{"We could not save the connection"}, notSaved},
		{"shutting down", &refresh.Error{Code: refresh.ShuttingDown}, []string{"We could not save the connection"}, notSaved},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newEnv(t, publicURL, nil)
			id := o.connection("acme", credstore.OAuth)
			link, alice := o.link(id), o.browser()
			o.pleo.err = test.err
			page := alice.follow(alice.callback(alice.start(link).Get("state")))
			wantText(t, page, append(test.texts, "Try again", "Tenant of acme", "error="+string(test.code))...)
			if strings.Contains(page, "secret-customer") {
				t.Errorf("the page names another customer:\n%s", page)
			}
			wantText(t, o.browser().send("GET", link, "").Body.String(), "Continue to Pleo") // not shown in other browsers
			history, err := o.store.History.Events(t.Context(), id, "", 1)
			if err != nil || history.Events[0].Type != credstore.EventConsentFailed || history.Events[0].Code != string(test.code) || history.Events[0].Actor != credstore.ActorCustomer {
				t.Errorf("history %+v, %v, want a failed consent with code %s", history.Events, err, test.code)
			}
			o.pleo.err = nil
			wantText(t, alice.follow(alice.callback(alice.start(link).Get("state"))), "Connected")
		})
	}
}

func TestKeyErrorPages(t *testing.T) {
	for _, test := range []struct {
		name  string
		err   error
		texts []string
	}{
		{"rejected", fmt.Errorf("introspecting: %w", pleo.ErrUnauthorized), []string{"Pleo does not recognise this key"}},
		{"other environment", apikey.ErrWrongEnvironment, []string{"This key is for a different Pleo environment", "Pleo’s test environment"}},
		{"missing permissions", &apikey.MissingScopesError{Missing: []string{"users:read"}}, []string{"This key does not have enough permissions", "users:read"}},
		{"other company", &credstore.OtherCompanyError{Got: credstore.Company{Name: "Beta ApS"}}, []string{"This key is for a different company", "Beta ApS"}},
		{"company of another connection", &refresh.CompanyTakenError{Company: credstore.Company{Name: "Beta ApS"}, Err: credstore.ErrCompanyBound}, []string{"This company is already connected"}},
		{"API unavailable", &pleo.StatusError{Status: 503}, []string{"Pleo is not responding", "was not saved"}},
		{"company unknown", refresh.ErrCompanyUnknown, []string{"We could not tell which company this key is for"}},
		{"store unavailable", &refresh.Error{Code: refresh.StoreUnavailable}, []string{"We could not save the key"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newEnv(t, publicURL, nil)
			link, alice := o.link(o.connection("acme", credstore.StandaloneKey)), o.browser()
			o.pleo.err = test.err
			w := alice.send("POST", link, "key="+keyCanary)
			wantText(t, w.Body.String(), append(test.texts, `aria-invalid="true"`, `role="alert"`)...)
			if w.Code != http.StatusUnprocessableEntity || strings.Contains(w.Body.String(), keyCanary) {
				t.Errorf("status %d, want 422 and a page without the key:\n%s", w.Code, w.Body)
			}
			o.pleo.err = nil
			wantText(t, alice.follow(alice.send("POST", link, "key="+keyCanary)), "Connected")
			if got := o.pleo.keys[1]; got.Key.Reveal() != keyCanary || strings.Join(got.Scopes, " ") != "users:read" {
				t.Errorf("SetKey was called with %+v", got)
			}
		})
	}
}

// TestKeyExpiryDate checks that the expiry date is stored with the key. A date that is
// not valid may be the key in the wrong field, so the page does not show it.
func TestKeyExpiryDate(t *testing.T) {
	ends := func(year int, month time.Month, day int) time.Time {
		return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	}
	for _, test := range []struct {
		kind credstore.Kind
		date string
		want time.Time // zero: none
		text string    // of the page; empty: the key is stored
	}{
		{credstore.StandaloneKey, " 2099-12-31", ends(2100, time.January, 1), ""},
		{credstore.StandaloneKey, "", time.Time{}, ""},
		{credstore.StandaloneKey, "31.12.2099", time.Time{}, "This date is not valid"},
		{credstore.StandaloneKey, keyCanary, time.Time{}, "This date is not valid"},
		{credstore.StandaloneKey, "2001-01-01", time.Time{}, "This date is in the past"},
		{credstore.IntegratedKey, "2099-12-31", time.Time{}, ""}, // the form has no field for it
	} {
		o := newEnv(t, publicURL, nil)
		link, alice := o.link(o.connection("acme", test.kind)), o.browser()
		asked := strings.Contains(alice.send("GET", link, "").Body.String(), "expires_on")
		if asked != (test.kind == credstore.StandaloneKey) {
			t.Errorf("%s: the form has a field for the expiry date: %v", test.kind, asked)
		}
		w := alice.send("POST", link, url.Values{"key": {keyCanary}, "expires_on": {test.date}}.Encode())
		if test.text != "" {
			wantText(t, w.Body.String(), test.text, `aria-invalid="true"`)
		}
		if strings.Contains(w.Body.String(), keyCanary) || len(o.pleo.keys) > 0 && test.text != "" {
			t.Errorf("%q: SetKey was called %d times, and the page is:\n%s", test.date, len(o.pleo.keys), w.Body)
		}
		if test.text == "" && (len(o.pleo.keys) != 1 || !o.pleo.keys[0].ExpiresAt.Equal(test.want)) {
			t.Errorf("%q: SetKey was called with %+v, want the expiry %v", test.date, o.pleo.keys, test.want)
		}
	}
}

// TestKeyExpiryDateStaysInForm checks the form after a key that was rejected.
func TestKeyExpiryDateStaysInForm(t *testing.T) {
	o := newEnv(t, publicURL, nil)
	o.pleo.err = pleo.ErrUnauthorized
	form := url.Values{"key": {keyCanary}, "expires_on": {"2099-12-31"}}.Encode()
	w := o.browser().send("POST", o.link(o.connection("acme", credstore.StandaloneKey)), form)
	wantText(t, w.Body.String(), "Pleo does not recognise this key", `value="2099-12-31"`)
	// The key is in the field of the date.
	form = url.Values{"key": {""}, "expires_on": {keyCanary}}.Encode()
	w = o.browser().send("POST", o.link(o.connection("beta", credstore.StandaloneKey)), form)
	if wantText(t, w.Body.String(), "This is not an API key"); strings.Contains(w.Body.String(), keyCanary) {
		t.Errorf("the page contains the key:\n%s", w.Body)
	}
}

func TestPastedKeyIsTrimmed(t *testing.T) {
	o := newEnv(t, publicURL, nil)
	id := o.connection("acme", credstore.IntegratedKey)
	for _, test := range []struct {
		pasted   string
		accepted bool
	}{
		{" \t" + keyCanary + "\r\n", true},
		{`"` + keyCanary + `"`, true},
		{"", false},
		{"two words", false},
		{"user:password", false},
		{"schlüssel", false},
		{strings.Repeat("k", 1025), false},
	} {
		o.pleo.err = pleo.ErrUnauthorized
		asked := len(o.pleo.keys)
		w := o.browser().send("POST", o.link(id), url.Values{"key": {test.pasted}}.Encode())
		if accepted := len(o.pleo.keys) > asked; accepted != test.accepted || w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%q: SetKey called %v with status %d, want %v", test.pasted, accepted, w.Code, test.accepted)
		}
	}
	for _, g := range o.pleo.keys {
		if g.Key.Reveal() != keyCanary {
			t.Errorf("SetKey was called with %q", g.Key.Reveal())
		}
	}
}

func TestAllowedHosts(t *testing.T) {
	o := newEnv(t, publicURL, nil)
	link := o.link(o.connection("acme", credstore.OAuth))
	for host, want := range map[string]int{
		"connect.example.com": 200, "CONNECT.example.com:443": 200, "connect.example.com.": 200,
		"localhost:8486": 200, "127.0.0.1:8486": 200, "[::1]:8486": 200,
		"evil.example.com": 421, "connect.example.com.evil.example": 421, "10.0.0.1": 421, "": 421, "connect.example.com@evil.example": 421,
	} {
		p := o.browser()
		p.host = host
		if w := p.send("GET", link, ""); w.Code != want {
			t.Errorf("Host %q: %d, want %d", host, w.Code, want)
		}
	}
}

func TestMethodsAndBodySize(t *testing.T) {
	o := newEnv(t, publicURL, nil)
	link := o.link(o.connection("acme", credstore.StandaloneKey))
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS"} {
		if w := o.browser().send(method, link, ""); w.Code/100 != 4 {
			t.Errorf("%s = %d, want status 4xx", method, w.Code)
		}
	}
	if w := o.browser().send("POST", link, "key="+strings.Repeat("k", 9<<10)); w.Code != http.StatusBadRequest || len(o.pleo.keys) > 0 {
		t.Errorf("a form of 9 KB = %d, want 400", w.Code)
	}
}

func TestAttemptsAreLimited(t *testing.T) {
	o := newEnv(t, publicURL, nil)
	link, other := o.link(o.connection("acme", credstore.StandaloneKey)), o.link(o.connection("other", credstore.StandaloneKey))
	o.pleo.err = pleo.ErrUnauthorized
	for range maxAttempts {
		o.browser().send("POST", link, "key=k")
	}
	if w := o.browser().send("POST", link, "key=k"); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || len(o.pleo.keys) != maxAttempts {
		t.Errorf("attempt %d = %d after %d calls of SetKey, want 429", maxAttempts+1, w.Code, len(o.pleo.keys))
	}
	if w := o.browser().send("POST", other, "key=k"); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("the first attempt with another link = %d, want 422", w.Code)
	}
}

func TestAttemptLimiterResets(t *testing.T) {
	now := time.Now()
	p := newAttemptLimiter(func() time.Time { return now })
	token := credstore.NewSecret("t")
	for range maxAttempts + 1 {
		p.allow(token)
	}
	now = now.Add(attemptWindow)
	if !p.allow(token) {
		t.Error("a link cannot be used again after a minute")
	}
}

// TestPublicURLWithPath checks pages that share a host.
func TestPublicURLWithPath(t *testing.T) {
	o := newEnv(t, "https://example.com/pleo/connect", nil)
	link, alice := o.link(o.connection("acme", credstore.OAuth)), o.browser()
	if !strings.HasPrefix(link, "/pleo/connect/connect/") {
		t.Errorf("the link is %s", link)
	}
	asked := alice.start(link)
	if got := asked.Get("redirect_uri"); got != "https://example.com/pleo/connect/oauth/callback" {
		t.Errorf("redirect URI %q", got)
	}
	page := alice.follow(alice.callback(asked.Get("state")))
	wantText(t, page, "Connected")
	style := regexp.MustCompile(`href="(/pleo/connect/assets/[^"]+)"`).FindStringSubmatch(page)
	if style == nil || alice.send("GET", style[1], "").Code != http.StatusOK {
		t.Errorf("the style of the page cannot be loaded:\n%s", page)
	}
}

func TestPagesWithoutOAuth(t *testing.T) {
	o := newEnv(t, publicURL, func(c *Config) { c.Server = nil })
	link := o.link(o.connection("acme", credstore.OAuth))
	for _, method := range []string{"GET", "POST"} {
		if w := o.browser().send(method, link, ""); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s = %d, want 503", method, w.Code)
		}
	}
	wantText(t, o.browser().send("GET", o.link(o.connection("keyed", credstore.StandaloneKey)), "").Body.String(), "API key from Pleo")
}

func TestLogo(t *testing.T) {
	png := []byte("\x89PNG\r\n\x1a\n....")
	o := newEnv(t, publicURL, func(c *Config) { c.Branding.Logo = png })
	page := o.browser().send("GET", o.link(o.connection("acme", credstore.OAuth)), "").Body.String()
	logo := regexp.MustCompile(`<img src="([^"]+)" alt=""`).FindStringSubmatch(page)
	if logo == nil {
		t.Fatalf("the page has no logo:\n%s", page)
	}
	if w := o.browser().send("GET", logo[1], ""); w.Header().Get("Content-Type") != "image/png" || w.Body.String() != string(png) {
		t.Errorf("the logo is %q, %s", w.Body, w.Header().Get("Content-Type"))
	}
	if err := CheckLogo([]byte(`<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>`)); err != nil {
		t.Errorf("an SVG: %v", err)
	}
	if err := CheckLogo([]byte("<html><script>")); err == nil {
		t.Error("CheckLogo accepts a page")
	}
}

// reasons returns all reasons.
func reasons() []reason {
	return []reason{
		consentDenied,
		otherCompany,
		companyTaken,
		pleoUnavailable,
		codeRejected,
		clientRejected,
		wrongIssuer,
		consentFailed,
		notSaved,
		companyUnknown,
		keyMalformed,
		keyRejected,
		keyOfOtherEnvironment,
		keyMissingPermissions,
		keyExpired,
		invalidDate,
		linkUsed,
		linkExpired,
		linkInvalid,
		otherBrowser,
		attemptExpired,
		connectionDisabled,
		oauthNotConfigured,
		storeUnavailable,
		tooManyAttempts,
		serverBusy,
		badRequest,
		crossSiteRequest,
		hostNotAllowed,
		notFound,
	}
}

// TestMessagesAreComplete checks that each message has a heading, an explanation and a
// next step, and that all placeholders are known.
func TestMessagesAreComplete(t *testing.T) {
	all, err := readTexts()
	if err != nil {
		t.Fatal(err)
	}
	check := func(why reason, m message) {
		for _, text := range []string{m.Heading, m.Explanation, m.NextStep} {
			if shown := (names{brand: "the integration"}).expand(text); text == "" || strings.ContainsAny(shown, "{}\n") || strings.HasPrefix(shown, "the") {
				t.Errorf("%s: %q expands to %q", why, text, shown)
			}
		}
	}
	for why, m := range all.Messages {
		check(why, m)
		if m.Key != nil {
			check(why, *m.Key)
		}
		if http.StatusText(m.Status) == "" {
			t.Errorf("%s has the status %d", why, m.Status)
		}
	}
	for _, why := range reasons() {
		if _, ok := all.Messages[why]; !ok {
			t.Errorf("%s has no message", why)
		}
	}
	if got, want := len(all.Messages), len(reasons()); got != want {
		t.Errorf("%d messages for %d reasons", got, want)
	}
}

func TestDescribeScope(t *testing.T) {
	texts, err := readTexts()
	if err != nil {
		t.Fatal(err)
	}
	for scope, want := range map[string]string{
		"users:read":        "See the names and email addresses of people at your company",
		"card-orders:read":  "See card orders",
		"card-orders:write": "Add and change card orders",
		"everything":        "Use the permission everything",
	} {
		if got := texts.describeScope(scope); got != want {
			t.Errorf("inWords(%q) = %q, want %q", scope, got, want)
		}
	}
}

// countingStore counts the calls of OpenLink.
type countingStore struct {
	mu    sync.Mutex // guards what follows
	asked int
	last  credstore.LinkRequest
}

func (s *countingStore) OpenLink(_ context.Context, _ string, r credstore.LinkRequest) (credstore.Secret, credstore.Link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	s.last = r
	time.Sleep(time.Second)
	return credstore.NewSecret(fmt.Sprint("token-", s.asked)), credstore.Link{}, nil
}

// TestConcurrentRequestsShareLink checks that many requests cause few writes.
func TestConcurrentRequestsShareLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &countingStore{}
		l := NewLinkIssuer(LinkIssuerConfig{Store: store, PublicURL: &url.URL{Scheme: "https", Host: "connect.example.com"}})
		var running sync.WaitGroup
		for range 100 {
			running.Go(func() {
				if link, err := l.Link(t.Context(), "acme", 3); err != nil || link != "https://connect.example.com/connect/token-1" {
					t.Errorf("Link = %q, %v", link, err)
				}
			})
		}
		running.Wait()
		if link, _ := l.Link(t.Context(), "acme", 4); store.asked != 2 || !strings.HasSuffix(link, "token-2") {
			t.Errorf("after a change of the credential: %q after %d calls of OpenLink", link, store.asked)
		}
		time.Sleep(linkCacheRetention)
		if _, err := l.Link(t.Context(), "acme", 4); err != nil || store.asked != 3 {
			t.Errorf("%d calls of OpenLink, want another one after %v", store.asked, linkCacheRetention)
		}
		if _, err := NewLinkIssuer(LinkIssuerConfig{Store: store}).Link(t.Context(), "acme", 1); !errors.Is(err, ErrNoPublicURL) {
			t.Errorf("Link without a public URL = %v", err)
		}
	})
}

// TestIssuedLinkLifetime checks the lifetimes that the store is asked for. Links for
// error responses are not renewed before they expire.
func TestIssuedLinkLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &countingStore{}
		l := NewLinkIssuer(LinkIssuerConfig{Store: store, PublicURL: &url.URL{Scheme: "https", Host: "connect.example.com"}, TTL: 8 * time.Hour})
		for _, c := range []struct {
			name        string
			ttl         time.Duration
			want, least time.Duration
		}{{"default", 0, 8 * time.Hour, 4 * time.Hour}, {"one hour", time.Hour, time.Hour, 30 * time.Minute}} {
			if _, _, err := l.Issue(t.Context(), "acme", credstore.LinkRequest{TTL: c.ttl}); err != nil {
				t.Fatal(err)
			}
			if store.last.TTL != c.want || store.last.MinRemaining != c.least {
				t.Errorf("%s: requested a lifetime of %v, at least %v; want %v and %v", c.name, store.last.TTL, store.last.MinRemaining, c.want, c.least)
			}
		}
		if _, err := l.Link(t.Context(), "acme", 1); err != nil || store.last.TTL != 8*time.Hour || store.last.MinRemaining != 0 {
			t.Errorf("Link requested %+v, %v", store.last, err)
		}
	})
}

// TestCallbackErrorPages checks the pages for the error codes of RFC 6749 section
// 4.1.2.1.
func TestCallbackErrorPages(t *testing.T) {
	for code, text := range map[string]string{
		"access_denied": "Pleo is not connected", "temporarily_unavailable": "Pleo is not responding", "server_error": "Pleo is not responding",
		"invalid_scope": "Pleo does not accept Fjord Books", "unauthorized_client": "Pleo does not accept Fjord Books", "odd": "Pleo did not grant access",
	} {
		o := newEnv(t, publicURL, nil)
		alice := o.browser()
		state := alice.start(o.link(o.connection("acme", credstore.OAuth))).Get("state")
		w := alice.send("GET", "/oauth/callback?"+url.Values{"error": {code}, "state": {state}}.Encode(), "")
		if page := alice.follow(w); !strings.Contains(page, text) {
			t.Errorf("%s shows the page:\n%s", code, page)
		}
	}
}

// TestLinkWithExtraQuery checks links to which mail programs or trackers have added.
func TestLinkWithExtraQuery(t *testing.T) {
	for _, added := range []string{"?utm_source=mail", "?utm=100%", "?a;b"} {
		o := newEnv(t, publicURL, nil)
		link, alice := o.link(o.connection("acme", credstore.OAuth)), o.browser()
		wantText(t, alice.send("GET", link+added, "").Body.String(), "Continue to Pleo")
		if w := alice.send("POST", link+added, ""); w.Code != http.StatusSeeOther {
			t.Errorf("POST to a link with %s = %d: %s", added, w.Code, w.Body)
		}
	}
}

// TestPlainHTTPOriginIsRejected checks a form on a page that an attacker on the network
// served without TLS under our name.
func TestPlainHTTPOriginIsRejected(t *testing.T) {
	o := newEnv(t, publicURL, nil)
	link := o.link(o.connection("acme", credstore.OAuth))
	for origin, want := range map[string]int{"http://connect.example.com": http.StatusForbidden, publicURL: http.StatusSeeOther} {
		r := httptest.NewRequest("POST", publicURL+link, nil)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", origin)
		w := httptest.NewRecorder()
		o.pages.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("POST with Origin %s = %d, want %d", origin, w.Code, want)
		}
	}
}

// TestWithoutBrandName checks the default brand, and the page of a link for a connection
// that is active.
func TestWithoutBrandName(t *testing.T) {
	o := newEnv(t, publicURL, func(c *Config) { c.Branding.Name = "" })
	id := o.connection("acme", credstore.OAuth)
	alice := o.browser()
	page := alice.send("GET", o.link(id), "").Body.String()
	if wantText(t, page, "Account in the integration", "The integration would like"); strings.Contains(page, "in The") {
		t.Errorf("a capital letter within a sentence:\n%s", page)
	}
	alice.follow(alice.callback(alice.start(o.link(id)).Get("state")))
	wantText(t, alice.send("GET", o.link(id), "").Body.String(), "You are already connected")
}
