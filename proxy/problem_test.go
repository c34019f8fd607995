package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
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
		connectionRequired("The request names no connection.", "Pleo-Connection"),
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
		e.Connection = "acme-denmark"
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

// TestProblemBeginsWithWhatClientsPrint checks that the code and the message are
// among the first 200 bytes of every document, where clients that cut a response
// off show them, and that a link for a person is among the first 300.
func TestProblemBeginsWithWhatClientsPrint(t *testing.T) {
	const link = "https://connect.integrations.example.com/connect/Zm9vYmFyYmF6Zm9vYmFyYmF6Zm9vYmFyYmF6Zm9vYmFyYmE"
	all := append(everyProblem(),
		connectionRequired("The request names no connection, and with more than one there is no default.", "Pleo-Connection"),
		connectionRequired("The request names a connection, but the name is empty.", "Pleo-Connection"),
		connectionUnknown(""),
		connectionConflict("The header Pleo-Connection must name one connection, once."),
		badRequest(""),
		badRequest("the method is not a token"),
		networkNotAllowed(),
		storeUnavailable("acme", nil),
	)
	seen := map[string]bool{}
	for _, p := range all {
		seen[string(p.code)] = true
		if p.code == codeReauthorizationRequired || p.code == codeConnectionPending {
			p.connectURL = link
		}
		body, err := p.document().Body()
		if err != nil {
			t.Fatal(err)
		}
		message, err := json.Marshal(p.message)
		if err != nil {
			t.Fatal(err)
		}
		start := fmt.Sprintf(`{"code":%q,"message":%s`, p.code, message)
		if p.connectURL != "" {
			linked := fmt.Sprintf(`%s,"connect_url":%q`, start, link)
			if got := string(body[:min(300, len(body))]); !strings.HasPrefix(got, linked) {
				t.Errorf("the first 300 bytes are\n%s\nwant all of\n%s", got, linked)
			}
		}
		if got := string(body[:min(200, len(body))]); !strings.HasPrefix(got, start) {
			t.Errorf("the first 200 bytes are\n%s\nwant all of\n%s", got, start)
		}
	}
	for _, c := range codesInReadme(t) {
		if !seen[c] {
			t.Errorf("README.md has the code %s, of which no problem was checked", c)
		}
	}
}

// codesInReadme returns the codes in README.md's table of errors.
func codesInReadme(t *testing.T) []string {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, row := range regexp.MustCompile(`(?m)^\| [45]\d\d \|([^|]*)\|`).FindAllStringSubmatch(string(readme), -1) {
		for _, c := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
			codes = append(codes, c[1])
		}
	}
	if len(codes) < len(problemKinds) {
		t.Errorf("README.md has %d codes, want %d", len(codes), len(problemKinds))
	}
	return codes
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
