package pleo

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

// TestErrorsDoNotRepeatSecrets checks errors and the log with a server that repeats
// what it was sent in every possible place.
func TestErrorsDoNotRepeatSecrets(t *testing.T) {
	pieces := []string{sentToken, clientSecret, url.QueryEscape(sentToken), url.QueryEscape(clientSecret), "canary-K4x7W", "canary-P2m6V"}
	shapes := []string{`{"error":%q}`, `{"type":%q}`, `{"error":"invalid_request","error_description":%q}`, `{"error":"invalid_grant","error_description":%q}`, `%s`}
	core, logs := observer.New(zap.DebugLevel)
	for _, auth := range []ClientAuth{Basic, Post, BasicPlain} {
		for i, shape := range shapes {
			for _, piece := range pieces {
				server := record(t, respond([]int{400, 401, 429, 500, 200}[i], fmt.Sprintf(shape, piece)))
				s := newServer(t, server.URL, func(c *ServerConfig) {
					c.ClientID, c.Auth, c.Logger = "id", auth, zap.New(core)
					c.PreviousClientSecret = secret(previousSecret)
				})
				_, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
				_, err2 := s.Active(t.Context(), credstore.NewSecret(sentToken), "")
				if err == nil || err2 == nil {
					t.Fatalf("Refresh = %v, Active = %v, want errors", err, err2)
				}
				assertNoSecret(t, err)
				assertNoSecret(t, err2)
			}
		}
	}
	for _, entry := range logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "canary") {
			t.Errorf("the log contains a secret: %s", text)
		}
	}
}

// TestErrorsDoNotRepeatInvalidHeaders checks that quotes by net/http do not appear.
func TestErrorsDoNotRepeatInvalidHeaders(t *testing.T) {
	heads := []string{"HTTP/1.1 %s", "%s 200 OK", "HTTP/1.1 200 OK\r\n%s\r\n", "HTTP/1.1 200 OK\r\nContent-Length: %s", "HTTP/1.1 200 OK\r\nTransfer-Encoding: %s"}
	for _, head := range heads {
		address := tcpServer(t, func(conn *net.TCPConn) {
			_, _ = readRequest(conn)
			_, _ = io.WriteString(conn, fmt.Sprintf(head, "canary")+"\r\n\r\n")
		})
		_, err := newServer(t, "http://"+address).Refresh(t.Context(), credstore.NewSecret(sentToken))
		_, err2 := newAPI(t, "http://user:canary@"+address+"?canary=1").Introspect(t.Context(), credstore.NewSecret(sentToken))
		if err == nil || err2 == nil {
			t.Errorf("header %q: Refresh = %v, Introspect = %v, want errors", head, err, err2)
		}
		assertNoSecret(t, err)
		assertNoSecret(t, err2)
	}
}

func TestSafeCode(t *testing.T) {
	sent := []credstore.Secret{credstore.NewSecret("s3cret/with+odd chars"), credstore.NewSecret("tiny"), {}}
	tests := map[string]string{
		"":                         "",
		"temporarily_unavailable":  "temporarily_unavailable",
		"SOME.Code-7":              "SOME.Code-7",
		"no s3cret/with+odd chars": "",
		"s3cret":                   "",
		"cret/w":                   "",
		"cret/":                    "cret/",
		"With%2Fodd":               "With%2Fodd",
		"t%2Fwith%2Bodd":           "",
		"a tiny mistake":           "",
		"quote\"d":                 "",
		"back\\slash":              "",
		"line\nbreak":              "",
		"caf\u00e9":                "",
		strings.Repeat("y", 64):    strings.Repeat("y", 64),
		strings.Repeat("y", 65):    "",
	}
	for code, want := range tests {
		if got := safeCode(code, sent); got != want {
			t.Errorf("safeCode(%q) = %q, want %q", code, got, want)
		}
	}
}

// FuzzNoSecretInTokenError checks for any status and body that there is exactly one
// outcome, no tokens without a successful status, and no part of what was sent in an
// error.
func FuzzNoSecretInTokenError(f *testing.F) {
	for _, body := range tokenResponses {
		f.Add(200, []byte(body), false)
		f.Add(200, []byte(body[:len(body)/2]), true)
		f.Add(503, []byte(body), false)
	}
	f.Add(400, []byte(`{"error":"invalid_grant"}`), false)
	f.Add(400, []byte(`{"error":"`+sentToken+`"}`), false)
	f.Add(401, []byte(`{"type":"INVALID_CLIENT","error_description":"`+clientSecret), true)
	f.Add(429, []byte(`{"refresh_token":"\ud800","refresh_token":{}}`), false)
	f.Add(200, []byte(`{"refresh_token":"\`), true)
	f.Fuzz(func(t *testing.T, status int, body []byte, broken bool) {
		a := &response{status: status, body: body}
		if broken {
			a.bodyErr = io.ErrUnexpectedEOF
		}
		tokens, err := a.tokens(credstore.NewSecret(sentToken), credstore.NewSecret(clientSecret))
		checkOutcome(t, a, tokens, err)
	})
}

func checkOutcome(t *testing.T, a *response, tokens Tokens, err error) {
	t.Helper()
	var response *ResponseError
	var unknown *UnknownOutcomeError
	switch {
	case err == nil:
		if !a.success() || tokens.AccessToken.IsZero() && tokens.RefreshToken.IsZero() {
			t.Errorf("response %d %q: tokens %+v, want an error", a.status, a.body, revealed(tokens))
		}
		if tokens.Lifetime < 0 || tokens.Lifetime > maxLifetime || !isTokenText(tokens.AccessToken.Reveal()) {
			t.Errorf("response %d %q: tokens %+v cannot be used", a.status, a.body, revealed(tokens))
		}
	case errors.As(err, &response):
		if !a.clientError() || !slices.Contains([]Class{TokenRejected, ClientRejected, RateLimited, Unexpected}, response.Class) {
			t.Errorf("response %d %q: %#v, want another error", a.status, a.body, err)
		}
	case !errors.As(err, &unknown):
		t.Errorf("response %d %q: %#v, want one of the outcomes", a.status, a.body, err)
	}
	text := fmt.Sprintf("%v %+v %#v", err, err, err)
	for _, s := range []string{sentToken, clientSecret} {
		if err != nil && repeatsSecret(text, s) {
			t.Errorf("response %d %q: the error contains a part of %q: %s", a.status, a.body, s, text)
		}
	}
}

// newAPI returns the API at base.
func newAPI(t testing.TB, base string) *API {
	t.Helper()
	return NewAPI(APIConfig{URL: mustURL(t, base), Transport: newTransport(t, outbound.Config{})})
}

var _ http.RoundTripper = (*exchange)(nil)
