package pleo

import (
	"compress/gzip"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// tokenResponses are bodies that contain the refresh token "rt-2" in different forms.
var tokenResponses = map[string]string{
	"as Pleo's":   tokenResponse,
	"token first": `{"refresh_token":"rt-2","access_token":"at-1","expires_in":900}`,
	"pretty":      "{\r\n  \"access_token\" : \"at-1\",\n\t\"refresh_token\"\n:\n\"rt-2\"\n}\n",
	"escaped":     `{"access_token":"at-1","refresh_token":"rt\u002d2","x":"\\\""}`,
	"decoys": `{"scope":"\"refresh_token\":\"no\"","a \"refresh_token":"no","grant":"refresh_token",` +
		`"access_token":"at-1","refresh_token":"rt-2"}`,
	"damaged": `<p>oops</p>{"access_token":at-1,"refresh_token":"rt-2"}`,
	"nested":  `{"data":{"access_token":"at-1","refresh_token":"rt-2"}}`,
}

// endOfRefreshToken returns the length of body up to the closing quote of the
// refresh token.
func endOfRefreshToken(t testing.TB, body string) int {
	t.Helper()
	for _, token := range []string{`"rt-2"`, `"rt\u002d2"`} {
		if i := strings.LastIndex(body, token); i >= 0 {
			return i + len(token)
		}
	}
	t.Fatalf("no refresh token in %s", body)
	return 0
}

func TestParseTokensKeepsCompleteRefreshToken(t *testing.T) {
	for name, body := range tokenResponses {
		t.Run(name, func(t *testing.T) {
			complete := endOfRefreshToken(t, body)
			for cut := range len(body) + 1 {
				got, _ := parseTokens([]byte(body[:cut]))
				want := ""
				if cut >= complete {
					want = "rt-2"
				}
				if got.RefreshToken.Reveal() != want {
					t.Errorf("refresh token in %q = %q, want %q", body[:cut], got.RefreshToken.Reveal(), want)
				}
			}
		})
	}
}

func TestParseTokensDropsTruncatedAccessToken(t *testing.T) {
	for name, body := range tokenResponses {
		for cut := range len(body) + 1 {
			got, ok := parseTokens([]byte(body[:cut]))
			if access := got.AccessToken.Reveal(); access != "" && access != "at-1" {
				t.Errorf("%s: access token in %q = %q, want at-1 or none", name, body[:cut], access)
			}
			if got.RefreshToken.IsZero() && ok {
				t.Errorf("%s: tokens from %q, which may have had a refresh token", name, body[:cut])
			}
		}
	}
}

func TestParseTokensDropsTruncatedLifetime(t *testing.T) {
	const body = `{"refresh_token":"r","expires_in":86000}`
	for cut := strings.Index(body, ","); cut <= len(body); cut++ {
		got, ok := parseTokens([]byte(body[:cut]))
		want := 0.0
		if cut == len(body) {
			want = 86000
		}
		if !ok || got.Lifetime.Seconds() != want {
			t.Errorf("lifetime in %q = %v, ok %v, want %v s", body[:cut], got.Lifetime, ok, want)
		}
	}
}

// TestRefreshTruncatedResponse truncates responses at every byte, including the
// header. The connection is closed in order, so that everything sent is read.
func TestRefreshTruncatedResponse(t *testing.T) {
	half := strings.Index(tokenResponse, "rt-2") + 2 // in the middle of the token
	wires := map[string]string{
		"with a length": httpResponse(200, tokenResponse),
		"in chunks":     chunkedResponse(200, tokenResponse, half),
	}
	for name, wire := range wires {
		t.Run(name, func(t *testing.T) {
			complete := strings.Index(wire, `-2",`) + len(`-2"`)
			if i := strings.Index(wire, `rt-2"`); i >= 0 {
				complete = i + len(`rt-2"`)
			}
			var part atomic.Value // string: the part of the response to send
			s := newServer(t, "http://"+tcpServer(t, func(conn *net.TCPConn) {
				if _, err := readRequest(conn); err == nil {
					_, _ = io.WriteString(conn, part.Load().(string))
				}
			}))
			for cut := range len(wire) + 1 {
				part.Store(wire[:cut])
				got, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
				checkCut(t, wire[:cut], cut >= complete, got, err)
			}
		})
	}
}

func checkCut(t *testing.T, part string, complete bool, got Tokens, err error) {
	t.Helper()
	assertNoSecret(t, err)
	if complete {
		if err != nil || got.RefreshToken.Reveal() != "rt-2" || got.AccessToken.Reveal() != "at-1" {
			t.Errorf("Refresh with response %q = %+v, %v, want both tokens", part, revealed(got), err)
		}
		return
	}
	var unknown *UnknownOutcomeError
	if !errors.As(err, &unknown) {
		t.Errorf("Refresh with response %q = %+v, %v, want an UnknownOutcomeError", part, revealed(got), err)
	}
}

// TestRefreshResponseEndsWithReset accepts tokens or an unknown outcome, because it
// is not known how much arrives before the reset.
func TestRefreshResponseEndsWithReset(t *testing.T) {
	wire := httpResponse(200, tokenResponse)
	var part atomic.Value // string: the part of the response to send
	s := newServer(t, "http://"+tcpServer(t, func(conn *net.TCPConn) {
		if _, err := readRequest(conn); err == nil {
			_, _ = io.WriteString(conn, part.Load().(string))
			_ = conn.SetLinger(0)
		}
	}))
	for cut := 0; cut < len(wire); cut += 7 {
		part.Store(wire[:cut])
		got, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
		var unknown *UnknownOutcomeError
		if err != nil && !errors.As(err, &unknown) {
			t.Errorf("Refresh reset after %q = %v, want tokens or an UnknownOutcomeError", wire[:cut], err)
		}
		if token := got.RefreshToken.Reveal(); err == nil && token != "rt-2" {
			t.Errorf("Refresh reset after %q: refresh token %q, want rt-2", wire[:cut], token)
		}
	}
}

// compressed returns s compressed by gzip.
func compressed(t testing.TB, s string) string {
	t.Helper()
	var out strings.Builder
	z := gzip.NewWriter(&out)
	if _, err := io.WriteString(z, s); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestRefreshCompressedResponse checks that a compressed response is read although
// the request asks for no compression: the server has used up the refresh token.
func TestRefreshCompressedResponse(t *testing.T) {
	wire := compressed(t, tokenResponse)
	for name, coding := range map[string]string{"with Content-Encoding": "gzip", "with the wrong one": "identity"} {
		t.Run(name, func(t *testing.T) {
			server := record(t, respond(200, wire, "Content-Encoding", coding))
			got, err := newServer(t, server.URL).Refresh(t.Context(), credstore.NewSecret(sentToken))
			if got.AccessToken.Reveal() != "at-1" || got.RefreshToken.Reveal() != "rt-2" || err != nil {
				t.Errorf("Refresh = %+v, %v, want the tokens in it", revealed(got), err)
			}
		})
	}
	t.Run("truncated after the tokens", func(t *testing.T) {
		s := newServer(t, "http://"+tcpServer(t, func(conn *net.TCPConn) {
			if _, err := readRequest(conn); err == nil {
				_, _ = io.WriteString(conn, httpResponse(200, wire)[:len(httpResponse(200, wire))-len("checksum")])
			}
		}))
		got, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
		if got.RefreshToken.Reveal() != "rt-2" || err != nil {
			t.Errorf("Refresh = %+v, %v, want the refresh token in the part that was read", revealed(got), err)
		}
	})
	t.Run("too long", func(t *testing.T) {
		server := record(t, respond(200, compressed(t, strings.Repeat(" ", 8*maxResponseBody)+tokenResponse)))
		_, err := newServer(t, server.URL).Refresh(t.Context(), credstore.NewSecret(sentToken))
		var unknown *UnknownOutcomeError
		if !errors.As(err, &unknown) || !errors.Is(err, errTooLong) {
			t.Errorf("Refresh = %v, want an UnknownOutcomeError because it is too long", err)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		server := record(t, respond(200, gzipMagic+"canary"))
		_, err := newServer(t, server.URL).Refresh(t.Context(), credstore.NewSecret(sentToken))
		var unknown *UnknownOutcomeError
		if !errors.As(err, &unknown) {
			t.Errorf("Refresh = %v, want an UnknownOutcomeError", err)
		}
	})
}

func TestRefreshTruncatedErrorResponse(t *testing.T) {
	const body = `{"error":"invalid_grant","error_description":"canary"}`
	complete := strings.Index(body, ",")
	for cut := range len(body) {
		a := &response{status: 400, body: []byte(body[:cut]), bodyErr: io.ErrUnexpectedEOF}
		_, err := a.tokens()
		var rejection *ResponseError
		if rejected := errors.As(err, &rejection) && rejection.Class == TokenRejected; rejected != (cut >= complete) {
			t.Errorf("status 400 with the truncated body %q: %v, rejected %v, want %v", body[:cut], err, rejected, cut >= complete)
		}
		assertNoSecret(t, err)
	}
}

func TestRateLimitedWithoutBody(t *testing.T) {
	_, err := (&response{status: 429, bodyErr: io.ErrUnexpectedEOF}).tokens()
	if diff := cmp.Diff(error(&ResponseError{Class: RateLimited, Status: 429}), err); diff != "" {
		t.Errorf("error differs (-want +got):\n%s", diff)
	}
}
