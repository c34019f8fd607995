package proxy

import (
	"bytes"
	"errors"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy/upstream"
)

var update = flag.Bool("update", false, "write the golden files in testdata")

// everyProblem returns one problem for each code.
func everyProblem() []*problem {
	all := []*problem{
		connectionRequired("The request does not name a connection.", "Pleo-Connection"),
		connectionUnknown("acme"),
		connectionConflict("The request names two different connections."),
		badRequestTarget(),
		conflictingFramingProblem(),
		badRequestBody("acme", errors.New("unexpected EOF")),
		webSocketNotSupported(),
		methodNotSupported("TRACE"),
		hostNotAllowed(),
		crossSiteRequest(),
		clientUnauthenticated(),
		clientNotAllowed("erp", "acme"),
		policyDenied("erp", "acme"),
		companyMismatch("acme"),
		upstreamProblem(codeUpstreamUnreachable, "acme", errors.New("connection refused")),
		upstreamProblem(codeUpstreamProtocolError, "acme", errors.New("malformed response")),
		upstreamProblem(codeUpstreamTimeout, "acme", upstream.ErrTimeout),
	}
	for _, e := range []*refresh.Error{
		{Code: refresh.ConnectionPending, Reason: "no_credential"},
		{Code: refresh.ConnectionDisabled, Reason: "operator"},
		{Code: refresh.ReauthorizationRequired, Reason: "refresh_token_rejected"},
		{Code: refresh.ServerUnavailable, RetryAfter: 1500 * time.Millisecond},
		{Code: refresh.StoreUnavailable, Err: errors.New("disk I/O error")},
		{Code: refresh.ShuttingDown},
	} {
		e.Connection = "acme"
		all = append(all, credentialProblem(e))
	}
	return all
}

func TestProblemResponses(t *testing.T) {
	seen := map[code]bool{}
	for _, p := range everyProblem() {
		seen[p.code] = true
		t.Run(string(p.code), func(t *testing.T) {
			w := httptest.NewRecorder()
			if _, err := p.write(w); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := w.Result().Write(&got); err != nil {
				t.Fatal(err)
			}
			compareGolden(t, string(p.code), strings.ReplaceAll(got.String(), "\r\n", "\n"))
			if p.cause != nil && strings.Contains(got.String(), p.cause.Error()) {
				t.Errorf("the response contains the cause %q, which is for the log only", p.cause)
			}
		})
	}
	for c := range problemKinds {
		if !seen[c] {
			t.Errorf("no problem of code %s was written", c)
		}
	}
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
}

func TestCredentialErrors(t *testing.T) {
	v := newFakeCredentials("acme")
	api := newTCPUpstream(t, respondAlways(okResponse))
	r := newTestProxyTo(t, v, api.url)
	v.fail(&refresh.Error{Code: refresh.ReauthorizationRequired, Connection: "acme", Reason: "refresh_token_rejected", Err: errors.New("cause")})
	got := r.do("GET", "/", nil)
	if p := decodeProblem(t, got.body); got.StatusCode != 401 || p.Connection != "acme" || api.bytes() != "" {
		t.Errorf("response = %d for %q, upstream got %q, want 401 for acme, nothing", got.StatusCode, p.Connection, api.bytes())
	}
	line := r.logEntry()
	want := map[string]any{"status": int64(401), "origin": "proxy", "code": "reauthorization_required", "attempts": int64(0), "error": "cause"}
	for key, value := range want {
		if line[key] != value {
			t.Errorf("log: %s = %v, want %v", key, line[key], value)
		}
	}
}

func TestEmptyAuthorizationIsNotSent(t *testing.T) {
	v := newFakeCredentials("acme")
	v.current["acme"] = &refresh.Authorization{Connection: "acme"}
	api := newTCPUpstream(t, respondAlways(okResponse))
	r := newTestProxyTo(t, v, api.url)
	if got := r.do("GET", "/", nil).StatusCode; got != 503 || api.bytes() != "" {
		t.Errorf("status = %d, upstream got %q, want 503 and nothing", got, api.bytes())
	}
}
