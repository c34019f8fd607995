package pleo

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func TestEndpointsFor(t *testing.T) {
	tests := map[string][2]string{
		"production": {"https://external.pleo.io", "https://auth.pleo.io"},
		"staging":    {"https://external.staging.pleo.io", "https://auth.staging.pleo.io"},
	}
	for environment, want := range tests {
		got, ok := EndpointsFor(environment)
		if !ok || got.API.String() != want[0] || got.Auth.String() != want[1] {
			t.Errorf("EndpointsFor(%q) = %v, %v, want %v", environment, got, ok, want)
		}
	}
	for _, environment := range []string{"", "custom", "Production"} {
		if got, ok := EndpointsFor(environment); ok {
			t.Errorf("EndpointsFor(%q) = %v, want none", environment, got)
		}
	}
}

func TestNewAuthorizationServerErrors(t *testing.T) {
	tests := []struct {
		name, want string
		change     func(*ServerConfig)
	}{
		{"no URL", "URL", func(c *ServerConfig) { c.URL = nil }},
		{"no host", "URL", func(c *ServerConfig) { c.URL = &url.URL{Scheme: "https", Path: "/canary"} }},
		{"other scheme", "URL", func(c *ServerConfig) { c.URL = mustURL(t, "ftp://canary") }},
		{"user", "user", func(c *ServerConfig) { c.URL = mustURL(t, "https://u:canary@host") }},
		{"query", "query", func(c *ServerConfig) { c.URL = mustURL(t, "https://host?canary") }},
		{"no client id", "client id", func(c *ServerConfig) { c.ClientID = "" }},
		{"no client secret", "client secret", func(c *ServerConfig) { c.ClientSecret = nil }},
		{"client authentication", "basic_plain", func(c *ServerConfig) { c.Auth = "auto" }},
		{"colon", "colon", func(c *ServerConfig) { c.ClientID, c.Auth = "a:b", BasicPlain }},
		{"no transport", "transport", func(c *ServerConfig) { c.Transport = nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := ServerConfig{URL: mustURL(t, "https://host"), ClientID: "id", ClientSecret: secret(clientSecret), Transport: &http.Transport{}}
			tt.change(&cfg)
			_, err := NewAuthorizationServer(cfg)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewAuthorizationServer = %v, want an error that contains %q", err, tt.want)
			}
			assertNoSecret(t, err)
		})
	}
}

func TestRefreshOverTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(tokenResponse))
	}))
	defer server.Close()
	s := newServer(t, server.URL, func(c *ServerConfig) { c.Transport.TLSClientConfig.RootCAs = rootsOf(server) })
	got, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
	if err != nil || got.RefreshToken.Reveal() != "rt-2" {
		t.Errorf("Refresh = %+v, %v, want tokens", revealed(got), err)
	}
}
