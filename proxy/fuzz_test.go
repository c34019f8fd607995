package proxy

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy/upstream"
)

// forwardRaw parses raw as the server would, and returns the bytes that the API
// gets for it.
func forwardRaw(t *testing.T, raw string) string {
	t.Helper()
	in, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		return ""
	}
	var mu sync.Mutex // guards sent, which an aborted request is added to late
	var sent strings.Builder
	c := testConfig(pipeUpstream(t, func(raw string) string {
		mu.Lock()
		defer mu.Unlock()
		sent.WriteString(raw)
		return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	}))
	c.Credentials, c.DefaultConnection, c.DefaultConnectionShared = newFakeCredentials("acme"), "acme", true
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	p.ServeHTTP(httptest.NewRecorder(), in)
	mu.Lock()
	defer mu.Unlock()
	return sent.String()
}

// fieldValues returns the values of a field in raw bytes, including trailer
// sections.
func fieldValues(raw, field string) []string {
	var values []string
	for line := range strings.SplitSeq(raw, "\n") {
		if name, value, _ := strings.Cut(line, ":"); strings.EqualFold(strings.TrimSpace(name), field) {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

func FuzzSingleAuthorization(f *testing.F) {
	for _, h := range hostile {
		f.Add(h.header)
	}
	f.Add("Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n")
	f.Fuzz(func(t *testing.T, header string) {
		sent := forwardRaw(t, "POST / HTTP/1.1\r\nHost: localhost\r\n"+header+"\r\n0\r\nAuthorization: x\r\n\r\n")
		if sent == "" {
			return
		}
		head, body, _ := strings.Cut(sent, "\r\n\r\n")
		if got := fieldValues(head, "Authorization"); len(got) != 1 || got[0] != "Bearer secret-of-acme-v1" {
			t.Errorf("Authorization of %q = %q, want ours", sent, got)
		}
		if strings.Contains(head, "Transfer-Encoding: chunked") && len(fieldValues(body, "Authorization")) > 0 {
			t.Errorf("%q has Authorization in its trailer section", sent)
		}
	})
}

func FuzzUpstreamHost(f *testing.F) {
	for _, target := range []string{"/", "//evil.test/", "/@acme//evil.test/", "/\\evil.test", "http://evil.test/", "/@acme", "/%2F/evil.test", "@evil.test/", "/?http://evil.test", "/:80@evil.test", "*"} {
		f.Add("GET", target, "localhost")
	}
	f.Add("CONNECT", "evil.test:443", "evil.test")
	f.Fuzz(func(t *testing.T, method, target, host string) {
		sent := forwardRaw(t, method+" "+target+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		if sent == "" {
			return
		}
		line, _, _ := strings.Cut(sent, "\r\n")
		_, uri, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(uri, "/") || strings.HasPrefix(uri, "//") {
			t.Errorf("request line = %q, want one slash before the path", line)
		}
		if got := fieldValues(sent, "Host"); len(got) != 1 || got[0] != "api.test" {
			t.Errorf("Host of %q = %q, want api.test", sent, got)
		}
	})
}

// quotingUpstream returns a client for an API whose responses repeat the request,
// as careless servers do.
func quotingUpstream(t *testing.T, mode int) *upstream.Client {
	return pipeUpstream(t, func(raw string) string {
		switch mode % 3 {
		case 1:
			return "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nLocation: //api.test/x\r\n\r\n"
		case 2:
			return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nLocation: //api.test/x\r\n\r\n"
		}
		return "HTTP/1.1 200 OK\r\n" + strings.ReplaceAll(raw, ":", "") // not a header
	})
}

func FuzzNoSecretInResponseOrLog(f *testing.F) {
	for i, h := range hostile {
		f.Add("GET /@acme/v1", h.header, i)
		f.Add("POST /%40"+h.name, h.header, i)
	}
	f.Add("GET /@acme/\xff", "Pleo-Expect-Company: x\r\n", 0)
	f.Fuzz(func(t *testing.T, line, header string, mode int) {
		const token = "token-of-erp"
		if strings.Contains(line+header, token) || strings.Contains(line+header, "secret") {
			return // the client reveals it
		}
		raw := line + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token + "\r\n" + header + "\r\n"
		in, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		response, log := serveWithQuotingUpstream(t, in, mode)
		for _, secret := range []string{token, "secret-of-acme"} {
			if strings.Contains(response, secret) || strings.Contains(log, secret) {
				t.Errorf("response %[2]q or log %[3]q contains %[1]q", secret, response, log)
			}
		}
	})
}

// serveWithQuotingUpstream returns the response to in as text, and its entry in
// the log.
func serveWithQuotingUpstream(t *testing.T, in *http.Request, mode int) (response, entry string) {
	t.Helper()
	var log strings.Builder
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&log), zap.DebugLevel)
	c := testConfig(quotingUpstream(t, mode))
	c.Credentials, c.AccessLog, c.Logger = newFakeCredentials("acme"), zap.New(core), zap.New(core)
	c.DefaultConnection, c.DefaultConnectionShared = "acme", true
	c.Clients = []Client{{Name: "erp", TokenHash: hashOf("token-of-erp")}}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, in)
	return fmt.Sprintf("%v %s", w.Result().Header, w.Body), log.String()
}

// FuzzPolicyBypass checks that a server that cleans and decodes a path in the
// usual ways always arrives below the path that the rule allows.
func FuzzPolicyBypass(f *testing.F) {
	for _, p := range []string{"/v1/expenses/1", "/v1/expenses/../x", "/v1/expenses/%2e%2e/x", "/v1/expenses/..;/x", "/v1/expenses//x", "/v1/expenses/%252e%252e/x", "/v1/expenses/..%5cx", "/v1/expenses/\\..\\x"} {
		f.Add(p)
	}
	rule := Rule{Paths: []string{"/v1/expenses/**"}}
	f.Fuzz(func(t *testing.T, raw string) {
		segments, ok := unambiguousSegments(raw)
		if !strings.HasPrefix(raw, "/") || !ok || !rule.covers(segments) {
			return
		}
		reading := raw
		for range 3 { // servers in a row may each decode it
			for _, seen := range []string{reading, strings.ReplaceAll(reading, "\\", "/"), withoutParameters(reading)} {
				if cleaned := path.Clean(seen); cleaned != "/v1/expenses" && !strings.HasPrefix(cleaned, "/v1/expenses/") {
					t.Fatalf("%q is allowed, and may be interpreted as %q", raw, cleaned)
				}
			}
			if decoded, err := url.PathUnescape(reading); err == nil {
				reading = decoded
			}
		}
	})
}

// withoutParameters removes what follows a semicolon in each segment.
func withoutParameters(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}
