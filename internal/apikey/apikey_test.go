package apikey_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// fakeAPI knows keys: the value of the Authorization header and its identity.
type fakeAPI struct {
	keys map[string]pleo.Identity
	err  error // of every check, if not nil
}

func (a *fakeAPI) Introspect(_ context.Context, header credstore.Secret) (pleo.Identity, error) {
	if a.err != nil {
		return pleo.Identity{}, a.err
	}
	identity, ok := a.keys[header.Reveal()]
	if !ok {
		return identity, pleo.ErrUnauthorized
	}
	return identity, nil
}

// knows returns an API that knows the keys, of the companies.
func knows(companies map[string]string) *fakeAPI {
	a := &fakeAPI{keys: map[string]pleo.Identity{}}
	for key, company := range companies {
		a.keys[headerOf(key).Reveal()] = pleo.Identity{CompanyID: company, Scope: "users:read"}
	}
	return a
}

func headerOf(key string) credstore.Secret {
	return pleo.AuthorizationHeader(credstore.IntegratedKey, credstore.Credential{APIKey: credstore.NewSecret(key)})
}

// fakeStore holds one connection, and records what is done to it.
type fakeStore struct {
	state credstore.State
	done  []string
}

func newStore(company, next string) *fakeStore {
	s := &fakeStore{state: credstore.State{
		Connection: credstore.Connection{
			ID: "id-1", Name: "acme", Kind: credstore.IntegratedKey, Status: credstore.Active, CompanyID: company, Version: 1,
		},
		Credential: credstore.Credential{ConnectionID: "id-1", Version: 1, APIKey: credstore.NewSecret("current")},
	}}
	if next != "" {
		s.state.Credential.NextKey = credstore.NewSecret(next)
	}
	return s
}

type fakeLease struct{ credstore.Lease }

func (fakeLease) Release() error { return nil }

func (s *fakeStore) Acquire(context.Context, string, string) (credstore.Lease, error) {
	return fakeLease{}, nil
}

func (s *fakeStore) Read(context.Context, string) (credstore.State, error) { return s.state, nil }

func (s *fakeStore) StageKey(context.Context, string, credstore.Secret, time.Time) error {
	s.done = append(s.done, "staged")
	return nil
}

func (s *fakeStore) PromoteKey(context.Context, credstore.Lease, credstore.Parent) (credstore.Connection, error) {
	s.done = append(s.done, "promoted")
	return credstore.Connection{}, nil
}

func (s *fakeStore) MarkReauthorizationRequired(_ context.Context, _ credstore.Lease, _ credstore.Parent, f credstore.Failure, reason string, _ bool) error {
	s.done = append(s.done, f.Code+" "+reason)
	return nil
}

func (s *fakeStore) Reinstate(context.Context, credstore.Lease, credstore.Parent) error {
	s.done = append(s.done, "reinstated")
	return nil
}

func newKeys(store *fakeStore, api apikey.API) *apikey.Keys {
	return &apikey.Keys{Store: store, API: api, Owner: "test", Now: time.Now, Logger: zap.NewNop()}
}

func TestVerify(t *testing.T) {
	unavailable := &pleo.StatusError{Status: 503}
	tests := []struct {
		name    string
		api     apikey.API
		other   apikey.API
		scopes  []string
		want    error // nil: valid
		missing []string
	}{
		{name: "valid", api: knows(map[string]string{"new": "c1"})},
		{name: "valid with the scopes", api: knows(map[string]string{"new": "c1"}), scopes: []string{"users:read"}},
		{name: "missing scopes", api: knows(map[string]string{"new": "c1"}), scopes: []string{"users:read", "export:write"}, missing: []string{"export:write"}},
		{name: "unknown", api: knows(nil), want: pleo.ErrUnauthorized},
		{name: "a response about no credential", api: &fakeAPI{keys: map[string]pleo.Identity{headerOf("new").Reveal(): {AuthMethod: "none"}}}, want: pleo.ErrUnauthorized},
		{name: "of the other environment", api: knows(nil), other: knows(map[string]string{"new": "c1"}), want: apikey.ErrWrongEnvironment},
		{name: "unknown in both", api: knows(nil), other: knows(nil), want: pleo.ErrUnauthorized},
		{name: "API unavailable", api: &fakeAPI{err: unavailable}, want: unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newKeys(newStore("c1", ""), tt.api)
			k.OtherEnvironment = tt.other
			identity, err := k.Verify(t.Context(), headerOf("new"), tt.scopes)
			var missing *apikey.MissingScopesError
			switch {
			case tt.missing != nil:
				if !errors.As(err, &missing) || !slices.Equal(missing.Missing, tt.missing) {
					t.Errorf("Verify = %v, want a MissingScopesError of %v", err, tt.missing)
				}
			case tt.want != nil:
				if !errors.Is(err, tt.want) {
					t.Errorf("Verify = %v, want %v", err, tt.want)
				}
			case err != nil || identity.CompanyID != "c1":
				t.Errorf("Verify = %+v, %v, want company c1", identity, err)
			}
		})
	}
	if _, err := newKeys(newStore("c1", ""), nil).Verify(t.Context(), headerOf("new"), nil); err == nil {
		t.Error("Verify without an API = nil, want an error")
	}
}

func TestStage(t *testing.T) {
	tests := []struct {
		name       string
		have, next string // companies of the connection and the key
		wantErr    bool
	}{
		{"same company", "c1", "c1", false},
		{"other company", "c1", "c2", true},
		{"connection without a company", "", "c2", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			store := newStore(tt.have, "")
			_, err := newKeys(store, knows(nil)).Stage(t.Context(), apikey.Change{ConnectionID: "id-1", Key: credstore.NewSecret("next")}, credstore.Company{ID: tt.next})
			var other *credstore.OtherCompanyError
			if errors.As(err, &other) != tt.wantErr || (len(store.done) == 0) != tt.wantErr {
				t.Errorf("Stage = %v, did %v; want an error: %v", err, store.done, tt.wantErr)
			}
		})
	}
}

func TestRecheck(t *testing.T) {
	tests := []struct {
		name    string
		api     *fakeAPI
		store   *fakeStore
		change  func(*credstore.State) // of the stored state
		want    []string
		wantErr bool
	}{
		{name: "valid", api: knows(map[string]string{"current": "c1"}), store: newStore("c1", "next")},
		{name: "API unavailable", api: &fakeAPI{err: errors.New("timeout")}, store: newStore("c1", "next"), wantErr: true},
		{name: "rejected, valid next key", api: knows(map[string]string{"next": "c1"}), store: newStore("c1", "next"), want: []string{"promoted"}},
		{name: "rejected, no next key", api: knows(nil), store: newStore("c1", ""), want: []string{"key_rejected " + credstore.ReasonKeyRejected}},
		{name: "rejected, next key rejected", api: knows(nil), store: newStore("c1", "next"), want: []string{"key_rejected " + credstore.ReasonKeyRejected}},
		{name: "rejected, next key of another company", api: knows(map[string]string{"next": "c2"}), store: newStore("c1", "next"), want: []string{"key_rejected " + credstore.ReasonKeyRejected}},
		{name: "rejected, company unknown", api: knows(map[string]string{"next": "c1"}), store: newStore("", "next"), want: []string{"key_rejected " + credstore.ReasonKeyRejected}},
		{
			name: "still rejected", api: knows(nil), store: newStore("c1", ""),
			change: func(s *credstore.State) {
				s.Connection.Status, s.Connection.Reason = credstore.ReauthorizationRequired, credstore.ReasonKeyRejected
			},
		},
		{
			name: "accepted again", api: knows(map[string]string{"current": "c1"}), store: newStore("c1", ""),
			change: func(s *credstore.State) {
				s.Connection.Status, s.Connection.Reason = credstore.ReauthorizationRequired, credstore.ReasonKeyRejected
			},
			want: []string{"reinstated"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(&tt.store.state)
			}
			_, err := newKeys(tt.store, tt.api).Recheck(t.Context(), tt.store.state.Connection, headerOf("current"))
			if !slices.Equal(tt.store.done, tt.want) || (err != nil) != tt.wantErr {
				t.Errorf("Recheck did %v, %v; want %v, an error: %v", tt.store.done, err, tt.want, tt.wantErr)
			}
		})
	}
}

// The credential may change between the check and the lease.
func TestRecheckIgnoresChangedCredential(t *testing.T) {
	store := newStore("c1", "next")
	checked := store.state.Connection
	store.state.Credential.Version = 2
	if _, err := newKeys(store, knows(nil)).Recheck(t.Context(), checked, headerOf("current")); err != nil || len(store.done) > 0 {
		t.Errorf("Recheck did %v, %v; want nothing", store.done, err)
	}
}

func TestExpiry(t *testing.T) {
	got, err := apikey.Expiry("2031-01-31")
	if want := time.Date(2031, 2, 1, 0, 0, 0, 0, time.UTC); err != nil || !got.Equal(want) {
		t.Errorf("Expiry = %v, %v, want %v", got, err, want)
	}
	if _, err := apikey.Expiry("tomorrow"); err == nil {
		t.Error("Expiry of something else = nil, want an error")
	}
}

func TestTrim(t *testing.T) {
	for _, text := range []string{"key", " key\r\n", `"key"`, "\u00a0`key`\u200b"} {
		if got := apikey.Trim(text); got != "key" {
			t.Errorf("Trim(%q) = %q, want %q", text, got, "key")
		}
	}
}
