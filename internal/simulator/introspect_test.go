package simulator

import (
	"net/http"
	"net/url"
	"testing"
	"time"
)

func (b *env) introspect(token string) received {
	b.t.Helper()
	a, err := b.form("/oauth/token/introspect", url.Values{"token": {token}})
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func TestIntrospectionChangesNothing(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	for _, token := range []string{g.AccessToken, g.RefreshToken} {
		a := b.introspect(token)
		if a.member("active") != true || a.text("urn:pleo:params:oauth:subject_urn") != g.Subject || a.text("client_id") != g.ClientID {
			t.Errorf("introspection = %s, want active, of %s", a.body, g.Subject)
		}
	}
	b.mustRefresh(g.RefreshToken)
	for _, token := range []string{g.AccessToken, g.RefreshToken, "unknown"} {
		if a := b.introspect(token); a.body != "{\"active\":false}\n" {
			t.Errorf("introspection of an invalid token = %s, want active false only", a.body)
		}
	}
	if !b.Grants()[0].Live {
		t.Error("introspection of a used token revoked the grant")
	}
}

func TestIntrospectionOfExpiredTokens(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	b.advance(15 * time.Minute)
	if got := b.introspect(g.AccessToken).member("active"); got != false {
		t.Errorf("active = %v for an expired access token, want false", got)
	}
	if got := b.introspect(g.RefreshToken).member("active"); got != true {
		t.Errorf("active = %v for the refresh token, want true", got)
	}
}

func TestIntrospectionModes(t *testing.T) {
	tests := []struct {
		mode    string
		access  any
		refresh any
		status  int
	}{
		{"works", true, true, 200},
		{"access_only", true, false, 200},
		{"always_inactive", false, false, 200},
		{"always_active", true, true, 200},
		{"absent", nil, nil, 404},
	}
	for _, tt := range tests {
		b := newEnv(t, Settings{OAuth: OAuthSettings{Introspection: tt.mode}})
		g := b.grant(GrantRequest{})
		access, refresh := b.introspect(g.AccessToken), b.introspect(g.RefreshToken)
		if access.member("active") != tt.access || refresh.member("active") != tt.refresh || access.status != tt.status {
			t.Errorf("%s: access %d %s, refresh %s; want %d, %v and %v", tt.mode, access.status, access.body, refresh.body, tt.status, tt.access, tt.refresh)
		}
	}
}

func TestIntrospectionRequiresTheClientOfTheToken(t *testing.T) {
	b := newEnv(t, Settings{})
	if err := b.SetClient(Client{ID: "other", Secret: "s"}); err != nil {
		t.Fatal(err)
	}
	g := b.grant(GrantRequest{ClientID: "other"})
	if got := b.introspect(g.RefreshToken).member("active"); got != false {
		t.Errorf("active = %v for a token of another client, want false", got)
	}
	a := b.must("POST", "/oauth/token/introspect", "token=x", "Content-Type", "application/x-www-form-urlencoded")
	b.wantStatus(a, http.StatusUnauthorized)
	a = b.must("POST", "/oauth/token/introspect", `{"token":"x"}`, "Content-Type", "application/json", "Authorization", b.basic())
	b.wantStatus(a, http.StatusBadRequest)
}
