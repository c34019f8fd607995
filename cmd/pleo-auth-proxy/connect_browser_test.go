//go:build browser

package main

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/browsertest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// Buttons of our pages and of the simulated Pleo.
const (
	ourButton   = "main form button"
	tryAgain    = ".actions form button"
	goBack      = "a.button"
	allowAtPleo = `button[value="allow"]`
	denyAtPleo  = `button[value="deny"]`
	pleoCompany = `select[name="sim_company"]`
)

// consentPage returns settings with a consent page in the simulated Pleo.
func consentPage() simulator.Settings {
	return simulator.Settings{
		Companies: []simulator.Company{{Name: "Acme ApS"}, {Name: "Beta ApS"}, {Name: "Gamma Retail Scandinavia Aktiebolag"}},
		OAuth:     simulator.OAuthSettings{Consent: "page"},
	}
}

// with returns w for a subtest.
func (w *connectEnv) with(t testing.TB) *connectEnv {
	inner := *w.env
	inner.t = t
	return &connectEnv{env: &inner, public: w.public}
}

// company returns the id of the company with the name.
func (w *connectEnv) company(name string) string {
	w.t.Helper()
	for _, c := range w.sim.Companies() {
		if c.Name == name {
			return c.ID
		}
	}
	w.t.Fatalf("there is no company %q", name)
	return ""
}

// approve clicks the button and approves access for the company in Pleo.
func (w *connectEnv) approve(tab *browsertest.Tab, button, company string) {
	w.t.Helper()
	tab.Follow(button)
	tab.Choose(pleoCompany, w.company(company))
	tab.Follow(allowAtPleo)
}

func wantStatus(t *testing.T, w *connectEnv, name, status string) {
	t.Helper()
	code, stdout, _ := w.run("", "--json", "connections", "show", name)
	if code != exitDone || !strings.Contains(stdout, `"status": "`+status+`"`) {
		t.Errorf("connection %s: %s, want status %s", name, stdout, status)
	}
}

func TestBrowserConsent(t *testing.T) {
	w := newConnectEnv(t, consentPage())
	w.add("acme", "oauth", "Acme Holding A/S (4711)")
	p := w.serve()
	browser := browsertest.Start(t)

	t.Run("approved", func(t *testing.T) {
		w, browser := w.with(t), browser.For(t)
		tab := browser.Tab()
		link := w.connectLink("acme", "--return-url", returnURL)
		tab.Open(link)
		tab.Inspect("consent")
		tab.WantText("Fjord Books", "Acme Holding A/S (4711)", "See the names and email addresses of people at your company")
		w.approve(tab, ourButton, "Acme ApS")
		tab.Inspect("connected")
		tab.WantText("Connected", "Acme ApS", "Acme Holding A/S (4711)")
		if got := tab.URL(); got != link {
			t.Errorf("the browser ends at %s, want a clean %s", got, link)
		}
		back, err := url.Parse(tab.Attribute(goBack, "href"))
		if err != nil || back.Host != "books.example.com" || back.Query().Get("connection") != "acme" || back.Query().Get("status") != "active" || back.Query().Get("from") != "pleo" {
			t.Errorf("return URL %s, %v", back, err)
		}
		tab.Reload()
		tab.WantText("Connected")
		for _, requested := range tab.Requested() {
			if !strings.HasPrefix(requested, w.public) && !strings.HasPrefix(requested, w.url) {
				t.Errorf("the pages load %s", requested)
			}
		}
		wantStatus(t, w, "acme", "active")
		if a := p.ask("acme"); a.status != 200 || !strings.Contains(a.body, "Acme ApS") {
			t.Errorf("a request with the new credential: %d %s", a.status, a.body)
		}

		later := browser.Tab() // another browser with the same link
		later.Open(link)
		later.Inspect("used")
		later.WantText("This link has already been used")
		if text := later.Text(); strings.Contains(text, "Acme ApS") {
			t.Errorf("a used link shows the company in Pleo:\n%s", text)
		}
	})
	t.Run("re-authorisation", func(t *testing.T) {
		w, browser := w.with(t), browser.For(t)
		w.revoke("acme", p)
		tab := browser.Tab()
		tab.Open(w.connectLink("acme", "--return-url", returnURL))
		tab.Inspect("reconnect")
		tab.WantText("Reconnect", "Acme ApS", "choose the same company")
		w.approve(tab, ourButton, "Beta ApS")
		tab.Inspect("other-company")
		tab.WantText("You chose a different company", "Acme ApS", "Beta ApS")
		wantStatus(t, w, "acme", "reauthorization_required")
		w.approve(tab, tryAgain, "Acme ApS")
		tab.WantText("Connected", "Acme ApS")
		wantStatus(t, w, "acme", "active")
	})
}

// revoke revokes the grants at Pleo and makes the proxy notice.
func (w *connectEnv) revoke(name string, p *process) {
	w.t.Helper()
	if n := w.sim.RevokeGrants(""); n == 0 {
		w.t.Fatal("there is no grant to revoke")
	}
	if a := p.ask(name); a.status != 401 {
		w.t.Fatalf("a request after the grant has ended: %d %s", a.status, a.body)
	}
}

func TestBrowserConsentFailures(t *testing.T) {
	w := newConnectEnv(t, consentPage())
	for _, name := range []string{"acme", "beta", "slow", "old", "off"} {
		w.add(name, "oauth", "Tenant of "+name)
	}
	w.serve()
	browser := browsertest.Start(t)
	for name, test := range map[string]func(t *testing.T, w *connectEnv, browser *browsertest.Browser, tab *browsertest.Tab){
		"denied": func(t *testing.T, w *connectEnv, browser *browsertest.Browser, tab *browsertest.Tab) {
			tab.Open(w.connectLink("acme", "--return-url", returnURL, "--fresh"))
			tab.Follow(ourButton)
			tab.Follow(denyAtPleo)
			tab.Inspect("denied")
			tab.WantText("Pleo is not connected")
			if back := tab.Attribute(goBack, "href"); !strings.Contains(back, "error=consent_denied") || !strings.Contains(back, "status=pending") {
				t.Errorf("return URL %q, want the error", back)
			}
			w.approve(tab, tryAgain, "Acme ApS")
			tab.WantText("Connected")
		},
		"company connected elsewhere": func(t *testing.T, w *connectEnv, browser *browsertest.Browser, tab *browsertest.Tab) {
			tab.Open(w.connectLink("slow"))
			w.approve(tab, ourButton, "Gamma Retail Scandinavia Aktiebolag")
			tab.Open(w.connectLink("beta"))
			w.approve(tab, ourButton, "Gamma Retail Scandinavia Aktiebolag")
			tab.Inspect("company-taken")
			tab.WantText("This company is already connected", "Gamma Retail", "Tenant of beta")
			if text := tab.Text(); strings.Contains(text, "slow") {
				t.Errorf("the page names another customer:\n%s", text)
			}
		},
		"Pleo is unreachable": func(t *testing.T, w *connectEnv, browser *browsertest.Browser, tab *browsertest.Tab) {
			tab.Open(w.connectLink("old"))
			tab.Follow(ourButton)
			fault, err := w.sim.SetFault(simulator.Fault{Kind: simulator.FaultStatus, Status: 503})
			if err != nil {
				t.Fatal(err)
			}
			tab.Follow(allowAtPleo)
			tab.Inspect("pleo-unavailable")
			tab.WantText("Pleo is not responding")
			if err := w.sim.ClearFault(fault.ID); err != nil {
				t.Fatal(err)
			}
			w.approve(tab, tryAgain, "Beta ApS")
			tab.WantText("Connected", "Beta ApS")
		},
		"another browser with the right state": func(t *testing.T, w *connectEnv, browser *browsertest.Browser, tab *browsertest.Tab) {
			w.add("two", "oauth", "Tenant of two")
			link := w.connectLink("two")
			tab.Open(link)
			tab.Follow(ourButton)
			consent := tab.URL() // Pleo's page, with the state
			other := browser.Tab()
			other.Open(link) // sets another cookie
			other.Open(consent)
			exchanges := w.sim.Counters().Exchanges
			other.Follow(allowAtPleo)
			other.Inspect("other-browser")
			other.WantText("Please continue in the same browser")
			if n := w.sim.Counters().Exchanges; n != exchanges {
				t.Errorf("%d codes were exchanged for another browser, want none", n-exchanges)
			}
		},
		"two flows, crossed": func(t *testing.T, w *connectEnv, browser *browsertest.Browser, tab *browsertest.Tab) {
			w.add("left", "oauth", "Tenant of left")
			w.add("right", "oauth", "Tenant of right")
			left, right := browser.Tab(), browser.Tab()
			left.Open(w.connectLink("left"))
			right.Open(w.connectLink("right"))
			left.Follow(ourButton)
			right.Follow(ourButton)
			ofLeft, ofRight := left.URL(), right.URL()
			exchanges := w.sim.Counters().Exchanges
			left.Open(ofRight)
			right.Open(ofLeft)
			for _, crossed := range []*browsertest.Tab{left, right} {
				crossed.Follow(allowAtPleo)
				crossed.WantText("Please continue in the same browser")
			}
			if n := w.sim.Counters().Exchanges; n != exchanges {
				t.Errorf("%d codes were exchanged in swapped flows, want none", n-exchanges)
			}
		},
		"expired, unknown and no link": func(t *testing.T, w *connectEnv, browser *browsertest.Browser, tab *browsertest.Tab) {
			link := w.connectLink("off")
			w.connectLink("off", "--fresh") // replaces the previous one
			tab.Open(link)
			tab.Inspect("expired")
			tab.WantText("This link has expired")
			tab.Open(link[:len(link)-1])
			tab.Inspect("link-invalid")
			tab.WantText("This link is not valid")
			tab.Open(w.public)
			tab.Inspect("not-found")
			tab.Open(w.public + "/stopped/attempt_expired")
			tab.Inspect("attempt-expired")
		},
		"switched off": func(t *testing.T, w *connectEnv, browser *browsertest.Browser, tab *browsertest.Tab) {
			w.add("ended", "oauth", "Tenant of ended")
			link := w.connectLink("ended")
			w.inStore(func(ctx context.Context, store credstore.Store) error {
				c, err := store.Connections.Find(ctx, "ended")
				return errors.Join(err, store.Connections.Disable(ctx, c.ID, credstore.ReasonOperator))
			})
			tab.Open(link)
			tab.Inspect("disabled")
			tab.WantText("This connection is turned off")
		},
	} {
		t.Run(name, func(t *testing.T) {
			browser := browser.For(t)
			test(t, w.with(t), browser, browser.Tab())
		})
	}
}

func TestBrowserScopeReduced(t *testing.T) {
	settings := consentPage()
	settings.OAuth.GrantScopes = []string{"users:read", "companies:read"}
	w := newConnectEnv(t, settings)
	w.add("acme", "oauth", "Acme Holding A/S (4711)")
	w.serve()
	tab := browsertest.Start(t).Tab()
	tab.Open(w.connectLink("acme"))
	w.approve(tab, ourButton, "Acme ApS")
	tab.Inspect("missing-permissions")
	tab.WantText("Connected", "Some permissions are missing", "Export your expenses")
}

func TestBrowserKey(t *testing.T) {
	w := newConnectEnv(t, consentPage())
	good := w.key(simulator.Key{Company: "Acme ApS"})
	narrow := w.key(simulator.Key{Company: "Acme ApS", Scopes: []string{"users:read", "companies:read"}})
	gone := w.key(simulator.Key{Company: "Acme ApS", Revoked: true})
	other := w.key(simulator.Key{Company: "Beta ApS"})
	w.add("acme", "standalone_key", "Acme Holding A/S (4711)")
	w.add("beta", "integrated_key", "Tenant of beta")
	p := w.serve()
	browser := browsertest.Start(t)
	tab := browser.Tab()
	link := w.connectLink("acme", "--return-url", returnURL)
	tab.Open(link)
	tab.Inspect("key")
	tab.WantText("API Keys", "Choose these permissions", "export-jobs:write")
	try := func(key, name string, texts ...string) {
		t.Helper()
		tab.Fill("#key", key)
		tab.Follow(ourButton)
		if name != "" {
			tab.Inspect(name)
		}
		tab.WantText(texts...)
		if page := tab.HTML(); strings.Contains(page, strings.TrimSpace(key)) {
			t.Errorf("the page contains the key %q:\n%s", key, page)
		}
	}
	try(gone, "key-rejected", "Pleo does not recognise this key")
	try("my key is 123", "key-malformed", "This is not an API key")
	try(narrow, "key-missing-permissions", "This key does not have enough permissions", "Export your expenses")
	tab.Choose("#expires_on", "2001-01-31")
	try(good, "key-expired", "This date is in the past")
	if !tab.Has("#expires_on:focus") {
		t.Error("the focus is not on the date in the past")
	}
	tab.Choose("#expires_on", "2099-01-31")
	try("  "+good+" ", "key-connected", "Connected", "Acme ApS")
	if ends := p.connection("acme").ExpiresAt; ends == nil || !ends.Equal(time.Date(2099, 2, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("the key expires at %v, want the end of the date that was entered", ends)
	}
	if a := p.ask("acme"); a.status != 200 || !strings.Contains(a.body, "Acme ApS") {
		t.Errorf("a request with the new key: %d %s", a.status, a.body)
	}
	tab.Open(w.connectLink("acme"))
	tab.Inspect("key-renewal")
	try(other, "key-other-company", "This key is for a different company", "Acme ApS", "Beta ApS")
	tab.Open(w.connectLink("beta"))
	tab.Inspect("key-integrated")
	tab.WantText("Accounting")
	try(w.key(simulator.Key{Kind: simulator.IntegratedKey, Company: "Beta ApS"}), "", "Connected", "Beta ApS")
}

func (w *connectEnv) key(k simulator.Key) string {
	w.t.Helper()
	made, err := w.sim.IssueKey(k)
	if err != nil {
		w.t.Fatal(err)
	}
	return made.Value
}

// TestBrowserKeyboardOnly connects with the keyboard only, on a phone.
func TestBrowserKeyboardOnly(t *testing.T) {
	w := newConnectEnv(t, consentPage())
	w.add("acme", "oauth", "Acme Holding A/S (4711)")
	w.add("keyed", "standalone_key", "Acme Holding A/S (4711)")
	w.serve()
	tab := browsertest.Start(t).Tab()
	tab.Phone()
	tab.Open(w.connectLink("acme", "--return-url", returnURL))
	tab.TabTo(ourButton)
	tab.FollowByKeyboard()
	tab.TabTo(allowAtPleo)
	tab.FollowByKeyboard()
	tab.WantText("Connected")
	tab.TabTo(goBack)

	tab.Open(w.connectLink("keyed"))
	tab.TabTo("#key")
	tab.Type("nonsense")
	tab.FollowByKeyboard()
	tab.WantText("Pleo does not recognise this key")
	if !tab.Has("#key:focus") {
		t.Error("the focus is not on the key after one was rejected")
	}
	tab.Type(w.key(simulator.Key{Company: "Acme ApS"}))
	tab.FollowByKeyboard()
	tab.WantText("Connected")
}
