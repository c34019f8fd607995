package pleo

import (
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// acceptOnly returns a handler that rejects all client secrets but one.
func acceptOnly(secret *string, good func(http.ResponseWriter, recordedRequest)) func(http.ResponseWriter, recordedRequest) {
	return func(w http.ResponseWriter, req recordedRequest) {
		if req.Secret != *secret {
			respond(401, `{"error":"invalid_client"}`)(w, req)
			return
		}
		good(w, req)
	}
}

// clientSecrets returns the client secrets of the requests.
func clientSecrets(reqs []recordedRequest) []string {
	var secrets []string
	for _, r := range reqs {
		secrets = append(secrets, r.Secret)
	}
	return secrets
}

func TestPreviousClientSecret(t *testing.T) {
	tests := []struct {
		name              string
		current, previous string
		accepted          []string // by the server, for each refresh
		want              []string // the secrets sent
		ok                bool     // whether the last refresh succeeds
	}{
		{"not needed", "new", "old", []string{"new", "new"}, []string{"new", "new"}, true},
		{"used and remembered", "new", "old", []string{"old", "old"}, []string{"new", "old", "old"}, true},
		{"not used once the new one is accepted", "new", "old", []string{"old", "new", "new"}, []string{"new", "old", "old", "new", "new"}, true},
		{"both rejected", "new", "old", []string{"other"}, []string{"new", "old"}, false},
		{"none", "new", "", []string{"old"}, []string{"new"}, false},
		{"the same", "new", "new", []string{"old"}, []string{"new"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var accepted string
			server := record(t, acceptOnly(&accepted, respond(200, tokenResponse)))
			s := newServer(t, server.URL, func(c *ServerConfig) {
				c.ClientID, c.Auth = "id", BasicPlain
				c.ClientSecret, c.PreviousClientSecret = secret(tt.current), secret(tt.previous)
			})
			var err error
			for _, accepted = range tt.accepted {
				_, err = s.Refresh(t.Context(), credstore.NewSecret(sentToken))
			}
			if ok := err == nil; ok != tt.ok || !ok && !clientSecretRejected(err) {
				t.Errorf("Refresh = %v, want ok %v, else invalid_client", err, tt.ok)
			}
			if diff := cmp.Diff(tt.want, clientSecrets(server.requests())); diff != "" {
				t.Errorf("secrets sent differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewCurrentSecretIsTriedFirst(t *testing.T) {
	current, accepted := "new", "old"
	server := record(t, acceptOnly(&accepted, respond(200, tokenResponse)))
	s := newServer(t, server.URL, func(c *ServerConfig) {
		c.ClientID, c.Auth = "id", BasicPlain
		c.ClientSecret = func() credstore.Secret { return credstore.NewSecret(current) }
		c.PreviousClientSecret = secret("old")
	})
	for _, current = range []string{"new", "newer"} {
		if _, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken)); err != nil {
			t.Fatalf("Refresh = %v, want tokens", err)
		}
		accepted = "newer"
	}
	if diff := cmp.Diff([]string{"new", "old", "newer"}, clientSecrets(server.requests())); diff != "" {
		t.Errorf("secrets sent differ (-want +got):\n%s", diff)
	}
}

// TestPreviousSecretOnlyAfterInvalidClient checks that the refresh token is not sent
// again after any other response, because it may have been used up.
func TestPreviousSecretOnlyAfterInvalidClient(t *testing.T) {
	responses := map[string]func(http.ResponseWriter, recordedRequest){
		"rejected":       respond(400, `{"error":"invalid_grant"}`),
		"unauthorized":   respond(400, `{"error":"unauthorized_client"}`),
		"401":            respond(401, ``),
		"rate limited":   respond(429, `{"error":"invalid_client"}`),
		"server error":   respond(500, `{"error":"invalid_client"}`),
		"200":            respond(200, `{"error":"invalid_client"}`),
		"only mentioned": respond(400, `{"error":"invalid_request","error_description":"invalid_client"}`),
		"hung up":        func(http.ResponseWriter, recordedRequest) { panic(http.ErrAbortHandler) },
	}
	for name, response := range responses {
		server := record(t, response)
		s := newServer(t, server.URL, func(c *ServerConfig) { c.PreviousClientSecret = secret(previousSecret) })
		if _, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken)); err == nil {
			t.Errorf("%s: Refresh returns tokens, want an error", name)
		}
		if n := len(server.requests()); n != 1 {
			t.Errorf("%s: %d requests, want 1", name, n)
		}
	}
}

// TestPreviousSecretAfterTokenRejection checks that the outcome is that of the second
// request.
func TestPreviousSecretAfterTokenRejection(t *testing.T) {
	accepted := previousSecret
	server := record(t, func(w http.ResponseWriter, req recordedRequest) {
		acceptOnly(&accepted, respond(400, `{"error":"invalid_grant"}`))(w, req)
	})
	s := newServer(t, server.URL, func(c *ServerConfig) {
		c.ClientID, c.Auth, c.PreviousClientSecret = "id", BasicPlain, secret(previousSecret)
	})
	_, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
	var response *ResponseError
	if !errors.As(err, &response) || response.Class != TokenRejected {
		t.Errorf("Refresh = %v, want a rejection", err)
	}
}
