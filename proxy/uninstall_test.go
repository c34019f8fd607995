package proxy

import (
	"net/http"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func TestUninstall(t *testing.T) {
	tests := []struct {
		name, method, path string
		kind               credstore.Kind
		status             int
		want               bool
	}{
		{"204", "DELETE", "/v1/installations/me", credstore.OAuth, 204, true},
		{"after the prefix", "DELETE", "/@acme/v1/installations/me", credstore.OAuth, 204, true},
		{"with a query", "DELETE", "/v1/installations/me?x=y", credstore.OAuth, 204, true},
		{"percent-encoded", "DELETE", "/v1/installations/%6de/", credstore.OAuth, 204, true},
		{"forbidden", "DELETE", "/v1/installations/me", credstore.OAuth, 403, false},
		{"not found", "DELETE", "/v1/installations/me", credstore.OAuth, 404, false},
		{"another method", "GET", "/v1/installations/me", credstore.OAuth, 204, false},
		{"another path", "DELETE", "/v1/expenses/me", credstore.OAuth, 204, false},
		{"a key", "DELETE", "/v1/installations/me", credstore.StandaloneKey, 204, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newFakeCredentials("acme")
			v.current["acme"].Kind = tt.kind
			r := newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(tt.status) }))
			if got := r.do(tt.method, tt.path, nil).StatusCode; got != tt.status {
				t.Fatalf("status = %d, want %d", got, tt.status)
			}
			if got := len(v.uninstalled) == 1 && v.uninstalled[0].Connection == "acme"; got != tt.want {
				t.Errorf("Uninstalled was called: %v, want %v", got, tt.want)
			}
		})
	}
}

// The token of the replay was revoked, not that of the first attempt.
func TestUninstallByReplay(t *testing.T) {
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	v.expire("acme")
	r.do("DELETE", "/v1/installations/me", nil)
	if len(v.uninstalled) != 1 || v.uninstalled[0].Version != 2 {
		t.Errorf("Uninstalled was called with %v, want version 2", v.uninstalled)
	}
}
