package refresh

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

func TestSetKeyErrors(t *testing.T) {
	withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
		other := newKeyAPI()
		other.knows("staging-key", "c1")
		p.keys.OtherEnvironment = other
		api.knows("valid", "c1")
		api.knows("other", "c2")
		bound, err := w.command().Create(t.Context(), credstore.NewConnection{
			Name: "bound", Kind: credstore.IntegratedKey, Company: credstore.Company{ID: "c3"},
			Credential: &credstore.NewCredential{APIKey: credstore.NewSecret("bounds")},
		})
		if err != nil {
			t.Fatal(err)
		}
		api.knows("of bound", "c3")
		set := func(key string, change func(*apikey.Change)) error {
			g := apikey.Change{ConnectionID: conn.ID, Key: credstore.NewSecret(key)}
			if change != nil {
				change(&g)
			}
			_, err := p.SetKey(t.Context(), g)
			return err
		}
		var (
			differs *credstore.OtherCompanyError
			taken   *CompanyTakenError
			missing *apikey.MissingScopesError
		)
		if err := set("unknown", nil); !errors.Is(err, pleo.ErrUnauthorized) || errors.Is(err, apikey.ErrWrongEnvironment) {
			t.Errorf("an unknown key: %v, want ErrUnauthorized", err)
		}
		if err := set("staging-key", nil); !errors.Is(err, apikey.ErrWrongEnvironment) || errors.Is(err, pleo.ErrUnauthorized) {
			t.Errorf("a key of the other environment: %v, want ErrWrongEnvironment", err)
		}
		if err := set("other", nil); !errors.As(err, &differs) || differs.Got.ID != "c2" {
			t.Errorf("a key of another company: %v, want an OtherCompanyError", err)
		}
		if err := set("other", func(g *apikey.Change) { g.Stage = true }); !errors.As(err, &differs) {
			t.Errorf("staging a key of another company: %v, want an OtherCompanyError", err)
		}
		if err := set("of bound", func(g *apikey.Change) { g.AllowOtherCompany = true }); !errors.As(err, &taken) || taken.Company.ID != "c3" {
			t.Errorf("a key of a bound company: %v, want a CompanyTakenError", err)
		}
		api.scope = "users:read"
		if err := set("valid", func(g *apikey.Change) { g.Scopes = []string{"users:read", "export-jobs:write"} }); !errors.As(err, &missing) || !slices.Equal(missing.Missing, []string{"export-jobs:write"}) {
			t.Errorf("a key without the scopes: %v, want a MissingScopesError", err)
		}
		api.fail(&pleo.StatusError{Status: 503})
		var unavailable *pleo.StatusError
		if err := set("valid", nil); !errors.As(err, &unavailable) {
			t.Errorf("while the API is unavailable: %v, want its error", err)
		}
		api.fail(nil)
		if c := w.state(conn.ID).Credential; c.Version != 1 || !c.NextKey.IsZero() {
			t.Errorf("after rejected keys the store holds version %d, staged %v, want it unchanged", c.Version, !c.NextKey.IsZero())
		}
		if c := w.state(bound.ID).Connection; c.Version != 1 || c.CompanyID != "c3" {
			t.Errorf("the other connection is %+v", c)
		}
	})
}

func TestSetKeyIsUsedAtOnce(t *testing.T) {
	withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
		if _, err := p.rejected("legacy"); !errors.Is(err, ErrSuppressed) {
			t.Fatal(err)
		}
		api.knows("new", "c1")
		ends := time.Now().Add(90 * 24 * time.Hour).Truncate(time.Second)
		got, err := p.SetKey(t.Context(), apikey.Change{ConnectionID: conn.ID, Key: credstore.NewSecret("new"), ExpiresAt: ends, Scopes: []string{"users:read"}})
		if err != nil || got.Status != credstore.Active || !got.ExpiresAt.Equal(ends) {
			t.Fatalf("SetKey = %+v, %v, want it active until %v", got, err, ends)
		}
		if a := p.mustAuthorize("legacy"); a.Value.Reveal() != valueOf("new") || a.Version != 2 {
			t.Errorf("requests are sent with version %d, want the new key", a.Version)
		}
	})
}

// A key staged behind itself would stop the reminders of its expiry.
func TestSetKeyRejectsStagingTheCurrentKey(t *testing.T) {
	withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
		api.knows("old", "c1")
		if _, err := p.SetKey(t.Context(), apikey.Change{ConnectionID: conn.ID, Key: credstore.NewSecret("old"), Stage: true}); !errors.Is(err, apikey.ErrSameKey) {
			t.Errorf("SetKey = %v, want ErrSameKey", err)
		}
		if state, err := p.store.Read(t.Context(), conn.ID); err != nil || !state.Credential.NextKey.IsZero() {
			t.Errorf("Read = %v; want no staged key", err)
		}
	})
}

func TestSetKeyStagesNextKey(t *testing.T) {
	withKey(t, func(t *testing.T, w *env, api *keyAPI, p *process, conn credstore.Connection) {
		api.knows("old", "c1")
		api.knows("next", "c1")
		if _, err := p.SetKey(t.Context(), apikey.Change{ConnectionID: conn.ID, Key: credstore.NewSecret("next"), Stage: true}); err != nil {
			t.Fatal(err)
		}
		if a := p.mustAuthorize("legacy"); a.Value.Reveal() != valueOf("old") {
			t.Error("a staged key is used before it is promoted")
		}
		api.knows("old", "")
		a, err := p.rejected("legacy")
		if err != nil || a.Value.Reveal() != valueOf("next") {
			t.Errorf("after a 401: %v, want the staged key", err)
		}
	})
}
