package refresh

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// A client that finds out how to authenticate by trying sends a refresh token
// twice, and the second time it has been exchanged.
func TestRule14AuthStyleIsConfigured(t *testing.T) {
	for _, auth := range []pleo.ClientAuth{pleo.Basic, pleo.Post, pleo.BasicPlain} {
		t.Run(string(auth), func(t *testing.T) {
			var sent atomic.Int32
			endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.FormValue("refresh_token") == "token" {
					sent.Add(1)
				}
				_, _, basic := r.BasicAuth()
				if basic != (auth != pleo.Post) {
					t.Errorf("Basic %v, want the style that is set", basic)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
			}))
			defer endpoint.Close()
			base, err := url.Parse(endpoint.URL)
			if err != nil {
				t.Fatal(err)
			}
			server, err := pleo.NewAuthorizationServer(pleo.ServerConfig{
				URL: base, ClientID: "client", Auth: auth, Transport: &http.Transport{DialContext: new(net.Dialer).DialContext},
				ClientSecret: func() credstore.Secret { return credstore.NewSecret("secret") },
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = server.Refresh(context.Background(), credstore.NewSecret("token"))
			var response *pleo.ResponseError
			if !errors.As(err, &response) || response.Class != pleo.ClientRejected {
				t.Errorf("Refresh = %v, want a rejected client", err)
			}
			if n := sent.Load(); n != 1 {
				t.Errorf("the refresh token was sent %d times, want once", n)
			}
		})
	}
}
