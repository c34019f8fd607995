package pleo

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// revealedTokens is Tokens with its secrets in clear, and without the time.
type revealedTokens struct {
	Access, Refresh string
	Lifetime        time.Duration
	Scope           string
}

func revealed(t Tokens) revealedTokens {
	return revealedTokens{t.AccessToken.Reveal(), t.RefreshToken.Reveal(), t.Lifetime, t.Scope}
}

func TestRefreshReadsTokens(t *testing.T) {
	full := revealedTokens{"at-1", "rt-2", 15 * time.Minute, "users:read export-jobs:read"}
	tests := []struct {
		name   string
		status int
		body   string
		want   revealedTokens
	}{
		{"all documented members", 200, tokenResponse, full},
		{"created", 201, tokenResponse, full},
		{"junk after the object", 200, tokenResponse + "canary", full},
		{"no refresh token", 200, `{"access_token":"a","expires_in":60}`, revealedTokens{Access: "a", Lifetime: time.Minute}},
		{"null refresh token", 200, `{"access_token":"a","refresh_token":null}`, revealedTokens{Access: "a"}},
		{"token type in capitals", 200, `{"access_token":"a","token_type":"BEARER"}`, revealedTokens{Access: "a"}},
		{"unknown token type", 200, `{"access_token":"a","token_type":"mac","refresh_token":"r"}`, revealedTokens{Refresh: "r"}},
		{"access token not valid in a header field", 200, `{"access_token":"a\nb","refresh_token":"r"}`, revealedTokens{Refresh: "r"}},
		{"only a refresh token", 200, `{"refresh_token":"r"}`, revealedTokens{Refresh: "r"}},
		{"escapes", 200, `{"access_token":"a\/\u0062","refresh_token":"r\"\\"}`, revealedTokens{Access: "a/b", Refresh: `r"\`}},
		{"nested", 200, `{"data":{"access_token":"a","refresh_token":"r"}}`, revealedTokens{Access: "a", Refresh: "r"}},
		{"after other text", 200, `<b>Warning</b> {"access_token":"a","refresh_token":"r"}`, revealedTokens{Access: "a", Refresh: "r"}},
		{"invalid JSON before it", 200, `{"access_token":"a","expires_in":NaN,"refresh_token":"r"}`, revealedTokens{Access: "a", Refresh: "r"}},
		{"invalid scope", 200, `{"access_token":"a","scope":"<b>\"x\"</b>"}`, revealedTokens{Access: "a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := record(t, respond(tt.status, tt.body))
			before := time.Now()
			got, err := newServer(t, server.URL).Refresh(t.Context(), credstore.NewSecret(sentToken))
			if err != nil {
				t.Fatalf("Refresh = %v, want tokens", err)
			}
			if diff := cmp.Diff(tt.want, revealed(got)); diff != "" {
				t.Errorf("Refresh: tokens differ (-want +got):\n%s", diff)
			}
			if got.SentAt.Before(before) || got.SentAt.After(time.Now()) {
				t.Errorf("SentAt = %v, want a time during the call", got.SentAt)
			}
		})
	}
}

func TestRefreshCountsLifetime(t *testing.T) {
	tests := map[string]time.Duration{
		`900`: 15 * time.Minute, `900.5`: 900*time.Second + 500*time.Millisecond, `9e2`: 15 * time.Minute,
		`"900"`: 15 * time.Minute, `" 900 "`: 15 * time.Minute, `86400`: 24 * time.Hour,
		`0`: 0, `-1`: 0, `"-900"`: 0, `null`: 0, `""`: 0, `"soon"`: 0, `"NaN"`: 0, `"Inf"`: 0, `{}`: 0, `[900]`: 0, `true`: 0,
		`86401`: 24 * time.Hour, `1e12`: 24 * time.Hour, `"1000000000000"`: 24 * time.Hour, `99999999999999999999`: 24 * time.Hour,
	}
	for value, want := range tests {
		got, ok := parseTokens([]byte(`{"access_token":"a","expires_in":` + value + `}`))
		if !ok || got.Lifetime != want {
			t.Errorf("expires_in %s: lifetime %v, ok %v, want %v", value, got.Lifetime, ok, want)
		}
	}
	if got, ok := parseTokens([]byte(`{"access_token":"a"}`)); !ok || got.Lifetime != 0 {
		t.Errorf("no expires_in: lifetime %v, ok %v, want 0", got.Lifetime, ok)
	}
}

func TestRefreshClassifiesErrorResponses(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
		class  Class
		code   string
	}{
		{"RFC 6749", 400, `{"error":"invalid_grant","error_description":"canary"}`, TokenRejected, "invalid_grant"},
		{"Pleo's code", 401, `{"error":"invalid_refresh_token"}`, TokenRejected, "invalid_refresh_token"},
		{"any 4xx", 422, `{"error":"invalid_grant"}`, TokenRejected, "invalid_grant"},
		{"in the type", 400, `{"type":"INVALID_REFRESH_TOKEN","message":"canary"}`, TokenRejected, "invalid_refresh_token"},
		{"in the description", 400, `{"error":"invalid_request","error_description":"canary: invalid_refresh_token."}`, TokenRejected, "invalid_refresh_token"},
		{"type as URL", 400, `{"type":"https://canary/errors/invalid_grant"}`, TokenRejected, "invalid_grant"},
		{"truncated after the code", 400, `{"error":"invalid_grant","error_desc`, TokenRejected, "invalid_grant"},
		{"client", 401, `{"error":"invalid_client"}`, ClientRejected, "invalid_client"},
		{"client in the type", 401, `{"type":"INVALID_CLIENT"}`, ClientRejected, "invalid_client"},
		{"client before a mention", 401, `{"error":"invalid_client","error_description":"no invalid_grant"}`, ClientRejected, "invalid_client"},
		{"unauthorized client", 400, `{"error":"unauthorized_client"}`, ClientRejected, "unauthorized_client"},
		{"grant type", 400, `{"error":"unsupported_grant_type"}`, ClientRejected, "unsupported_grant_type"},
		{"scope", 400, `{"error":"invalid_scope"}`, ClientRejected, "invalid_scope"},
		{"rate limited", 429, ``, RateLimited, ""},
		{"rate limited, with another code", 429, `{"error":"invalid_grant"}`, RateLimited, "invalid_grant"},
		{"other code", 400, `{"error":"invalid_request"}`, Unexpected, "invalid_request"},
		{"longer word", 400, `{"error":"invalid_request","error_description":"invalid_grant_type"}`, Unexpected, "invalid_request"},
		{"page", 403, `<html>canary invalid_grant</html>`, Unexpected, ""},
		{"empty", 404, ``, Unexpected, ""},
		{"code with other characters", 400, `{"error":"c\u00e9canary"}`, Unexpected, ""},
		{"long code", 400, `{"error":"canary` + strings.Repeat("y", 60) + `"}`, Unexpected, ""},
		{"not a string", 400, `{"error":{"canary":1}}`, Unexpected, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := record(t, respond(tt.status, tt.body))
			_, err := newServer(t, server.URL).Refresh(t.Context(), credstore.NewSecret(sentToken))
			var got *ResponseError
			if !errors.As(err, &got) {
				t.Fatalf("Refresh = %#v, want a ResponseError", err)
			}
			want := &ResponseError{Class: tt.class, Status: tt.status, Code: tt.code}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Refresh: error differs (-want +got):\n%s", diff)
			}
			assertNoSecret(t, err)
			if n := len(server.requests()); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

func TestRefreshUnknownOutcome(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
	}{
		{"internal error", 500, `{"error":"invalid_grant","x":"canary"}`},
		{"tokens with an error status", 500, tokenResponse},
		{"unavailable", 503, ``},
		{"not modified", 304, ``},
		{"moved", 307, ``},
		{"page", 200, `<html>canary</html>`},
		{"empty", 200, ``},
		{"no content", 204, ``},
		{"no token", 200, `{"canary":1}`},
		{"error with status 200", 200, `{"error":"invalid_grant","error_description":"canary"}`},
		{"access token of an unknown type", 200, `{"access_token":"canary","token_type":"mac"}`},
		{"array", 200, `["canary"]`},
		{"garbage", 200, "\x00\xffcanary"},
		{"truncated refresh token", 200, `{"access_token":"canary","refresh_token":"canary`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := record(t, respond(tt.status, tt.body, "Location", "/canary"))
			_, err := newServer(t, server.URL).Refresh(t.Context(), credstore.NewSecret(sentToken))
			var unknown *UnknownOutcomeError
			if !errors.As(err, &unknown) || unknown.Status != tt.status {
				t.Fatalf("Refresh = %#v, want an UnknownOutcomeError with status %d", err, tt.status)
			}
			assertNoSecret(t, err)
			if n := len(server.requests()); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

func TestRefreshFollowsNoRedirect(t *testing.T) {
	elsewhere := record(t, respond(200, tokenResponse))
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := record(t, respond(status, "", "Location", elsewhere.URL+"/oauth/token"))
		_, err := newServer(t, server.URL).Refresh(t.Context(), credstore.NewSecret(sentToken))
		var unknown *UnknownOutcomeError
		if !errors.As(err, &unknown) || unknown.Status != status {
			t.Errorf("Refresh with status %d = %v, want an UnknownOutcomeError with it", status, err)
		}
	}
	if reqs := elsewhere.requests(); len(reqs) > 0 {
		t.Errorf("the redirects were followed: %v", reqs)
	}
}

func TestRefreshReportsRetryAfter(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	tests := map[string]time.Duration{
		"120":                           2 * time.Minute,
		"0":                             0,
		"-5":                            0,
		"soon":                          0,
		"":                              0,
		"99999999999999999999":          24 * time.Hour,
		"Fri, 01 May 2026 12:01:30 GMT": 90 * time.Second,
		"Fri, 01 May 2026 11:00:00 GMT": 0,
		"Fri, 01 May 2099 12:00:00 GMT": 24 * time.Hour,
	}
	for value, want := range tests {
		for _, status := range []int{429, 503} {
			server := record(t, respond(status, "", "Retry-After", value))
			s := newServer(t, server.URL, func(c *ServerConfig) { c.Now = func() time.Time { return now } })
			_, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
			if got := retryAfterOf(err); got != want {
				t.Errorf("Retry-After %q with status %d: %v, want %v", value, status, got, want)
			}
		}
	}
}

func retryAfterOf(err error) time.Duration {
	var response *ResponseError
	if errors.As(err, &response) {
		return response.RetryAfter
	}
	var unknown *UnknownOutcomeError
	if errors.As(err, &unknown) {
		return unknown.RetryAfter
	}
	return -1
}

func TestRefreshRequest(t *testing.T) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {sentToken}}
	posted := url.Values{"client_id": {clientID}, "client_secret": {clientSecret}}
	for k, v := range form {
		posted[k] = v
	}
	tests := []struct {
		auth   ClientAuth
		decode func(string) (string, error) // of id and secret in the header
		form   url.Values
	}{
		{"", url.QueryUnescape, form},
		{Basic, url.QueryUnescape, form},
		{BasicPlain, func(s string) (string, error) { return s, nil }, form},
		{Post, nil, posted},
	}
	for _, tt := range tests {
		t.Run("auth "+string(tt.auth), func(t *testing.T) {
			server := record(t, respond(200, tokenResponse))
			s := newServer(t, server.URL+"/base/", func(c *ServerConfig) {
				c.Auth = tt.auth
				if tt.auth == BasicPlain {
					c.ClientID = "id" // RFC 7617 does not allow a colon
				}
			})
			if _, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken)); err != nil {
				t.Fatalf("Refresh = %v, want tokens", err)
			}
			want := recordedRequest{Method: "POST", Path: "/base/oauth/token", Basic: tt.decode != nil, Form: tt.form,
				Accept: "application/json", Encoding: "identity", Close: "close", Agent: "pleo-auth-proxy"}
			if tt.decode != nil {
				want.ID, want.Secret = s.clientID, clientSecret
			}
			if diff := cmp.Diff([]recordedRequest{want}, decodeBasic(t, server.requests(), tt.decode)); diff != "" {
				t.Errorf("requests differ (-want +got):\n%s", diff)
			}
		})
	}
}

// decodeBasic decodes the ids and secrets of requests by decode.
func decodeBasic(t *testing.T, reqs []recordedRequest, decode func(string) (string, error)) []recordedRequest {
	t.Helper()
	for i := range reqs {
		if decode == nil {
			continue
		}
		var err1, err2 error
		reqs[i].ID, err1 = decode(reqs[i].ID)
		reqs[i].Secret, err2 = decode(reqs[i].Secret)
		if err := errors.Join(err1, err2); err != nil {
			t.Errorf("decoding Basic: %v", err)
		}
	}
	return reqs
}

func TestRefreshUsesFreshConnections(t *testing.T) {
	server := record(t, respond(200, tokenResponse))
	dials := 0
	s := newServer(t, server.URL, func(c *ServerConfig) {
		dial := c.Transport.DialContext
		c.Transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return dial(ctx, network, address)
		}
	})
	for range 3 {
		if _, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken)); err != nil {
			t.Fatalf("Refresh = %v, want tokens", err)
		}
	}
	if dials != 3 {
		t.Errorf("%d connections for 3 requests, want 3", dials)
	}
}

func TestRefreshReadsSecretsEachTime(t *testing.T) {
	server := record(t, respond(200, tokenResponse))
	current := "first"
	s := newServer(t, server.URL, func(c *ServerConfig) {
		c.ClientSecret = func() credstore.Secret { return credstore.NewSecret(current) }
	})
	for _, want := range []string{"first", "second"} {
		current = want
		if _, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken)); err != nil {
			t.Fatalf("Refresh = %v, want tokens", err)
		}
		reqs := server.requests()
		if got := reqs[len(reqs)-1].Secret; got != want {
			t.Errorf("sent the secret %q, want %q", got, want)
		}
	}
}

func TestRefreshWithoutToken(t *testing.T) {
	server := record(t, respond(200, tokenResponse))
	_, err := newServer(t, server.URL).Refresh(t.Context(), credstore.Secret{})
	var notSent *NotSentError
	if !errors.As(err, &notSent) {
		t.Errorf("Refresh without a token = %v, want a NotSentError", err)
	}
	if n := len(server.requests()); n != 0 {
		t.Errorf("%d requests, want 0", n)
	}
}

func TestRefreshLimitsResponseSize(t *testing.T) {
	filler := strings.Repeat(" ", maxResponseBody)
	tests := []struct {
		name, body string
		want       revealedTokens
		known      bool
	}{
		{"tokens first", `{"access_token":"a","refresh_token":"r","x":"` + filler + `"}`, revealedTokens{Access: "a", Refresh: "r"}, true},
		{"tokens beyond", `{"x":"` + filler + `","access_token":"a","refresh_token":"r"}`, revealedTokens{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := record(t, respond(200, tt.body))
			got, err := newServer(t, server.URL).Refresh(t.Context(), credstore.NewSecret(sentToken))
			if known := err == nil; known != tt.known || revealed(got) != tt.want {
				t.Errorf("Refresh = %+v, %v, want %+v, known %v", revealed(got), err, tt.want, tt.known)
			}
		})
	}
}

func TestRefreshConcurrently(t *testing.T) {
	server := record(t, func(w http.ResponseWriter, req recordedRequest) {
		respond(200, `{"access_token":"a","refresh_token":"next-`+req.Form.Get("refresh_token")+`"}`)(w, req)
	})
	s := newServer(t, server.URL)
	results := make(chan string)
	for i := range 20 {
		token := string(rune('a' + i))
		go func() {
			got, err := s.Refresh(context.Background(), credstore.NewSecret(token))
			if err != nil || got.RefreshToken.Reveal() != "next-"+token {
				results <- "the successor of " + token + " went elsewhere"
				return
			}
			results <- ""
		}()
	}
	for range 20 {
		if mistake := <-results; mistake != "" {
			t.Error(mistake)
		}
	}
}
