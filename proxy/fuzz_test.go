package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"path"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// recordingTransport is a transport that keeps what it would send.
type recordingTransport struct{ requests []*http.Request }

func (c *recordingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	c.requests = append(c.requests, r)
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// forwardRaw parses raw as the server would and returns what leaves for it, in
// the form it has on the wire.
func forwardRaw(t *testing.T, raw string) []*http.Request {
	t.Helper()
	in, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		return nil
	}
	out := &recordingTransport{}
	p, err := New(Config{
		ConnectionHeaders: []string{"Pleo-Connection", "Connection-Id"},
		Upstream:          parseURL(t, "https://api.test"), Transport: out, Credentials: newFakeCredentials("acme"),
		DefaultConnection: "acme", DefaultConnectionShared: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.ServeHTTP(httptest.NewRecorder(), in)
	return out.requests
}

// onWire returns r as the transport writes it.
func onWire(t *testing.T, r *http.Request) (string, bool) {
	t.Helper()
	var wire strings.Builder
	r = r.Clone(r.Context())
	r.Body, r.ContentLength, r.TransferEncoding = nil, 0, nil
	err := r.Write(&wire)
	return wire.String(), err == nil
}

func FuzzSingleAuthorization(f *testing.F) {
	for _, h := range hostile {
		f.Add(h.header)
	}
	f.Add("Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n")
	f.Fuzz(func(t *testing.T, header string) {
		for _, out := range forwardRaw(t, "POST / HTTP/1.1\r\nHost: localhost\r\n"+header+"\r\n0\r\nAuthorization: x\r\n\r\n") {
			wire, ok := onWire(t, out)
			if !ok {
				continue // the transport refuses it as well
			}
			var got []string
			for line := range strings.SplitSeq(wire, "\r\n") {
				if name, value, _ := strings.Cut(line, ":"); strings.EqualFold(strings.TrimSpace(name), "Authorization") {
					got = append(got, strings.TrimSpace(value))
				}
			}
			if len(got) != 1 || got[0] != "Bearer secret-of-acme-v1" {
				t.Errorf("Authorization of %q = %q, want ours", wire, got)
			}
			for name := range out.Trailer {
				if strings.EqualFold(name, "Authorization") {
					t.Errorf("a trailer called %q leaves", name)
				}
			}
		}
	})
}

func FuzzUpstreamHost(f *testing.F) {
	for _, target := range []string{"/", "//evil.test/", "/@acme//evil.test/", "/\\evil.test", "http://evil.test/", "/@acme", "/%2F/evil.test", "@evil.test/", "/?http://evil.test", "/:80@evil.test", "*"} {
		f.Add("GET", target, "localhost")
	}
	f.Add("CONNECT", "evil.test:443", "evil.test")
	f.Fuzz(func(t *testing.T, method, target, host string) {
		for _, out := range forwardRaw(t, method+" "+target+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n") {
			if out.URL.Scheme != "https" || out.URL.Host != "api.test" || out.Host != "api.test" {
				t.Errorf("the request goes to %q with Host %q", out.URL, out.Host)
			}
			wire, ok := onWire(t, out)
			if !ok {
				continue
			}
			line, _, _ := strings.Cut(wire, "\r\n")
			_, uri, _ := strings.Cut(line, " ")
			if !strings.HasPrefix(uri, "/") || strings.HasPrefix(uri, "//") {
				t.Errorf("request line = %q, want one slash before the path", line)
			}
			if n := strings.Count(strings.ToLower(wire), "\nhost:"); n != 1 {
				t.Errorf("%q has %d Host fields, want 1", wire, n)
			}
		}
	})
}

// quotingTransport is a transport whose answers and errors repeat what they can of the
// request, as careless servers and libraries do.
type quotingTransport struct{ mode int }

func (q quotingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{}) // it got as far as that
	quoted := fmt.Sprintf("%v %v", r.URL, r.Header)
	if q.mode%3 == 0 {
		return nil, errors.New("malformed HTTP response: " + quoted)
	}
	status := map[int]int{1: 401, 2: 200}[q.mode%3]
	return &http.Response{StatusCode: status, Header: http.Header{"Location": {"//" + r.URL.Host + "/x"}}, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
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
			return // it is the client's own doing
		}
		raw := line + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token + "\r\n" + header + "\r\n"
		in, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		response, log := serveWithQuotingUpstream(t, in, mode)
		for _, secret := range []string{token, "secret-of-acme"} {
			if strings.Contains(response, secret) || strings.Contains(log, secret) {
				t.Errorf("%q shows in answer %q or log %q", secret, response, log)
			}
		}
	})
}

// serveWithQuotingUpstream returns the answer to in as text, and its line in the log.
func serveWithQuotingUpstream(t *testing.T, in *http.Request, mode int) (response, line string) {
	t.Helper()
	var log strings.Builder
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&log), zap.DebugLevel)
	p, err := New(Config{
		ConnectionHeaders: []string{"Pleo-Connection", "Connection-Id"},
		Upstream:          parseURL(t, "https://api.test"), Transport: quotingTransport{mode}, Credentials: newFakeCredentials("acme"), AccessLog: zap.New(core), Logger: zap.New(core),
		DefaultConnection: "acme", DefaultConnectionShared: true, Clients: []Client{{Name: "erp", TokenHash: hashOf("token-of-erp")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, in)
	return fmt.Sprintf("%v %s", w.Result().Header, w.Body), log.String()
}

// FuzzPolicyBypass: whatever a path is made of, a server that cleans and
// decodes it in the usual ways ends up below what the rule allows.
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
		for range 3 { // as often as servers in a row may decode it
			for _, seen := range []string{reading, strings.ReplaceAll(reading, "\\", "/"), withoutParameters(reading)} {
				if cleaned := path.Clean(seen); cleaned != "/v1/expenses" && !strings.HasPrefix(cleaned, "/v1/expenses/") {
					t.Fatalf("%q is allowed, and may be read as %q", raw, cleaned)
				}
			}
			if decoded, err := url.PathUnescape(reading); err == nil {
				reading = decoded
			}
		}
	})
}

// withoutParameters drops what follows a semicolon in each segment.
func withoutParameters(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}
