package refresh

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// parts returns the result for each part.
func parts(c CredentialCheck) []string {
	var found []string
	for _, f := range c.Findings {
		found = append(found, f.Part+" "+string(f.Result))
	}
	return found
}

// tokenAPI is an API with the same response to all tokens.
type tokenAPI func() (pleo.Identity, error)

func (a tokenAPI) Introspect(context.Context, credstore.Secret) (pleo.Identity, error) { return a() }

func belongsTo(company string) tokenAPI {
	return func() (pleo.Identity, error) { return pleo.Identity{CompanyID: company}, nil }
}

func fails(err error) tokenAPI {
	return func() (pleo.Identity, error) { return pleo.Identity{}, err }
}

func TestCheckOfTokenPair(t *testing.T) {
	trust := func(t *testing.T, w *env) {
		if err := w.command().SetFact(t.Context(), factIntrospectionTrusted, "yes"); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		prepare func(*testing.T, *env)
		api     API
		want    []string
		healthy bool
	}{
		{name: "all valid", api: belongsTo("c1"), want: []string{"access_token valid", "refresh_token valid"}, healthy: true},
		{name: "another company", api: belongsTo("c2"), want: []string{"access_token other_company", "refresh_token valid"}},
		{
			name: "access token expired", api: fails(errors.New("must not be asked")), healthy: true,
			prepare: func(*testing.T, *env) { time.Sleep(time.Hour) },
			want:    []string{"access_token expired", "refresh_token valid"},
		},
		{
			name: "revoked", api: fails(pleo.ErrUnauthorized),
			prepare: func(t *testing.T, w *env) { trust(t, w); w.server.revokeAll() },
			want:    []string{"access_token rejected", "refresh_token rejected"},
		},
		{
			name: "called inactive by a server that has not proven itself", api: belongsTo("c1"),
			prepare: func(_ *testing.T, w *env) { w.server.revokeAll() },
			want:    []string{"access_token valid", "refresh_token unknown"},
		},
		{
			name: "server without introspection", api: belongsTo("c1"), healthy: true,
			prepare: func(_ *testing.T, w *env) { w.server.noIntrospection = true },
			want:    []string{"access_token valid", "refresh_token not_checked"},
		},
		{name: "API unavailable", api: fails(errors.New("connection refused")), want: []string{"access_token unknown", "refresh_token valid"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *env) {
				conn := w.connect("acme")
				if err := w.command().SetCompany(t.Context(), conn.ID, credstore.Company{ID: "c1"}); err != nil {
					t.Fatal(err)
				}
				if tt.prepare != nil {
					tt.prepare(t, w)
				}
				got, err := Checker{Connections: w.command(), Facts: w.command(), API: tt.api, Server: w.server}.Check(t.Context(), conn.ID)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, parts(got)); diff != "" || got.Healthy() != tt.healthy {
					t.Errorf("healthy %v, want %v; findings (-want +got):\n%s", got.Healthy(), tt.healthy, diff)
				}
				if n := w.server.count(); n != 0 {
					t.Errorf("%d tokens were sent, want none", n)
				}
			})
		})
	}
}

func TestCheckOfKeys(t *testing.T) {
	for _, tt := range []struct {
		name    string
		knows   map[string]string // key → company
		want    []string
		healthy bool
	}{
		{name: "both valid", knows: map[string]string{"old": "c1", "new": "c1"}, want: []string{"api_key valid", "next_api_key valid"}, healthy: true},
		{name: "staged key wrong", knows: map[string]string{"old": "c1"}, want: []string{"api_key valid", "next_api_key rejected"}, healthy: true},
		{name: "key wrong", knows: map[string]string{"new": "c2"}, want: []string{"api_key rejected", "next_api_key other_company"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withKey(t, func(t *testing.T, w *env, api *keyAPI, _ *process, conn credstore.Connection) {
				if err := w.command().StageKey(t.Context(), conn.ID, credstore.NewSecret("new"), time.Time{}); err != nil {
					t.Fatal(err)
				}
				for key, company := range tt.knows {
					api.knows(key, company)
				}
				got, err := Checker{Connections: w.command(), Facts: w.command(), API: api}.Check(t.Context(), conn.ID)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, parts(got)); diff != "" || got.Healthy() != tt.healthy {
					t.Errorf("healthy %v, want %v; findings (-want +got):\n%s", got.Healthy(), tt.healthy, diff)
				}
			})
		})
	}
}

// A token that a server refreshes during the check must not be reported as revoked.
func TestCheckDuringRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.api = belongsTo("c1")
		p := w.start("")
		defer p.stop()
		first := p.mustAuthorize("acme")
		refreshed := false
		api := tokenAPI(func() (pleo.Identity, error) {
			if refreshed {
				return pleo.Identity{CompanyID: "c1"}, nil
			}
			refreshed = true
			if _, err := p.Reauthorize(t.Context(), first); err != nil {
				t.Error(err)
			}
			return pleo.Identity{}, pleo.ErrUnauthorized
		})
		got, err := Checker{Connections: w.command(), Facts: w.command(), API: api, Server: w.server}.Check(t.Context(), conn.ID)
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"access_token valid", "refresh_token valid"}; !slices.Equal(parts(got), want) || got.Connection.Version != 2 {
			t.Errorf("version %d: %v, want version 2: %v", got.Connection.Version, parts(got), want)
		}
	})
}

func TestCheckOfUnknownConnection(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		pending, err := w.command().Create(t.Context(), credstore.NewConnection{Name: "waiting", Kind: credstore.OAuth})
		if err != nil {
			t.Fatal(err)
		}
		c := Checker{Connections: w.command(), Facts: w.command(), API: belongsTo("c1"), Server: w.server}
		got, err := c.Check(t.Context(), pending.ID)
		if err != nil || got.Healthy() || len(got.Findings) != 0 {
			t.Errorf("Check of a pending connection = %+v, %v, want no findings and not healthy", got, err)
		}
		if _, err := c.Check(t.Context(), "unknown"); !errors.Is(err, credstore.ErrNotFound) {
			t.Errorf("Check of an unknown connection = %v, want ErrNotFound", err)
		}
	})
}
