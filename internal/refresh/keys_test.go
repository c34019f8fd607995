package refresh

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// keyAPI is an API that knows keys, and counts its calls.
type keyAPI struct {
	mu        sync.Mutex        // guards everything below
	companies map[string]string // Authorization value → company
	down      error
	calls     int
	delay     time.Duration
	scope     string            // of all credentials; empty: unknown
	installed map[string]string // Authorization value → subject of its installation
}

func newKeyAPI() *keyAPI {
	return &keyAPI{companies: map[string]string{}, installed: map[string]string{}}
}

func valueOf(key string) string {
	return pleo.AuthorizationHeader(credstore.IntegratedKey, credstore.Credential{APIKey: credstore.NewSecret(key)}).Reveal()
}

// knows makes the key valid for the company or, without one, not valid.
func (a *keyAPI) knows(key, company string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.companies, valueOf(key))
	if company != "" {
		a.companies[valueOf(key)] = company
	}
}

func (a *keyAPI) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = err
}

func (a *keyAPI) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

// slow sets how long responses take.
func (a *keyAPI) slow(delay time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.delay = delay
}

func (a *keyAPI) slowness() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.delay
}

func (a *keyAPI) Introspect(ctx context.Context, authorization credstore.Secret) (pleo.Identity, error) {
	if err := pause(ctx, a.slowness()); err != nil {
		return pleo.Identity{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if a.down != nil {
		return pleo.Identity{}, a.down
	}
	company, ok := a.companies[authorization.Reveal()]
	if !ok {
		return pleo.Identity{}, pleo.ErrUnauthorized
	}
	if company == "" {
		return pleo.Identity{Scope: a.scope}, nil
	}
	return pleo.Identity{CompanyID: company, Subject: "urn:pleo:company:" + company, Scope: a.scope}, nil
}

// hideCompany makes the key valid without naming its company.
func (a *keyAPI) hideCompany(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.companies[valueOf(key)] = ""
}

// InstallationSubject returns the subject that a test has set.
func (a *keyAPI) InstallationSubject(_ context.Context, authorization credstore.Secret) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if subject := a.installed[authorization.Reveal()]; subject != "" {
		return subject, nil
	}
	return "", &pleo.StatusError{Status: 404}
}

// withKey runs f on a process that serves the connection "legacy" of company
// c1, whose key is no longer valid.
func withKey(t *testing.T, f func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection)) {
	t.Helper()
	bubble(t, func(t *testing.T, w *env) {
		conn, err := w.command().Create(t.Context(), credstore.NewConnection{
			Name: "legacy", Kind: credstore.IntegratedKey, Company: credstore.Company{ID: "c1"},
			Credential: &credstore.NewCredential{APIKey: credstore.NewSecret("old")},
		})
		if err != nil {
			t.Fatal(err)
		}
		api := newKeyAPI()
		w.api = api
		p := w.start("")
		defer p.stop()
		f(t, w, api, p, conn)
	})
}

// rejected reports a 401 for the connection's current key.
func (p *process) rejected(name string) (*Authorization, error) {
	return p.Reauthorize(p.w.t.Context(), p.mustAuthorize(name))
}

func Test401OfValidKeyLeavesItActive(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(*keyAPI)
	}{
		{"the key is valid", func(a *keyAPI) { a.knows("old", "c1") }},
		{"introspection is forbidden", func(a *keyAPI) { a.fail(&pleo.StatusError{Status: 403}) }},
		{"the API is unavailable", func(a *keyAPI) { a.fail(errors.New("connection refused")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
				tt.prepare(api)
				for range 59 { // seconds
					if _, err := p.rejected("legacy"); !errors.Is(err, ErrSuppressed) {
						t.Fatalf("Reauthorize = %v, want ErrSuppressed", err)
					}
					time.Sleep(time.Second)
				}
				if n := api.count(); n != 2 {
					t.Errorf("asked %d times in a minute, want once in 30 s", n)
				}
				if c := w.state(conn.ID).Connection; c.Status != credstore.Active {
					t.Errorf("status %q, want active", c.Status)
				}
			})
		})
	}
}

func TestKeyIsRejectedByCredentialCheckOnly(t *testing.T) {
	withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
		api.slow(time.Second)
		sent := p.mustAuthorize("legacy")
		results := inParallel(200, func() string {
			_, err := p.Reauthorize(t.Context(), sent)
			return err.Error()
		})
		if len(results) != 1 || !results[ErrSuppressed.Error()] || api.count() != 1 {
			t.Errorf("200 rejected requests got %v by %d questions, want ErrSuppressed by 1", results, api.count())
		}
		if c := w.state(conn.ID).Connection; c.Reason != credstore.ReasonKeyRejected || c.LastError == nil {
			t.Errorf("connection = %+v, want reason %q and an error", c, credstore.ReasonKeyRejected)
		}
		for range 119 { // seconds
			_, err := p.Authorize(t.Context(), "legacy")
			if e := wantCode(t, err, ReauthorizationRequired); e.Reason != credstore.ReasonKeyRejected {
				t.Fatalf("reason %q, want %q", e.Reason, credstore.ReasonKeyRejected)
			}
			time.Sleep(time.Second)
		}
		if n := api.count(); n < 3 || n > 5 {
			t.Errorf("asked %d times in two minutes, want every 30 s", n)
		}
		api.knows("old", "c1") // Pleo accepts the key again
		time.Sleep(30 * time.Second)
		p.mustAuthorize("legacy")
		if c := w.state(conn.ID).Connection; c.Status != credstore.Active || c.LastError != nil || c.Version != 1 {
			t.Errorf("connection = %+v, want it active at version 1 again", c)
		}
	})
}

func TestStagedKeyReplacesRejectedKey(t *testing.T) {
	for _, tt := range []struct {
		name     string
		company  string // of the staged key; empty: it is not valid
		promoted bool
	}{
		{"of the same company", "C1", true},
		{"of another company", "c2", false},
		{"not valid either", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
				p.mustAuthorize("legacy")
				if err := w.command().StageKey(t.Context(), conn.ID, credstore.NewSecret("next"), time.Time{}); err != nil {
					t.Fatal(err)
				}
				api.knows("next", tt.company)
				a, err := p.rejected("legacy")
				got := w.state(conn.ID)
				if !tt.promoted {
					if !errors.Is(err, ErrSuppressed) || got.Connection.Reason != credstore.ReasonKeyRejected || got.Credential.NextKey.IsZero() {
						t.Errorf("Reauthorize = %v, state %+v; want ErrSuppressed, %s and the key still staged", err, got, credstore.ReasonKeyRejected)
					}
					return
				}
				if err != nil || a.Value.Reveal() != valueOf("next") || a.Version != 2 {
					t.Fatalf("Reauthorize = %+v, %v, want the staged key at version 2", a, err)
				}
				if c := got.Connection; c.Status != credstore.Active || c.Version != 2 || !got.Credential.NextKey.IsZero() {
					t.Errorf("state = %+v, want active at version 2 and nothing staged", got)
				}
			})
		})
	}
}

func TestKeyStagedAfterRejectionIsPromoted(t *testing.T) {
	withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
		if _, err := p.rejected("legacy"); !errors.Is(err, ErrSuppressed) {
			t.Fatalf("Reauthorize = %v, want ErrSuppressed", err)
		}
		api.knows("next", "c1")
		if err := w.command().StageKey(t.Context(), conn.ID, credstore.NewSecret("next"), time.Time{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if a := p.mustAuthorize("legacy"); a.Value.Reveal() != valueOf("next") {
			t.Errorf("authorized with version %d, want the staged key", a.Version)
		}
	})
}

func TestTwoProcessesPromoteKeyOnce(t *testing.T) {
	withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
		q := w.start("")
		defer q.stop()
		api.knows("next", "c1")
		if err := w.command().StageKey(t.Context(), conn.ID, credstore.NewSecret("next"), time.Time{}); err != nil {
			t.Fatal(err)
		}
		sent := []*Authorization{p.mustAuthorize("legacy"), q.mustAuthorize("legacy")}
		var wg sync.WaitGroup
		for i, process := range []*process{p, q} {
			wg.Go(func() {
				if a, err := process.Reauthorize(t.Context(), sent[i]); err != nil || a.Version != 2 {
					t.Errorf("Reauthorize = %+v, %v, want version 2", a, err)
				}
			})
		}
		wg.Wait()
		if v := w.state(conn.ID).Connection.Version; v != 2 {
			t.Errorf("version %d, want 2", v)
		}
	})
}

func TestUninstallEndsConnection(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		p.Uninstalled(t.Context(), p.mustAuthorize("acme"))
		_, err := p.Authorize(t.Context(), "acme")
		if e := wantCode(t, err, ReauthorizationRequired); e.Reason != credstore.ReasonUninstalled {
			t.Errorf("reason %q, want %q", e.Reason, credstore.ReasonUninstalled)
		}
		synctest.Wait()
		got := w.state(conn.ID)
		if got.Connection.Reason != credstore.ReasonUninstalled || !got.Credential.AccessToken.IsZero() {
			t.Errorf("state = %+v, want reason %q and the access token gone", got, credstore.ReasonUninstalled)
		}
		time.Sleep(time.Hour)
		if n := w.server.count(); n != 0 {
			t.Errorf("sent %d times, want 0", n)
		}
		w.regrant(conn.ID) // a new consent
		w.data.mu.Lock()
		w.data.send(conn.ID)
		w.data.mu.Unlock()
		synctest.Wait()
		if a := p.mustAuthorize("acme"); token(a) != "consented" {
			t.Errorf("token %q, want that of the new consent", token(a))
		}
	})
}

func TestUninstallDuringRefreshEndsSuccessor(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.server.slow(10 * time.Second)
		p := w.start("")
		defer p.stop()
		a := p.mustAuthorize("acme")
		go func() { _, _ = p.Reauthorize(context.Background(), a) }()
		time.Sleep(time.Second)
		p.Uninstalled(t.Context(), a)
		time.Sleep(time.Minute)
		if c := w.state(conn.ID).Connection; c.Reason != credstore.ReasonUninstalled || c.Version != 2 {
			t.Errorf("connection is %s (%s) at version %d, want uninstalled at 2", c.Status, c.Reason, c.Version)
		}
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ReauthorizationRequired)
	})
}
