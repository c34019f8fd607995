package pleo

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const company = "8f14e45f-ceea-467f-a0e6-1d9c0c2b7a11"

func TestIntrospect(t *testing.T) {
	tests := []struct {
		name, body string
		want       Identity
	}{
		{
			"a company's token",
			`{"data":{"authMethod":"OAUTH2","clientId":"c","scope":"a b","applicationName":"App","subjectURN":"urn:pleo:company:` + company + `"}}`,
			Identity{AuthMethod: "OAUTH2", ClientID: "c", Scope: "a b", ApplicationName: "App", Subject: "urn:pleo:company:" + company, CompanyID: company},
		},
		{
			"a key without the optional members",
			`{"data":{"authMethod":"API_KEY","clientId":"c","scope":""}}`,
			Identity{AuthMethod: "API_KEY", ClientID: "c"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var header http.Header
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/v1/introspect" {
					t.Errorf("the request is %s %s, want GET /v1/introspect", r.Method, r.URL.Path)
				}
				header = r.Header.Clone()
				_, _ = w.Write([]byte(tt.body))
			}))
			defer server.Close()
			got, err := newAPI(t, server.URL).Introspect(t.Context(), credstore.NewSecret("Bearer tok"))
			if err != nil {
				t.Fatalf("Introspect = %v, want an identity", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Introspect: identity differs (-want +got):\n%s", diff)
			}
			want := http.Header{"Authorization": {"Bearer tok"}, "Accept": {"application/json"}, "Accept-Encoding": {"identity"}, "User-Agent": {"pleo-auth-proxy"}}
			if diff := cmp.Diff(want, header); diff != "" {
				t.Errorf("header differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompanyID(t *testing.T) {
	tests := map[string]string{
		"urn:pleo:company:" + company:                  company,
		"URN:Pleo:company:" + strings.ToUpper(company): company,
		"urn:pleo:organisation:" + company:             "",
		"urn:pleo:organization:" + company:             "",
		"urn:pleo:company:":                            "",
		"urn:pleo:company":                             "",
		"urn:pleo:company:a/b":                         "",
		"urn:pleo:company:" + strings.Repeat("a", 65):  "",
		"": "",
	}
	for urn, want := range tests {
		if got := companyID(urn); got != want {
			t.Errorf("companyID(%q) = %q, want %q", urn, got, want)
		}
	}
}

func TestIntrospectErrors(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
	}{
		{"unauthorized", 401, `{"type":"canary"}`},
		{"forbidden", 403, ``},
		{"rate limited", 429, ``},
		{"redirect", 307, ``},
		{"error", 502, `canary`},
		{"no data", 200, `{"authMethod":"OAUTH2"}`},
		{"page", 200, `<html>canary</html>`},
		{"empty", 200, ``},
		{"too long", 200, `{"data":{"authMethod":"` + strings.Repeat("y", maxResponseBody) + `"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := record(t, respond(tt.status, tt.body, "Location", "/canary", "Retry-After", "7"))
			_, err := newAPI(t, server.URL).Introspect(t.Context(), credstore.NewSecret("Bearer "+sentToken))
			if err == nil || errors.Is(err, ErrUnauthorized) != (tt.status == 401) {
				t.Errorf("Introspect with status %d = %v", tt.status, err)
			}
			var status *StatusError
			other := tt.status != 200 && tt.status != 401
			if errors.As(err, &status) != other || other && *status != (StatusError{tt.status, 7 * time.Second}) {
				t.Errorf("Introspect with status %d = %#v, want a StatusError: %v", tt.status, err, other)
			}
			assertNoSecret(t, err)
			if n := len(server.requests()); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

func TestInstallationSubject(t *testing.T) {
	const urn = "urn:pleo:company:0b9e6f1c-1111-4222-8333-444455556666"
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   string
		ok     bool
	}{
		{"installed", 200, `{"id":"i","resource":"` + urn + `","status":"ACTIVATED"}`, urn, true},
		{"other URN", 200, `{"resource":"urn:isbn:1"}`, "", true},
		{"no resource", 200, `{}`, "", true},
		{"page", 200, `<html>canary</html>`, "", false},
		{"not installed", 404, ``, "", false},
		{"unauthorized", 401, ``, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := record(t, respond(tt.status, tt.body))
			got, err := newAPI(t, server.URL).InstallationSubject(t.Context(), credstore.NewSecret("Bearer "+sentToken))
			if got != tt.want || (err == nil) != tt.ok {
				t.Errorf("InstallationSubject = %q, %v, want %q, ok %v", got, err, tt.want, tt.ok)
			}
			assertNoSecret(t, err)
			if r := server.requests(); len(r) != 1 || r[0].Method != http.MethodGet || r[0].Path != "/v1/installations/me" {
				t.Errorf("requests %+v, want one GET of /v1/installations/me", r)
			}
		})
	}
}

func TestUninstall(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		want   error
	}{
		{"no content", 204, nil},
		{"with a body", 200, nil},
		{"unauthorized", 401, ErrUnauthorized},
		{"not installed", 404, &StatusError{Status: 404, RetryAfter: 7 * time.Second}},
		{"server error", 502, &StatusError{Status: 502, RetryAfter: 7 * time.Second}},
		{"redirect", 308, &StatusError{Status: 308, RetryAfter: 7 * time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := record(t, respond(tt.status, "", "Location", "/canary", "Retry-After", "7"))
			err := newAPI(t, server.URL).Uninstall(t.Context(), credstore.NewSecret("Bearer "+sentToken))
			var got, want *StatusError
			switch {
			case errors.As(tt.want, &want):
				if !errors.As(err, &got) || *got != *want {
					t.Errorf("Uninstall with status %d = %v, want %v", tt.status, err, want)
				}
			case !errors.Is(err, tt.want):
				t.Errorf("Uninstall with status %d = %v, want %v", tt.status, err, tt.want)
			}
			if err != nil {
				assertNoSecret(t, err)
			}
			requests := server.requests()
			if len(requests) != 1 || requests[0].Method != http.MethodDelete || requests[0].Path != "/v1/installations/me" {
				t.Errorf("requests %+v, want one DELETE of /v1/installations/me", requests)
			}
		})
	}
}

func TestIntrospectWithoutCredential(t *testing.T) {
	server := record(t, respond(200, `{"data":{}}`))
	if _, err := newAPI(t, server.URL).Introspect(t.Context(), credstore.Secret{}); err == nil {
		t.Error("Introspect without a credential returns an identity, want an error")
	}
	if n := len(server.requests()); n != 0 {
		t.Errorf("%d requests, want 0", n)
	}
}

func TestIntrospectTimeout(t *testing.T) {
	var asked atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Store(true)
		<-r.Context().Done()
	}))
	defer server.Close()
	api := newAPI(t, server.URL)
	api.timeout = 500 * time.Millisecond
	_, err := api.Introspect(t.Context(), credstore.NewSecret("Bearer tok"))
	if err == nil || !asked.Load() {
		t.Errorf("Introspect without a response = %v, want an error", err)
	}
}

func TestAuthorizationHeader(t *testing.T) {
	full := credstore.Credential{
		AccessToken: credstore.NewSecret("tok"), RefreshToken: credstore.NewSecret("never"),
		APIKey: credstore.NewSecret("pls_key"), NextKey: credstore.NewSecret("never"),
	}
	tests := []struct {
		kind credstore.Kind
		c    credstore.Credential
		want string
	}{
		{credstore.OAuth, full, "Bearer tok"},
		{credstore.IntegratedKey, full, "Basic cGxzX2tleTo="},
		{credstore.StandaloneKey, full, "Basic cGxzX2tleTo="},
		{credstore.OAuth, credstore.Credential{APIKey: full.APIKey, RefreshToken: full.RefreshToken}, ""},
		{credstore.StandaloneKey, credstore.Credential{AccessToken: full.AccessToken, NextKey: full.NextKey}, ""},
	}
	for _, tt := range tests {
		if got := AuthorizationHeader(tt.kind, tt.c).Reveal(); got != tt.want {
			t.Errorf("AuthorizationHeader(%q) = %q, want %q", tt.kind, got, tt.want)
		}
	}
}
