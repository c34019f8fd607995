package pleo

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func TestActive(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
		active bool
		ok     bool
	}{
		{"active", 200, `{"active":true,"sub":"x","exp":1}`, true, true},
		{"inactive", 200, `{"active":false}`, false, true},
		{"wrong types of other members", 200, `{"active":true,"sub":7,"urn:pleo:params:oauth:subject_urn":["x"]}`, true, true},
		{"absent", 200, `{"sub":"x"}`, false, false},
		{"null", 200, `{"active":null}`, false, false},
		{"string", 200, `{"active":"true"}`, false, false},
		{"page", 200, `<html>canary</html>`, false, false},
		{"empty", 200, ``, false, false},
		{"other success", 202, `{"active":false}`, false, false},
		{"redirect", 302, `{"active":false}`, false, false},
		{"client rejected", 401, `{"active":false}`, false, false},
		{"forbidden", 403, `{"active":false}`, false, false},
		{"rate limited", 429, `{"active":false}`, false, false},
		{"error", 500, `{"active":false}`, false, false},
		{"too long", 200, `{"active":false,"x":"` + strings.Repeat(" ", maxResponseBody) + `"}`, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := record(t, respond(tt.status, tt.body))
			got, err := newServer(t, server.URL).Active(t.Context(), credstore.NewSecret(sentToken), "refresh_token")
			if got != tt.active || (err == nil) != tt.ok || errors.Is(err, ErrIntrospectionUnsupported) {
				t.Errorf("Active = %v, %v, want %v, ok %v", got, err, tt.active, tt.ok)
			}
			assertNoSecret(t, err)
		})
	}
}

func TestSubject(t *testing.T) {
	const urn, other = "urn:pleo:company:0b9e6f1c-1111-4222-8333-444455556666", "urn:pleo:organisation:1"
	for _, tt := range []struct {
		name, body, want string
		ok               bool
	}{
		{"documented member", `{"active":true,"sub":"0b9e6f1c","urn:pleo:params:oauth:subject_urn":"` + urn + `"}`, urn, true},
		{"in sub", `{"active":true,"sub":"` + other + `"}`, other, true},
		{"both members", `{"active":true,"sub":"` + other + `","urn:pleo:params:oauth:subject_urn":"` + urn + `"}`, urn, true},
		{"id without a URN", `{"active":true,"sub":"0b9e6f1c-1111-4222-8333-444455556666"}`, "", true},
		{"other URN", `{"active":true,"sub":"urn:isbn:1"}`, "", true},
		{"too long", `{"active":true,"sub":"` + urn + strings.Repeat("x", maxSubject) + `"}`, "", true},
		{"absent", `{"active":true}`, "", true},
		{"inactive token", `{"active":false,"sub":"` + urn + `"}`, "", true},
		{"no active member", `{"sub":"` + urn + `"}`, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := record(t, respond(200, tt.body))
			got, err := newServer(t, server.URL).Subject(t.Context(), credstore.NewSecret(sentToken))
			if got != tt.want || (err == nil) != tt.ok {
				t.Errorf("Subject = %q, %v, want %q, ok %v", got, err, tt.want, tt.ok)
			}
			assertNoSecret(t, err)
			if r := server.requests(); len(r) != 1 || r[0].Form.Get("token_type_hint") != "access_token" {
				t.Errorf("requests %+v, want one about an access token", r)
			}
		})
	}
}

func TestActiveWithoutIntrospection(t *testing.T) {
	server := record(t, respond(404, `{"active":true}`))
	_, err := newServer(t, server.URL).Active(t.Context(), credstore.NewSecret(sentToken), "")
	if !errors.Is(err, ErrIntrospectionUnsupported) {
		t.Errorf("Active = %v, want ErrIntrospectionUnsupported", err)
	}
}

func TestActiveUnreachable(t *testing.T) {
	_, err := newServer(t, "http://"+closedPort(t)).Active(t.Context(), credstore.NewSecret(sentToken), "")
	if err == nil || errors.Is(err, ErrIntrospectionUnsupported) {
		t.Errorf("Active = %v, want an error that is not ErrIntrospectionUnsupported", err)
	}
}

func TestActiveRequest(t *testing.T) {
	tests := []struct {
		auth   ClientAuth
		hint   string
		decode func(string) (string, error)
		form   url.Values
	}{
		{Basic, "refresh_token", url.QueryUnescape, url.Values{"token": {sentToken}, "token_type_hint": {"refresh_token"}}},
		{BasicPlain, "", func(s string) (string, error) { return s, nil }, url.Values{"token": {sentToken}}},
		{Post, "", nil, url.Values{"token": {sentToken}, "client_id": {"id"}, "client_secret": {clientSecret}}},
	}
	for _, tt := range tests {
		t.Run(string(tt.auth), func(t *testing.T) {
			server := record(t, respond(200, `{"active":true}`))
			s := newServer(t, server.URL, func(c *ServerConfig) { c.ClientID, c.Auth = "id", tt.auth })
			if _, err := s.Active(t.Context(), credstore.NewSecret(sentToken), tt.hint); err != nil {
				t.Fatalf("Active = %v, want a result", err)
			}
			want := recordedRequest{Method: "POST", Path: "/oauth/token/introspect", Basic: tt.decode != nil, Form: tt.form,
				Accept: "application/json", Encoding: "identity", Close: "close", Agent: "pleo-auth-proxy"}
			if tt.decode != nil {
				want.ID, want.Secret = "id", clientSecret
			}
			if diff := cmp.Diff([]recordedRequest{want}, decodeBasic(t, server.requests(), tt.decode)); diff != "" {
				t.Errorf("requests differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestActiveTriesThePreviousSecret(t *testing.T) {
	accepted := "old"
	server := record(t, acceptOnly(&accepted, respond(200, `{"active":true}`)))
	s := newServer(t, server.URL, func(c *ServerConfig) {
		c.ClientID, c.Auth = "id", BasicPlain
		c.ClientSecret, c.PreviousClientSecret = secret("new"), secret("old")
	})
	got, err := s.Active(t.Context(), credstore.NewSecret(sentToken), "")
	if !got || err != nil {
		t.Errorf("Active = %v, %v, want true", got, err)
	}
	// The refresh starts with the secret that was accepted.
	if _, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken)); err == nil {
		t.Error("Refresh returns tokens from an introspection response")
	}
	if diff := cmp.Diff([]string{"new", "old", "old"}, clientSecrets(server.requests())); diff != "" {
		t.Errorf("secrets sent differ (-want +got):\n%s", diff)
	}
}
