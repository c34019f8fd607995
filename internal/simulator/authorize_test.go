package simulator

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// visit opens an authorization request and returns the parameters of the redirect.
func (b *env) visit(target string) url.Values {
	b.t.Helper()
	a := b.must("GET", strings.TrimPrefix(target, b.url), "")
	b.wantStatus(a, http.StatusFound)
	return b.callback(a)
}

func (b *env) callback(a received) url.Values {
	b.t.Helper()
	to, err := url.Parse(a.header.Get("Location"))
	if err != nil || !strings.HasPrefix(to.String(), DefaultRedirectURI+"?") {
		b.t.Fatalf("redirected to %q, want %s", to, DefaultRedirectURI)
	}
	return to.Query()
}

func TestConsentWithOAuth2Client(t *testing.T) {
	b := newEnv(t, Settings{})
	company := b.Companies()[1]
	config, verifier := b.oauth2Config(), oauth2.GenerateVerifier()
	got := b.visit(config.AuthCodeURL("state1", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("sim_company", company.Name)))
	if got.Get("state") != "state1" {
		t.Errorf("state = %q, want state1", got.Get("state"))
	}
	token, err := config.Exchange(t.Context(), got.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatalf("exchanging the code: %v", err)
	}
	a := b.api("GET", "/v1/introspect", "", token.AccessToken)
	if want := "urn:pleo:company:" + company.ID; a.text("data.subjectURN") != want {
		t.Errorf("subject = %q, want %q", a.text("data.subjectURN"), want)
	}
	if a := b.api("GET", "/v1/installations/me", "", token.AccessToken); a.text("status") != "ACTIVATED" {
		t.Errorf("installation = %s, want it ACTIVATED", a.body)
	}
	if _, err := config.Exchange(t.Context(), got.Get("code"), oauth2.VerifierOption(verifier)); err == nil {
		t.Error("a code was accepted twice")
	}
	b.wantToken(token.AccessToken, http.StatusUnauthorized) // RFC 6749 section 4.1.2
}

func TestExchangeRejections(t *testing.T) {
	verifier := oauth2.GenerateVerifier()
	tests := []struct {
		name   string
		after  time.Duration
		change url.Values
	}{
		{"other verifier", 0, url.Values{"code_verifier": {oauth2.GenerateVerifier()}}},
		{"no verifier", 0, url.Values{"code_verifier": {""}}},
		{"short verifier", 0, url.Values{"code_verifier": {"short"}}},
		{"other redirect", 0, url.Values{"redirect_uri": {"http://127.0.0.1/other"}}},
		{"late", time.Minute, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newEnv(t, Settings{})
			got := b.visit(b.oauth2Config().AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)))
			b.advance(tt.after)
			form := url.Values{
				"grant_type": {"authorization_code"}, "code": {got.Get("code")},
				"redirect_uri": {DefaultRedirectURI}, "code_verifier": {verifier},
			}
			for name, values := range tt.change {
				form[name] = values
			}
			a, err := b.form("/oauth/token", form)
			if err != nil || a.status != 400 || a.text("error") != "invalid_grant" {
				t.Errorf("response = %d %s, %v; want 400 invalid_grant", a.status, a.body, err)
			}
			if len(b.Grants()) != 0 {
				t.Error("a grant was issued")
			}
		})
	}
}

func TestAuthorizationRequestErrors(t *testing.T) {
	challenge := oauth2.S256ChallengeOption(oauth2.GenerateVerifier())
	set := oauth2.SetAuthURLParam
	tests := []struct {
		name    string
		consent string
		options []oauth2.AuthCodeOption
		want    string
	}{
		{"denied", "deny", []oauth2.AuthCodeOption{challenge}, "access_denied"},
		{"no PKCE", "", nil, "invalid_request"},
		{"plain PKCE", "", []oauth2.AuthCodeOption{challenge, set("code_challenge_method", "plain")}, "invalid_request"},
		{"foreign scope", "", []oauth2.AuthCodeOption{challenge, set("scope", "everything:write")}, "invalid_scope"},
		{"implicit", "", []oauth2.AuthCodeOption{challenge, set("response_type", "token")}, "unsupported_response_type"},
		{"unknown company", "", []oauth2.AuthCodeOption{challenge, set("sim_company", "unknown")}, "invalid_request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newEnv(t, Settings{OAuth: OAuthSettings{Consent: tt.consent}})
			got := b.visit(b.oauth2Config().AuthCodeURL("s1", tt.options...))
			if got.Get("error") != tt.want || got.Get("state") != "s1" || got.Has("code") {
				t.Errorf("callback = %v, want error %s, the state and no code", got, tt.want)
			}
		})
	}
}

func TestNoRedirectToUnregisteredURI(t *testing.T) {
	b := newEnv(t, Settings{})
	for name, change := range map[string]oauth2.AuthCodeOption{
		"client":     oauth2.SetAuthURLParam("client_id", "unknown"),
		"redirect":   oauth2.SetAuthURLParam("redirect_uri", DefaultRedirectURI+"/"),
		"other host": oauth2.SetAuthURLParam("redirect_uri", "http://evil.example/"),
	} {
		target := b.oauth2Config().AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()), change)
		a := b.must("GET", strings.TrimPrefix(target, b.url), "")
		if a.status != 400 || a.header.Get("Location") != "" {
			t.Errorf("%s: response = %d to %q, want 400 and no redirect", name, a.status, a.header.Get("Location"))
		}
	}
}

func TestConsentPage(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{Consent: "page"}})
	target := b.oauth2Config().AuthCodeURL(`"><script>`, oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
	page := b.must("GET", strings.TrimPrefix(target, b.url), "")
	b.wantStatus(page, http.StatusOK)
	if strings.Contains(page.body, "<script>") {
		t.Error("the page does not escape the state")
	}
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	for decision, want := range map[string]string{"allow": "code", "deny": "error", "": "error"} {
		form := u.Query()
		form.Set("decision", decision)
		form.Set("sim_company", b.Companies()[2].ID)
		a, err := b.form("/oauth/authorize", form)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.callback(a); !got.Has(want) {
			t.Errorf("decision %q: callback = %v, want %s", decision, got, want)
		}
	}
}

func TestIssuerInCallbackAndSubjectInRequest(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{IssuerInCallback: true}})
	company := b.Companies()[1]
	config, verifier := b.oauth2Config(), oauth2.GenerateVerifier()
	got := b.visit(config.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier),
		oauth2.SetAuthURLParam("urn_pleo_params_oauth_subject", "urn:pleo:company:"+company.ID)))
	if got.Get("iss") != b.url {
		t.Errorf("iss = %q, want %q", got.Get("iss"), b.url)
	}
	if _, err := config.Exchange(t.Context(), got.Get("code"), oauth2.VerifierOption(verifier)); err != nil {
		t.Fatalf("exchanging the code: %v", err)
	}
	if got := b.Grants()[0].Company; got != company.ID {
		t.Errorf("the grant is for company %s, want %s, which the request named", got, company.ID)
	}
}

func TestOptionalPKCE(t *testing.T) {
	b := newEnv(t, Settings{Clients: []Client{{
		ID: DefaultClientID, Secret: DefaultClientSecret, RedirectURIs: []string{DefaultRedirectURI}, PKCEOptional: true,
	}}})
	got := b.visit(b.oauth2Config().AuthCodeURL("s"))
	if _, err := b.oauth2Config().Exchange(t.Context(), got.Get("code")); err != nil {
		t.Errorf("exchanging a code without PKCE: %v", err)
	}
}

func TestConsentToFewerScopesThanRequested(t *testing.T) {
	b := newEnv(t, Settings{OAuth: OAuthSettings{GrantScopes: []string{"users:read", "test:test"}}})
	config, verifier := b.oauth2Config(), oauth2.GenerateVerifier()
	config.Scopes = []string{"users:read", "companies:read"}
	got := b.visit(config.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)))
	token, err := config.Exchange(t.Context(), got.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatalf("exchanging the code: %v", err)
	}
	if got := token.Extra("scope"); got != "users:read" {
		t.Errorf("scope = %q, want users:read", got)
	}
	if a := b.api("GET", "/v1/introspect", "", token.AccessToken); a.text("data.scope") != "users:read" {
		t.Errorf("introspection = %s, want users:read only", a.body)
	}
}
