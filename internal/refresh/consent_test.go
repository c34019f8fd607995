package refresh

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// owners is an API that knows the companies of tokens and keys.
func owners(companies map[string]string) *keyAPI {
	a := newKeyAPI()
	for authorization, company := range companies {
		a.companies[authorization] = company
	}
	return a
}

// consented is a grant of the server for the company, as a customer's consent gives
// it. exchanging, if not nil, is called when the code has been exchanged.
func (w *env) consented(api *keyAPI, id, company string, exchanging func()) (ConsentGrant, pleo.Tokens) {
	tokens := w.server.grant()
	api.mu.Lock()
	api.companies["Bearer "+tokens.AccessToken.Reveal()] = company
	api.mu.Unlock()
	return ConsentGrant{
		ConnectionID: id,
		Exchange: func(context.Context) (pleo.Tokens, error) {
			if exchanging != nil {
				exchanging()
			}
			t := tokens
			t.SentAt = time.Now()
			return t, nil
		},
	}, tokens
}

// pending adds a connection without a credential.
func (w *env) pending(name string) credstore.Connection {
	w.t.Helper()
	conn, err := w.command().Create(w.t.Context(), credstore.NewConnection{Name: name, Kind: credstore.OAuth})
	if err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// bound adds a connection of kind oauth that belongs to the company.
func (w *env) bound(name, company string) credstore.Connection {
	w.t.Helper()
	conn := w.connect(name)
	if err := w.command().SetCompany(w.t.Context(), conn.ID, credstore.Company{ID: company}); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// withConsents runs f on a process whose API knows the companies of tokens.
func withConsents(t *testing.T, f func(t *testing.T, w *env, api *keyAPI, p *process)) {
	t.Helper()
	bubble(t, func(t *testing.T, w *env) {
		api := owners(nil)
		w.api, w.polling = api, true
		p := w.start("")
		defer p.stop()
		f(t, w, api, p)
	})
}

func TestConsentActivatesConnection(t *testing.T) {
	withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
		conn := w.pending("acme")
		_, err := p.Authorize(t.Context(), "acme")
		if e := wantCode(t, err, ConnectionPending); e.ConnectionID != conn.ID {
			t.Errorf("the error is about %q, want %q", e.ConnectionID, conn.ID)
		}
		token, _, err := w.command().OpenLink(t.Context(), conn.ID, credstore.LinkRequest{TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		api.scope = "users:read" // fewer than requested
		grant, tokens := w.consented(api, conn.ID, "c1", nil)
		grant.LinkToken = token
		got, err := p.Consent(credstore.WithActor(t.Context(), credstore.ActorCustomer), grant)
		if err != nil || got.CompanyID != "c1" || got.Status != credstore.Active || got.Version != 1 || got.Scope != "users:read" {
			t.Fatalf("Consent = %+v, %v, want version 1 of company c1, active, with the scope that was given", got, err)
		}
		if a := p.mustAuthorize("acme"); a.Value.Reveal() != "Bearer "+tokens.AccessToken.Reveal() || w.server.count() != 0 {
			t.Errorf("a request is sent with %q after %d refreshes, want the new token at once", a.Value.Reveal(), w.server.count())
		}
		if _, err := w.command().FindLink(t.Context(), token); !errors.Is(err, credstore.ErrLinkUsed) {
			t.Errorf("FindLink = %v, want ErrLinkUsed", err)
		}
		page, err := w.command().Events(t.Context(), conn.ID, "", 0)
		if err != nil || !slices.ContainsFunc(page.Events, func(e credstore.Event) bool {
			return e.Type == credstore.EventConnected && e.Actor == credstore.ActorCustomer
		}) {
			t.Errorf("History = %+v, %v, want the customer as the actor", page.Events, err)
		}
		wantEmpty(t, p.dir)
	})
}

// The newer grant wins, no matter which begins first.
func TestF22ConsentDuringRefresh(t *testing.T) {
	for _, begins := range []time.Duration{0, time.Second, 4 * time.Second, 6 * time.Second} {
		withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
			conn := w.bound("acme", "c1")
			p.mustAuthorize("acme")
			expire()
			w.server.slow(5 * time.Second)
			refreshed := make(chan error, 1)
			go func() { _, err := p.Authorize(t.Context(), "acme"); refreshed <- err }()
			time.Sleep(begins)
			grant, tokens := w.consented(api, conn.ID, "c1", func() {
				if w.server.mostConcurrent() > 0 && begins > 0 && begins < 5*time.Second && w.state(conn.ID).Credential.Version != 2 {
					t.Error("the code was exchanged while a refresh was in flight")
				}
			})
			if _, err := p.Consent(t.Context(), grant); err != nil {
				t.Fatal(err)
			}
			if err := <-refreshed; err != nil {
				t.Errorf("Authorize during the consent = %v", err)
			}
			time.Sleep(time.Minute)
			if got := w.state(conn.ID).Credential.RefreshToken; !got.Equal(tokens.RefreshToken) {
				t.Errorf("after a consent that began after %v the store holds another refresh token", begins)
			}
			if a := p.mustAuthorize("acme"); token(a) != tokens.AccessToken.Reveal() {
				t.Errorf("requests go out with another token than the new grant's")
			}
		})
	}
}

// A removed connection stays removed, and nothing is left in the spool.
func TestF23RemovedDuringConsent(t *testing.T) {
	withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
		conn := w.connect("acme")
		grant, _ := w.consented(api, conn.ID, "c1", func() {
			if err := w.command().Remove(t.Context(), conn.ID); err != nil {
				t.Error(err)
			}
		})
		if _, err := p.Consent(t.Context(), grant); !errors.Is(err, credstore.ErrNotFound) {
			t.Errorf("Consent = %v, want ErrNotFound", err)
		}
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ConnectionUnknown)
		wantEmpty(t, p.dir)
	})
}

func TestConsentOfAnotherCompanyIsRejected(t *testing.T) {
	withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
		conn, other := w.bound("acme", "c1"), w.bound("other", "c2")
		before := p.mustAuthorize("acme")
		grant, _ := w.consented(api, conn.ID, "c3", nil)
		_, err := p.Consent(t.Context(), grant)
		var differs *credstore.OtherCompanyError
		if !errors.As(err, &differs) || differs.Have.ID != "c1" || differs.Got.ID != "c3" {
			t.Errorf("Consent = %v, want an OtherCompanyError from c1 to c3", err)
		}
		grant, _ = w.consented(api, conn.ID, "c2", nil)
		grant.AllowOtherCompany = true
		_, err = p.Consent(t.Context(), grant)
		var taken *CompanyTakenError
		if !errors.As(err, &taken) || taken.Company.ID != "c2" || !errors.Is(err, credstore.ErrCompanyBound) {
			t.Errorf("Consent = %v, want a CompanyTakenError about c2", err)
		}
		if a := p.mustAuthorize("acme"); a.Version != before.Version || !a.Value.Equal(before.Value) {
			t.Errorf("after rejected consents requests are sent with version %d, want the one before", a.Version)
		}
		wantEmpty(t, p.dir)

		grant, tokens := w.consented(api, conn.ID, "c3", nil)
		grant.AllowOtherCompany = true
		if _, err := p.Consent(t.Context(), grant); err != nil {
			t.Fatal(err)
		}
		if a := p.mustAuthorize("acme"); token(a) != tokens.AccessToken.Reveal() || a.CompanyID != "c3" {
			t.Errorf("after a move that is allowed requests go out for company %q", a.CompanyID)
		}
		if c := w.state(other.ID).Connection; c.CompanyID != "c2" || c.Status != credstore.Active {
			t.Errorf("the other connection is %+v", c)
		}
	})
}

func TestConsentIsSavedAfterTheCallerLeaves(t *testing.T) {
	withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
		conn := w.pending("acme")
		ctx, leave := context.WithCancel(t.Context())
		grant, _ := w.consented(api, conn.ID, "c1", func() {
			leave()
			time.Sleep(10 * time.Second)
		})
		if _, err := p.Consent(ctx, grant); !errors.Is(err, context.Canceled) {
			t.Fatalf("Consent = %v, want that of the context", err)
		}
		p.drain() // waits for it
		if c := w.state(conn.ID).Connection; c.Version != 1 || c.CompanyID != "c1" {
			t.Errorf("the connection is %+v, want the grant that was on its way", c)
		}
		_, err := p.Consent(t.Context(), grant)
		wantCode(t, err, ShuttingDown)
	})
}

func TestConsentWhileCredentialCheckFails(t *testing.T) {
	withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
		known, fresh := w.bound("known", "c1"), w.pending("fresh")
		api.fail(&pleo.StatusError{Status: 503})
		grant, _ := w.consented(api, known.ID, "c2", nil)
		if _, err := p.Consent(t.Context(), grant); err == nil {
			t.Error("a consent of an unknown company replaced one of a known company")
		}
		if v := w.state(known.ID).Credential.Version; v != 1 {
			t.Errorf("version %d, want 1 as before", v)
		}
		grant, _ = w.consented(api, fresh.ID, "c3", nil)
		if c, err := p.Consent(t.Context(), grant); err != nil || !c.CompanyUnverified {
			t.Errorf("the first consent of a connection = %+v, %v, want it saved and unverified", c, err)
		}
		_, err := p.Authorize(t.Context(), "fresh")
		wantCode(t, err, ServerUnavailable) // its company may be that of another connection
		api.fail(nil)
		time.Sleep(10 * time.Second)
		if c := w.state(fresh.ID).Connection; c.CompanyUnverified || c.CompanyID != "c3" {
			t.Errorf("once the API is back the connection is %+v, want its company known without a hand", c)
		}
		p.mustAuthorize("fresh")
		time.Sleep(time.Second) // the caller continues before the lease is released
		wantEmpty(t, p.dir)
	})
}

// A consent whose company could not be found out turns out to belong to the company of
// another connection.
func TestConsentIsVerifiedBeforeUse(t *testing.T) {
	withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
		w.bound("first", "c1")
		second := w.pending("second")
		api.fail(&pleo.StatusError{Status: 503})
		grant, _ := w.consented(api, second.ID, "c1", nil)
		if _, err := p.Consent(t.Context(), grant); err != nil {
			t.Fatal(err)
		}
		api.fail(nil)
		time.Sleep(10 * time.Second)
		if c := w.state(second.ID).Connection; c.Status != credstore.Disabled || c.Reason != credstore.ReasonCompanyConflict {
			t.Errorf("the connection is %s (%s), want it disabled for its company", c.Status, c.Reason)
		}
		_, err := p.Authorize(t.Context(), "second")
		wantCode(t, err, ConnectionDisabled)
		// The customer comes back and chooses the right company.
		grant, _ = w.consented(api, second.ID, "c2", nil)
		if c, err := p.Consent(t.Context(), grant); err != nil || c.Status != credstore.Active || c.CompanyID != "c2" {
			t.Errorf("a consent for another company = %+v, %v, want it active", c, err)
		}
		p.mustAuthorize("second")
	})
}

// A grant or key of an unknown company does not replace one whose company is known. It
// is accepted where there is none, since Pleo need not name the company.
func TestCompanyUnknown(t *testing.T) {
	withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
		known, fresh := w.bound("known", "c1"), w.pending("fresh")
		grant, _ := w.consented(api, known.ID, "", nil)
		if _, err := p.Consent(t.Context(), grant); !errors.Is(err, ErrCompanyUnknown) {
			t.Errorf("Consent = %v, want ErrCompanyUnknown", err)
		}
		if c := w.state(known.ID).Connection; c.Version != 1 || c.CompanyUnverified {
			t.Errorf("the connection is %+v, want it as before", c)
		}
		p.mustAuthorize("known")
		grant, _ = w.consented(api, fresh.ID, "", nil)
		if c, err := p.Consent(t.Context(), grant); err != nil || c.CompanyUnverified {
			t.Errorf("the first consent = %+v, %v, want it saved", c, err)
		}
		p.mustAuthorize("fresh")
	})
	withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
		api.hideCompany("other")
		for _, next := range []bool{false, true} {
			_, err := p.SetKey(t.Context(), apikey.Change{ConnectionID: conn.ID, Key: credstore.NewSecret("other"), Stage: next})
			if !errors.Is(err, ErrCompanyUnknown) {
				t.Errorf("SetKey (next: %v) = %v, want ErrCompanyUnknown", next, err)
			}
		}
		if a := p.mustAuthorize("legacy"); a.Value.Reveal() != valueOf("old") || w.state(conn.ID).Connection.CompanyUnverified {
			t.Error("the key has changed, or is unverified")
		}
	})
}

var errHanging = errors.New("no response")

// If the credential check fails or names no company, the authorization server or the
// installation may.
func TestCompanyFromOtherSources(t *testing.T) {
	for _, tt := range []struct {
		name string
		down error
		set  func(w *env, api *keyAPI, tokens pleo.Tokens, subject string)
	}{
		{"the authorization server, while the API is unavailable", &pleo.StatusError{Status: 503}, func(w *env, _ *keyAPI, tokens pleo.Tokens, subject string) {
			w.server.setSubject(tokens.AccessToken, subject)
		}},
		{"the authorization server, while the API hangs", errHanging, func(w *env, _ *keyAPI, tokens pleo.Tokens, subject string) {
			w.server.setSubject(tokens.AccessToken, subject)
		}},
		{"the authorization server", nil, func(w *env, _ *keyAPI, tokens pleo.Tokens, subject string) {
			w.server.setSubject(tokens.AccessToken, subject)
		}},
		{"the installation", nil, func(_ *env, api *keyAPI, tokens pleo.Tokens, subject string) {
			api.installed["Bearer "+tokens.AccessToken.Reveal()] = subject
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
				conn := w.bound("acme", "c1")
				for company, want := range map[string]error{"c2": credstore.ErrOtherCompany, "c1": nil} {
					grant, tokens := w.consented(api, conn.ID, "", nil)
					tt.set(w, api, tokens, "urn:pleo:company:"+company)
					if errors.Is(tt.down, errHanging) {
						api.slow(time.Hour)
					} else {
						api.fail(tt.down)
					}
					if _, err := p.Consent(t.Context(), grant); !errors.Is(err, want) {
						t.Errorf("Consent for %s = %v, want %v", company, err, want)
					}
				}
				if c := w.state(conn.ID).Connection; c.Version != 2 || c.CompanyID != "c1" || c.CompanyUnverified {
					t.Errorf("the connection is %+v, want the second grant, and its company known", c)
				}
			})
		})
	}
	withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
		api.hideCompany("other")
		for company, want := range map[string]error{"c2": credstore.ErrOtherCompany, "c1": nil} {
			api.installed[valueOf("other")] = "urn:pleo:company:" + company
			_, err := p.SetKey(t.Context(), apikey.Change{ConnectionID: conn.ID, Key: credstore.NewSecret("other")})
			if !errors.Is(err, want) {
				t.Errorf("SetKey for %s = %v, want %v", company, err, want)
			}
		}
	})
}

// A pair that was received is saved by the next process, which finds out its company
// before it is used.
func TestConsentSurvivesCrash(t *testing.T) {
	for _, tt := range []struct {
		name, company string
		status        credstore.Status
		reason        string
	}{
		{"of the connection's company", "c1", credstore.Active, ""},
		{"of another", "c2", credstore.Disabled, credstore.ReasonCompanyConflict},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
				conn := w.bound("acme", "c1")
				grant, tokens := w.consented(api, conn.ID, tt.company, nil)
				api.slow(time.Minute) // it is killed before it knows the company of the pair
				go func() { _, _ = p.Consent(t.Context(), grant) }()
				time.Sleep(time.Second)
				left := p.kill()
				api.slow(0)

				next := w.start(left)
				defer next.stop()
				time.Sleep(5 * time.Second)
				if got := w.state(conn.ID); got.Credential.Version != 2 || !got.Connection.CompanyUnverified {
					t.Fatalf("the store holds version %d, unproven %v, want the spooled pair", got.Credential.Version, got.Connection.CompanyUnverified)
				}
				a, err := next.Authorize(t.Context(), "acme")
				if tt.status == credstore.Active && (err != nil || token(a) != tokens.AccessToken.Reveal()) {
					t.Errorf("Authorize = %v, %v, want the new token", a, err)
				}
				if tt.status == credstore.Disabled {
					wantCode(t, err, ConnectionDisabled)
				}
				if c := w.state(conn.ID).Connection; c.Status != tt.status || c.Reason != tt.reason || c.CompanyID != "c1" {
					t.Errorf("the connection is %s (%s) of %s, want %s (%s) of c1", c.Status, c.Reason, c.CompanyID, tt.status, tt.reason)
				}
			})
		})
	}
}

func TestConsentStaysSpooledWhileStoreFails(t *testing.T) {
	withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
		conn := w.pending("acme")
		grant, tokens := w.consented(api, conn.ID, "c1", func() { p.store.fail(failing("replace", "save")) })
		began := time.Now()
		_, err := p.Consent(t.Context(), grant)
		wantCode(t, err, StoreUnavailable)
		if waited := time.Since(began); waited > 30*time.Second {
			t.Errorf("a person has waited %v", waited)
		}
		p.store.fail(nil)
		time.Sleep(5 * time.Second)
		if a := p.mustAuthorize("acme"); token(a) != tokens.AccessToken.Reveal() {
			t.Error("the pair has not come out of the spool")
		}
		synctest.Wait()
		wantEmpty(t, p.dir)
	})
}

func TestNoExchangeWithoutSpoolRecord(t *testing.T) {
	withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
		conn := w.connect("acme")
		exchanged := false
		grant, _ := w.consented(api, conn.ID, "c1", func() { exchanged = true })
		slot, err := p.Spool.Reserve(w.state(conn.ID).Parent())
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Consent(t.Context(), grant)
		wantCode(t, err, ServerUnavailable)
		slot.Remove()
		if exchanged {
			t.Error("a code was exchanged although its tokens could not have been spooled")
		}
	})
}

func TestConsentWithoutTokens(t *testing.T) {
	withConsents(t, func(t *testing.T, w *env, api *keyAPI, p *process) {
		conn := w.connect("acme")
		for name, err := range map[string]error{
			"rejected": &pleo.ResponseError{Class: pleo.TokenRejected, Status: 400, Code: "invalid_grant"},
			"not sent": &pleo.NotSentError{Err: errors.New("connection refused")},
			"no pair":  nil,
		} {
			_, got := p.Consent(t.Context(), ConsentGrant{ConnectionID: conn.ID, Exchange: func(context.Context) (pleo.Tokens, error) {
				return pleo.Tokens{AccessToken: credstore.NewSecret("alone")}, err
			}})
			if got == nil || err != nil && !errors.Is(got, err) {
				t.Errorf("%s: Consent = %v, want %v", name, got, err)
			}
			if a := p.mustAuthorize("acme"); a.Version != 1 {
				t.Errorf("%s: version %d, want 1 as before", name, a.Version)
			}
			wantEmpty(t, p.dir)
		}
	})
}
