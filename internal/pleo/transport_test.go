package pleo

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
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
			t.Errorf("EndpointsOf(%q) = %v, %v, want %v", environment, got, ok, want)
		}
	}
	for _, environment := range []string{"", "custom", "Production"} {
		if got, ok := EndpointsFor(environment); ok {
			t.Errorf("EndpointsOf(%q) = %v, want none", environment, got)
		}
	}
}

func TestNewTransportErrors(t *testing.T) {
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("not a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, says string
		cfg        TransportConfig
	}{
		{"no such CA file", "missing.pem", TransportConfig{CAFile: "missing.pem"}},
		{"CA file without a certificate", "no PEM certificate", TransportConfig{CAFile: junk}},
		{"scheme of the proxy", `"ftp"`, TransportConfig{ProxyURL: mustURL(t, "ftp://u:canary@host")}},
		{"proxy without a host", "no host", TransportConfig{ProxyURL: mustURL(t, "http://u:canary@/x")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := NewTransport(tt.cfg)
			if err == nil || got != nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("NewTransport = %v, %v, want an error that says %q", got, err, tt.says)
			}
			assertNoSecret(t, err)
		})
	}
}

func TestNewTransportIgnoresTheEnvironment(t *testing.T) {
	proxy := record(t, respond(502, ""))
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	transport, err := NewTransport(TransportConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if transport.Proxy != nil {
		t.Error("the transport asks somebody for a proxy, want none")
	}
}

// TestTransportPassesResponsesThrough: HTTP/1.1 even where the server offers 2, TLS
// verified by the given authority, and no header or decompression of its own.
func TestTransportPassesResponsesThrough(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %q", r.Proto, r.Header.Values("Accept-Encoding"))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	transport, err := NewTransport(TransportConfig{CAFile: caFile(t, server)})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	req := httptest.NewRequest(http.MethodGet, server.URL, nil)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("RoundTrip: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := readBody(t.Context(), resp.Body)
	if got, want := string(body), "HTTP/1.1 []"; err != nil || got != want {
		t.Errorf("the server saw %s, %v, want %s", got, err, want)
	}
	if transport.TLSClientConfig.MinVersion != tls.VersionTLS12 || transport.MaxIdleConnsPerHost < 256 {
		t.Errorf("TLS from %x, %d idle connections, want 1.2 and at least 256",
			transport.TLSClientConfig.MinVersion, transport.MaxIdleConnsPerHost)
	}
}

func TestNewAuthorizationServerErrors(t *testing.T) {
	tests := []struct {
		name, says string
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
		{"CA file", "CA file", func(c *ServerConfig) { c.Transport.CAFile = "missing.pem" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := ServerConfig{URL: mustURL(t, "https://host"), ClientID: "id", ClientSecret: secret(clientSecret)}
			tt.change(&cfg)
			_, err := NewAuthorizationServer(cfg)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("NewAuthorizationServer = %v, want an error that says %q", err, tt.says)
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
	s := newServer(t, server.URL, func(c *ServerConfig) { c.Transport.CAFile = caFile(t, server) })
	got, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
	if err != nil || got.RefreshToken.Reveal() != "rt-2" {
		t.Errorf("Refresh = %+v, %v, want tokens", revealed(got), err)
	}
}
