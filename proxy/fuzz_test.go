package proxy

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// captured is a transport that keeps what it would send.
type captured struct{ requests []*http.Request }

func (c *captured) RoundTrip(r *http.Request) (*http.Response, error) {
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
	out := &captured{}
	p, err := New(Config{
		Upstream: parseURL(t, "https://api.test"), Transport: out, Credentials: newVault("acme"),
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

func FuzzExactlyOneAuthorization(f *testing.F) {
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

func FuzzUpstreamHostNeverChanges(f *testing.F) {
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
