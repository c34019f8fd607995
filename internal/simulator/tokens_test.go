package simulator

import (
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"
)

func TestRefreshWithOAuth2Client(t *testing.T) {
	b := newEnv(t, Settings{})
	g := b.grant(GrantRequest{})
	token, err := b.oauth2Config().TokenSource(t.Context(), &oauth2.Token{RefreshToken: g.RefreshToken}).Token()
	if err != nil {
		t.Fatalf("refreshing: %v", err)
	}
	b.wantToken(g.AccessToken, http.StatusUnauthorized) // the refresh invalidated it
	b.wantToken(token.AccessToken, http.StatusOK)
	if token.RefreshToken == g.RefreshToken {
		t.Error("the refresh token was not rotated")
	}
	if got := token.ExpiresIn; got != 900 {
		t.Errorf("expires_in = %v, want 900", got)
	}
	_, err = b.oauth2Config().TokenSource(t.Context(), &oauth2.Token{RefreshToken: g.RefreshToken}).Token()
	var rejected *oauth2.RetrieveError
	if !errors.As(err, &rejected) || rejected.ErrorCode != "invalid_refresh_token" {
		t.Fatalf("refreshing with a used token: %v, want invalid_refresh_token", err)
	}
	b.wantToken(token.AccessToken, http.StatusUnauthorized) // the grant is revoked
}

func TestAccessTokenExpires(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{AccessTokenLifetime: Duration(5 * time.Second)}})
	g := b.grant(GrantRequest{})
	b.advance(4 * time.Second)
	b.wantToken(g.AccessToken, http.StatusOK)
	b.advance(time.Second)
	b.wantToken(g.AccessToken, http.StatusUnauthorized)
}

func TestClientAuthentication(t *testing.T) {
	raw := base64.StdEncoding.EncodeToString([]byte(DefaultClientID + ":" + DefaultClientSecret))
	encoded := base64.StdEncoding.EncodeToString([]byte(DefaultClientID + ":" + url.QueryEscape(DefaultClientSecret)))
	inBody := url.Values{"client_id": {DefaultClientID}, "client_secret": {DefaultClientSecret}}
	tests := []struct {
		name    string
		methods []string
		field   string
		form    url.Values
		want    int
	}{
		{"basic by default", nil, "Basic " + encoded, nil, 200},
		{"plain is not basic", nil, "Basic " + raw, nil, 401},
		{"plain where set", []string{"basic_plain"}, "Basic " + raw, nil, 200},
		{"basic is not plain", []string{"basic_plain"}, "Basic " + encoded, nil, 401},
		{"post is rejected by default", nil, "", inBody, 401},
		{"post where set", []string{"post"}, "", inBody, 200},
		{"basic where only post is set", []string{"post"}, "Basic " + encoded, nil, 401},
		{"basic where both are set", []string{"basic", "post"}, "Basic " + encoded, nil, 200},
		{"both at once", []string{"basic", "post"}, "Basic " + encoded, inBody, 401},
		{"wrong secret", nil, "Basic " + base64.StdEncoding.EncodeToString([]byte(DefaultClientID+":x")), nil, 401},
		{"no authentication", nil, "", url.Values{"client_id": {DefaultClientID}}, 401},
		{"unknown client", nil, "Basic " + base64.StdEncoding.EncodeToString([]byte("x:y")), nil, 401},
		{"not base64", nil, "Basic ***", nil, 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newEnv(t, Settings{OAuth: OAuthSettings{ClientAuth: tt.methods}})
			form := refreshForm(b.grant(GrantRequest{}).RefreshToken)
			for name, values := range tt.form {
				form[name] = values
			}
			header := []string{"Content-Type", "application/x-www-form-urlencoded"}
			if tt.field != "" {
				header = append(header, "Authorization", tt.field)
			}
			a := b.must("POST", "/oauth/token", form.Encode(), header...)
			b.wantStatus(a, tt.want)
			if tt.want == 401 && a.text("error") != "invalid_client" {
				t.Errorf("error = %q, want invalid_client", a.text("error"))
			}
		})
	}
}

func TestTokenResponseForms(t *testing.T) {
	tests := []struct {
		name   string
		o      OAuthSettings
		member string
		want   any
	}{
		{"expires_in", OAuthSettings{}, "expires_in", 900.0},
		{"string", OAuthSettings{ExpiresIn: "string"}, "expires_in", "900"},
		{"fraction", OAuthSettings{ExpiresIn: "fraction", AccessTokenLifetime: Duration(1500 * time.Millisecond)}, "expires_in", 1.5},
		{"absent", OAuthSettings{ExpiresIn: "absent"}, "expires_in", nil},
		{"zero", OAuthSettings{ExpiresIn: "zero"}, "expires_in", 0.0},
		{"negative", OAuthSettings{ExpiresIn: "negative"}, "expires_in", -900.0},
		{"huge", OAuthSettings{ExpiresIn: "huge"}, "expires_in", 1e12},
		{"token_type", OAuthSettings{}, "token_type", "Bearer"},
		{"no token_type", OAuthSettings{Omit: []string{"token_type"}}, "token_type", nil},
		{"scope", OAuthSettings{}, "scope", strings.Join(AllScopes(), " ")},
		{"no scope", OAuthSettings{Omit: []string{"scope"}}, "scope", nil},
		{"no refresh_token", OAuthSettings{Omit: []string{"refresh_token"}}, "refresh_token", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newEnv(t, Settings{OAuth: tt.o})
			a := b.refresh(b.grant(GrantRequest{}).RefreshToken)
			b.wantStatus(a, http.StatusOK)
			if diff := cmp.Diff(tt.want, a.member(tt.member)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.member, diff)
			}
		})
	}
}

func TestExpiresInCanBeNull(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{ExpiresIn: "null"}})
	a := b.refresh(b.grant(GrantRequest{}).RefreshToken)
	if !strings.Contains(a.body, `"expires_in":null`) {
		t.Errorf("response = %s, want expires_in null", a.body)
	}
}

func TestOmittedRefreshTokenStaysValid(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{Omit: []string{"refresh_token"}}})
	g := b.grant(GrantRequest{})
	for range 3 {
		b.wantStatus(b.refresh(g.RefreshToken), http.StatusOK)
	}
}

func TestRefreshTokenFirst(t *testing.T) {
	for _, first := range []bool{false, true} {
		b := newEnv(t, Settings{OAuth: OAuthSettings{RefreshTokenFirst: first}})
		body := b.refresh(b.grant(GrantRequest{}).RefreshToken).body
		got := strings.Index(body, "refresh_token") < strings.Index(body, "access_token")
		if got != first {
			t.Errorf("RefreshTokenFirst %v: refresh token first = %v", first, got)
		}
	}
}

func TestRejectionForms(t *testing.T) {
	tests := []struct {
		name   string
		o      OAuthSettings
		status int
		want   string
	}{
		{"default", OAuthSettings{}, 400, "invalid_refresh_token"},
		{"RFC 6749", OAuthSettings{RejectionCode: "invalid_grant"}, 400, "invalid_grant"},
		{"status", OAuthSettings{RejectionStatus: 401}, 401, "invalid_refresh_token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newEnv(t, Settings{OAuth: tt.o}).refresh("unknown")
			if a.status != tt.status || a.text("error") != tt.want {
				t.Errorf("response = %d %s, want %d %s", a.status, a.body, tt.status, tt.want)
			}
		})
	}
}

func TestInvalidTokenRequests(t *testing.T) {
	form := "application/x-www-form-urlencoded"
	tests := []struct{ name, contentType, body, want string }{
		{"JSON", "application/json", `{"grant_type":"refresh_token"}`, "invalid_request"},
		{"twice", form, "grant_type=refresh_token&refresh_token=a&refresh_token=b", "invalid_request"},
		{"no grant type", form, "refresh_token=a", "invalid_request"},
		{"no token", form, "grant_type=refresh_token", "invalid_request"},
		{"other grant type", form, "grant_type=client_credentials", "unsupported_grant_type"},
		{"unknown code", form, "grant_type=authorization_code&code=x", "invalid_grant"},
		{"bad encoding", form, "grant_type=%zz", "invalid_request"},
	}
	b := newEnv(t, Settings{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := b.must("POST", "/oauth/token", tt.body, "Content-Type", tt.contentType, "Authorization", b.basic())
			if a.status != 400 || a.text("error") != tt.want {
				t.Errorf("response = %d %s, want 400 %s", a.status, a.body, tt.want)
			}
		})
	}
}

func TestUsedRefreshToken(t *testing.T) {
	tests := []struct {
		name       string
		o          OAuthSettings
		later      time.Duration
		wantStatus int
		wantLive   bool
	}{
		{"revokes the grant", OAuthSettings{}, 0, 400, false},
		{"is rejected", OAuthSettings{Reuse: "reject"}, 0, 400, true},
		{"within the grace", OAuthSettings{Grace: Duration(10 * time.Second)}, 9 * time.Second, 200, true},
		{"after the grace", OAuthSettings{Grace: Duration(10 * time.Second)}, 10 * time.Second, 400, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newEnv(t, Settings{OAuth: tt.o})
			g := b.grant(GrantRequest{})
			b.mustRefresh(g.RefreshToken)
			b.advance(tt.later)
			b.wantStatus(b.refresh(g.RefreshToken), tt.wantStatus)
			if got := b.Grants()[0].Live; got != tt.wantLive {
				t.Errorf("live = %v, want %v", got, tt.wantLive)
			}
		})
	}
}

func TestGraceAppliesOnce(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{Grace: Duration(time.Minute)}})
	g := b.grant(GrantRequest{})
	b.mustRefresh(g.RefreshToken)
	b.mustRefresh(g.RefreshToken)
	b.wantStatus(b.refresh(g.RefreshToken), http.StatusBadRequest)
}

func TestGraceDoesNotReviveARevokedGrant(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{Grace: Duration(time.Minute)}})
	g := b.grant(GrantRequest{})
	b.mustRefresh(g.RefreshToken)
	if err := b.RevokeGrant(g.ID); err != nil {
		t.Fatal(err)
	}
	b.wantStatus(b.refresh(g.RefreshToken), http.StatusBadRequest)
}

func TestExpiredRefreshToken(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{RefreshTokenLifetime: Duration(time.Hour)}})
	g := b.grant(GrantRequest{AccessTokenLifetime: Duration(2 * time.Hour)})
	b.advance(time.Hour)
	b.wantToken(g.AccessToken, http.StatusOK)
	b.wantStatus(b.refresh(g.RefreshToken), http.StatusBadRequest)
	if b.Grants()[0].Live {
		t.Error("the grant is live, want it revoked")
	}
}

func TestOldAccessTokenCanSurvive(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{OldAccessToken: "survives"}})
	g := b.grant(GrantRequest{})
	b.mustRefresh(g.RefreshToken)
	b.wantToken(g.AccessToken, http.StatusOK)
}

func TestRefreshTokenOfAnotherClient(t *testing.T) {
	b := newEnv(t, Settings{})
	if err := b.SetClient(Client{ID: "other", Secret: "s"}); err != nil {
		t.Fatal(err)
	}
	g := b.grant(GrantRequest{ClientID: "other"})
	b.wantStatus(b.refresh(g.RefreshToken), http.StatusBadRequest)
	if !b.Grants()[0].Live {
		t.Error("the request of another client revoked the grant")
	}
}

func TestOneOfManyConcurrentRefreshesSucceeds(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{Reuse: "reject"}})
	g := b.grant(GrantRequest{})
	var wg sync.WaitGroup
	statuses := make(chan int, 20)
	for range cap(statuses) {
		wg.Go(func() {
			if a, err := b.form("/oauth/token", refreshForm(g.RefreshToken)); err == nil {
				statuses <- a.status
			}
		})
	}
	wg.Wait()
	close(statuses)
	succeeded := 0
	for status := range statuses {
		if status == 200 {
			succeeded++
		}
	}
	if succeeded != 1 {
		t.Errorf("%d refreshes with one token succeeded, want 1", succeeded)
	}
	if got := b.Counters().MaxTimesSent; got != 20 {
		t.Errorf("times sent = %d, want 20", got)
	}
}

// TestOneActiveRefreshTokenPerLiveGrant sends requests in random order and checks
// all grants after each of them.
func TestOneActiveRefreshTokenPerLiveGrant(t *testing.T) {
	policies := []OAuthSettings{{}, {Reuse: "reject"}, {Grace: Duration(time.Minute)}, {Omit: []string{"refresh_token"}}}
	for seed, o := range policies {
		random := rand.New(rand.NewPCG(uint64(seed), 7))
		b := newEnv(t, Settings{OAuth: o})
		var tokens []string
		for step := range 300 {
			switch n := random.IntN(20); {
			case n == 0 || len(tokens) == 0:
				tokens = append(tokens, b.grant(GrantRequest{}).RefreshToken)
			case n == 1:
				_ = b.RevokeGrant(b.Grants()[random.IntN(len(b.Grants()))].ID) // it may be revoked already
			case n == 2:
				b.advance(20 * time.Second)
			case n < 5: // any token, most of them used
				tokens = appendToken(tokens, b.refresh(tokens[random.IntN(len(tokens))]))
			default: // the latest, most often valid
				tokens = appendToken(tokens, b.refresh(tokens[len(tokens)-1]))
			}
			checkActive(t, b, seed, step)
		}
	}
}

func appendToken(tokens []string, a received) []string {
	if token := a.text("refresh_token"); token != "" {
		return append(tokens, token)
	}
	return tokens
}

func checkActive(t *testing.T, b *env, seed, step int) {
	t.Helper()
	for _, g := range b.Grants() {
		want := 0
		if g.Live {
			want = 1
		}
		if g.ActiveRefreshTokens != want {
			t.Fatalf("policy %d, step %d: grant %s (live %v) has %d active refresh tokens, want %d", seed, step, g.ID, g.Live, g.ActiveRefreshTokens, want)
		}
	}
}
