package api

import (
	"net/http"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage/managetest"
)

func withToken(c *Config) {
	c.Token = func() credstore.Secret { return credstore.NewSecret(managetest.AdminToken) }
}

func exposed(c *Config) {
	withToken(c)
	c.Exposed = true
}

// TestExposedListenerRequiresTokenToRead also checks that health endpoints
// require none: they show only whether the program is ready.
func TestExposedListenerRequiresTokenToRead(t *testing.T) {
	h := newTestAPI(t, &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}, exposed).Handler(http.NotFoundHandler())
	for _, target := range []string{"/metrics", "/api/v1/connections", "/api/v1/connections/acme", "/api/v1/connections/unknown"} {
		for name, authorization := range map[string]string{
			"none": "", "wrong": "Bearer " + managetest.AdminToken + "x", "part": "Bearer canary", "empty": "Bearer ", "basic": "Basic " + managetest.AdminToken, "bare": managetest.AdminToken,
		} {
			w := request(h, "GET", target, map[string]string{"Authorization": authorization})
			if code := problemCode(t, w); w.Code != http.StatusUnauthorized || code != "admin_token_required" {
				t.Errorf("GET %s with %s token = %d %s, want 401 admin_token_required", target, name, w.Code, code)
			}
			if w.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("GET %s with %s token: 401 without WWW-Authenticate", target, name)
			}
		}
		if w := request(h, "GET", target, map[string]string{"Authorization": "bearer " + managetest.AdminToken}); w.Code == http.StatusUnauthorized {
			t.Errorf("GET %s with the token = 401", target)
		}
	}
	for _, target := range []string{"/livez", "/readyz"} {
		if w := request(h, "GET", target, nil); w.Code != http.StatusOK {
			t.Errorf("GET %s without a token = %d, want 200", target, w.Code)
		}
	}
}

// TestNoTokenConfigured checks that an empty token file does not match an empty
// token.
func TestNoTokenConfigured(t *testing.T) {
	for name, token := range map[string]func() credstore.Secret{
		"none": nil, "empty": func() credstore.Secret { return credstore.Secret{} },
	} {
		h := newTestAPI(t, &managetest.Store{}, func(c *Config) { c.Token, c.Exposed = token, true }).Handler(http.NotFoundHandler())
		for _, authorization := range []string{"", "Bearer ", "Bearer x"} {
			if w := request(h, "GET", "/metrics", map[string]string{"Authorization": authorization}); w.Code != http.StatusUnauthorized {
				t.Errorf("with %s token, GET with %q = %d, want 401", name, authorization, w.Code)
			}
		}
	}
}

// TestOriginBehindTLSProxy checks a listener without TLS behind a proxy that
// terminates it: Host is unchanged, and the origin of pages is https.
func TestOriginBehindTLSProxy(t *testing.T) {
	h := newTestAPI(t, &managetest.Store{}, nil).Handler(http.NotFoundHandler())
	header := map[string]string{"Host": "ops.example.com", "Origin": "https://ops.example.com"}
	if w := request(h, "GET", "/livez", header); w.Code != http.StatusOK {
		t.Errorf("GET with %v = %d, want 200", header, w.Code)
	}
}
