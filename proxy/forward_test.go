package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTargetIsForwardedByteForByte(t *testing.T) {
	longQuery := "/v1/x?cursor=" + strings.Repeat("a", 64<<10)
	manyParameters := "/v1/x?" + strings.Repeat("a=b&", 10_001)
	targets := []string{
		"/", "/v1/x", "/v1/x/", "/v1//x", "/v1/./x", "/v1/../x", "/../../x", "/v2/accounting-entries:enrich",
		"/v1/a%2Fb", "/v1/a%2fb", "/v1/%7Euser", "/v1/~user", "/v1/a;b=c", "/v1/a b"[:5], "/v1/%20%2B+", "/v1/ø", "/v1/[x]|^`{}\"<>\\",
		"/v1/x?", "/v1/x?a", "/v1/x?a=b&a=c", "/v1/x?a=b;c=d", "/v1/x?a=%zz", "/v1/x?a=%", "/v1/x?=&=&", "/v1/x?cursor=YWJj==~", "/v1/x?a=b?c=d",
		"/v1/x?q=a+b%20c", "/v1/x?next=http://evil.com//x", "/v1/x?ø", "/v1/x%23f?a=%23", "/v1/@acme/x", "/%41",
		longQuery, manyParameters,
	}
	for _, prefix := range []string{"", "/@acme", "/%40acme"} {
		api := newTCPUpstream(t, respondAlways(okResponse))
		r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
		var want strings.Builder
		for _, target := range targets {
			got := r.raw("GET " + prefix + target + " HTTP/1.1\r\nHost: localhost\r\nPleo-Connection: acme\r\nConnection: close\r\n\r\n")
			if status := statusOf(t, got); status != http.StatusOK {
				t.Errorf("status of %.100q = %d, want 200", prefix+target, status)
			}
			fmt.Fprintf(&want, "GET %s HTTP/1.1\n", target)
		}
		if diff := cmp.Diff(want.String(), requestLines(api.bytes())); diff != "" {
			t.Errorf("targets upstream behind %q (-want +got):\n%s", prefix, diff)
		}
	}
}

// requestLines returns the request lines of requests without bodies.
func requestLines(raw string) string {
	var lines strings.Builder
	for _, request := range strings.SplitAfter(raw, "\r\n\r\n") {
		if line, _, ok := strings.Cut(request, "\r\n"); ok {
			lines.WriteString(line + "\n")
		}
	}
	return lines.String()
}

func TestBasePath(t *testing.T) {
	api := newTCPUpstream(t, respondAlways(okResponse))
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url+"/base%2Fpath/")
	r.do("GET", "/v1/x?y", nil)
	if got, want := requestLines(api.bytes()), "GET /base%2Fpath/v1/x?y HTTP/1.1\n"; got != want {
		t.Errorf("request line = %q, want %q", got, want)
	}
}

// Framing and header of the request to the API, by the request of the client.
func TestRequestUpstream(t *testing.T) {
	tests := []struct{ name, request, want string }{
		{"get", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"},
		{"head", "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HEAD / HTTP/1.1\r\n\r\n"},
		{"options", "OPTIONS /v1 HTTP/1.1\r\nHost: localhost\r\n\r\n", "OPTIONS /v1 HTTP/1.1\r\n\r\n"},
		{"delete", "DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", "DELETE / HTTP/1.1\r\n\r\n"},
		{"unknown method in lower case", "query / HTTP/1.1\r\nHost: localhost\r\n\r\n", "query / HTTP/1.1\r\n\r\n"},
		{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"},
		{"post without a body", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"},
		{"post", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi", "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"},
		{"get with a body", "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi", "GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"},
		{"chunked", "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
		{"chunked and empty", "DELETE / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "DELETE / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"trailer", "POST / HTTP/1.1\r\nHost: localhost\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 42\r\n\r\n", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 42\r\n\r\n"},
		{"trailer with invalid names", "POST / HTTP/1.1\r\nHost: localhost\r\nTrailer: A B, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA B: 1\r\nC D: 2\r\nX-Sum: 42\r\n\r\n", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n0\r\nX-Sum: 42\r\n\r\n"},
		{"fields", "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: old/1\r\nAccept-Encoding: br\r\nIdempotency-Key: k\r\nVia: 1.0 x\r\nX-Two: a\r\nX-Two: b\r\n\r\n", "GET / HTTP/1.1\r\nAccept-Encoding: br\r\nIdempotency-Key: k\r\nUser-Agent: old/1\r\nVia: 1.0 x\r\nX-Two: a\r\nX-Two: b\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
				if req, err := http.ReadRequest(r); err == nil {
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				}
			})
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
			request := strings.Replace(tt.request, "\r\n", "\r\nPleo-Connection: acme\r\nConnection: close\r\n", 1)
			if status := statusOf(t, r.raw(request)); status != http.StatusOK {
				t.Fatalf("status = %d, want 200", status)
			}
			want := strings.Replace(tt.want, "\r\n", "\r\nHost: "+strings.TrimPrefix(api.url, "http://")+"\r\n", 1)
			got := strings.Replace(api.bytes(), "Authorization: Bearer secret-of-acme-v1\r\n", "", 1)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("request upstream (-want +got):\n%s", diff)
			}
		})
	}
}

// The response to the client, by the response of the API.
func TestResponse(t *testing.T) {
	tests := []struct{ name, method, upstream, want string }{
		{"plain", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: D\r\nRequest-Id: r1\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: D\r\nRequest-Id: r1\r\nConnection: close\r\n\r\nok"},
		{"nothing is added", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 13\r\nDate: D\r\n\r\n<html></html>", "HTTP/1.1 200 OK\r\nContent-Length: 13\r\nDate: D\r\nConnection: close\r\n\r\n<html></html>"},
		{"gzip stays", "GET", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\nDate: D\r\n\r\nabc", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\nDate: D\r\nConnection: close\r\n\r\nabc"},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: D\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nDate: D\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"trailers", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nDate: D\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n", "HTTP/1.1 200 OK\r\nDate: D\r\nTrailer: X-Sum\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n"},
		{"unannounced trailer, stripped trailer", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: D\r\n\r\n0\r\nX-Sum: 42\r\nSet-Cookie: a=b\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\nDate: D\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 42\r\n\r\n"},
		{"head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: D\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: D\r\nConnection: close\r\n\r\n"},
		{"no content", "DELETE", "HTTP/1.1 204 No Content\r\nDate: D\r\n\r\n", "HTTP/1.1 204 No Content\r\nDate: D\r\nConnection: close\r\n\r\n"},
		{"not modified", "GET", "HTTP/1.1 304 Not Modified\r\nEtag: x\r\nDate: D\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nDate: D\r\nEtag: x\r\nConnection: close\r\n\r\n"},
		{"stripped fields", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: D\r\nSet-Cookie: a=b\r\nAccess-Control-Allow-Origin: *\r\nAlt-Svc: h3\r\nStrict-Transport-Security: x\r\nKeep-Alive: x\r\nConnection: X-Hop\r\nX-Hop: x\r\nProxy-Authenticate: Basic\r\nX-Kept: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: D\r\nX-Kept: x\r\nConnection: close\r\n\r\n"},
		{"early hints", "GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nSet-Cookie: a=b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: D\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: D\r\nConnection: close\r\n\r\n"},
		{"unknown status", "GET", "HTTP/1.1 299 Odd\r\nContent-Length: 0\r\nDate: D\r\n\r\n", "HTTP/1.1 299 status code 299\r\nContent-Length: 0\r\nDate: D\r\nConnection: close\r\n\r\n"},
		{"too many requests", "GET", "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nDate: D\r\nRetry-After: 7\r\n\r\n", "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nDate: D\r\nRetry-After: 7\r\nConnection: close\r\n\r\n"},
		{"403 is not replayed", "GET", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nDate: D\r\n\r\nno", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nDate: D\r\nConnection: close\r\n\r\nno"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := newTCPUpstream(t, respondAlways(tt.upstream))
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
			got := r.raw(tt.method + " /@acme/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("response (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLocation(t *testing.T) {
	tests := []struct{ name, api, location, prefix, want string }{
		{"the API", "https://api.test", "https://api.test/v1/x?a=%zz#f", "", "/v1/x?a=%zz#f"},
		{"prefix kept", "https://api.test", "https://api.test/v1/x", "/@acme", "/@acme/v1/x"},
		{"default port", "https://api.test", "https://API.test:443/v1", "", "/v1"},
		{"port configured", "https://api.test:443", "https://api.test/v1", "", "/v1"},
		{"no path", "https://api.test", "https://api.test", "/@acme", "/@acme/"},
		{"query only", "https://api.test", "https://api.test?a", "", "/?a"},
		{"without scheme", "https://api.test", "//api.test/v1", "", "/v1"},
		{"path", "https://api.test", "/v1/x", "/%40acme", "/%40acme/v1/x"},
		{"relative", "https://api.test", "x?page=2", "/@acme", "x?page=2"},
		{"base", "https://api.test/base", "https://api.test/base/v1", "/@acme", "/@acme/v1"},
		{"outside the base", "https://api.test/base", "https://api.test/v1", "/@acme", "https://api.test/v1"},
		{"beside the base", "https://api.test/base", "https://api.test/based/v1", "", "https://api.test/based/v1"},
		{"other host", "https://api.test", "https://evil.test/v1", "/@acme", "https://evil.test/v1"},
		{"other port", "https://api.test", "https://api.test:444/v1", "", "https://api.test:444/v1"},
		{"other scheme", "https://api.test", "http://api.test/v1", "", "http://api.test/v1"},
		{"user", "https://api.test", "https://api.test@evil.test/v1", "", "https://api.test@evil.test/v1"},
		{"two slashes", "https://api.test", "https://api.test//evil.test/x", "", "https://api.test//evil.test/x"},
		{"slash and backslash", "https://api.test", "https://api.test/\\evil.test/x", "", "https://api.test/\\evil.test/x"},
		{"invalid", "https://api.test", "https://api.test:x/%zz", "", "https://api.test:x/%zz"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := newAPIURL(parseURL(t, tt.api)).localize(tt.location, tt.prefix); got != tt.want {
				t.Errorf("localize(%q, %q) = %q, want %q", tt.location, tt.prefix, got, tt.want)
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	var r *testProxy
	v := newFakeCredentials("acme")
	requests := 0
	r = newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, req *http.Request) {
		requests++
		http.Redirect(w, req, "http://"+req.Host+"/v1/there", http.StatusFound)
	}))
	got := r.do("GET", "/@acme/v1/here", nil)
	if loc := got.Header.Get("Location"); got.StatusCode != 302 || loc != "/@acme/v1/there" || requests != 1 {
		t.Errorf("response = %d to %q after %d requests, want 302 to /@acme/v1/there after 1", got.StatusCode, loc, requests)
	}
}

func TestBrokenResponses(t *testing.T) {
	tests := []struct {
		name, upstream string
		status         int
		code           string
	}{
		{"nothing", "", 502, "upstream_protocol_error"},
		{"not HTTP", "SSH-2.0-OpenSSH\r\n", 502, "upstream_protocol_error"},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Le", 502, "upstream_protocol_error"},
		{"unasked 101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello", 502, "upstream_protocol_error"},
		{"status below 100", "HTTP/1.1 042 Odd\r\nContent-Length: 0\r\n\r\n", 502, "upstream_protocol_error"},
		{"huge header", "HTTP/1.1 200 OK\r\nX-Big: " + strings.Repeat("a", 12<<20) + "\r\n\r\n", 502, "upstream_protocol_error"},
		{"endless 103", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100), 502, "upstream_protocol_error"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
				readHead(r)
				_, _ = io.WriteString(w, tt.upstream)
			})
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
			raw := r.raw("GET /@acme/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			raw = strings.ReplaceAll(raw, "HTTP/1.1 103 Early Hints\r\n\r\n", "")
			if status, code := statusOf(t, raw), bodyOrCode(t, raw); status != tt.status || code != tt.code {
				t.Errorf("response = %d %s, want %d %s", status, code, tt.status, tt.code)
			}
			if strings.Contains(raw, "secret") {
				t.Errorf("response = %q, want no secret in it", raw)
			}
		})
	}
}

func TestTruncatedResponse(t *testing.T) {
	tests := []struct{ name, upstream, whole string }{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", ""},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "0\r\n\r\n"},
		{"inside a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf", "0\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
				readHead(r)
				_, _ = io.WriteString(w, tt.upstream)
			})
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
			if got := r.do("GET", "/", nil); got.err == nil {
				t.Errorf("reading the response = %q and no error, want one", got.body)
			}
			line := r.logEntry()
			if line["status"] != int64(200) || line["code"] != "upstream_protocol_error" {
				t.Errorf("log = %v %v, want 200 upstream_protocol_error", line["status"], line["code"])
			}
		})
	}
}

// HTTP/1.0 has no chunks. A response without a length ends with the connection, so
// only a reset shows that it is truncated.
func TestTruncatedHTTP10ResponseIsReset(t *testing.T) {
	tests := []struct {
		name, upstream string
		reset          bool
	}{
		{"whole", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n", false},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", true},
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
				readHead(r)
				_, _ = io.WriteString(w, tt.upstream)
			})
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
			conn, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, "GET /@acme/ HTTP/1.0\r\nHost: localhost\r\n\r\n")
			got, err := io.ReadAll(conn)
			if reset := errors.Is(err, syscall.ECONNRESET); reset != tt.reset || !tt.reset && err != nil {
				t.Errorf("reading the response = %q, %v; reset = %t, want %t", got, err, reset, tt.reset)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	r := newTestProxyTo(t, newFakeCredentials("acme"), "http://"+listener.Addr().String())
	got := r.do("GET", "/", nil)
	if p := decodeProblem(t, got.body); got.StatusCode != 502 || p.Code != "upstream_unreachable" {
		t.Errorf("response = %d %s, want 502 upstream_unreachable", got.StatusCode, p.Code)
	}
}

// The head of a response, and each piece of its body, reach the client before the
// API sends more, also if the length is known.
func TestSlowResponse(t *testing.T) {
	for name, head := range map[string]string{"length": "Content-Length: 3\r\n", "until close": "Connection: close\r\n"} {
		t.Run(name, func(t *testing.T) {
			received := make(chan struct{})
			api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
				readHead(r)
				_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\n"+head+"\r\n")
				for _, piece := range []string{"a", "b", "c"} {
					<-received
					_, _ = io.WriteString(w, piece)
				}
				<-received
			})
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
			conn, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, "GET /@acme/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"a", "b", "c"} {
				received <- struct{}{}
				got := make([]byte, 1)
				if _, err := io.ReadFull(res.Body, got); string(got) != want || err != nil {
					t.Fatalf("read %q, %v, want %q", got, err, want)
				}
			}
			received <- struct{}{}
			if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
				t.Errorf("rest = %q, %v, want none", rest, err)
			}
		})
	}
}

// A response before the end of the request body reaches a client that waits for
// it.
func TestEarlyResponse(t *testing.T) {
	api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
		readHead(r)
		_, _ = io.WriteString(w, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
		_, _ = io.Copy(io.Discard, r)
	})
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if res.StatusCode != 413 || string(body) != "big" || err != nil {
		t.Errorf("response = %d %q, %v, want 413 big", res.StatusCode, body, err)
	}
}

// A request after a body that was not read to its end is not served: net/http would
// still be reading that body, and panic on another goroutine.
func TestEarlyResponseClosesConnection(t *testing.T) {
	const next = "POST /@acme/next HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf"
	tests := []struct{ name, framing, first, rest string }{
		{"length", "Content-Length: 8", "half", "half"},
		{"chunked", "Transfer-Encoding: chunked", "4\r\nhalf\r\n", "4\r\nhalf\r\n0\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
				readHead(r)
				_, _ = io.WriteString(w, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
				_, _ = io.Copy(io.Discard, r)
			})
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
			conn, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, "POST /@acme/ HTTP/1.1\r\nHost: localhost\r\n"+tt.framing+"\r\n\r\n"+tt.first)
			responses := bufio.NewReader(conn)
			res, err := http.ReadResponse(responses, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if res.StatusCode != 413 || !res.Close || string(body) != "big" || err != nil {
				t.Errorf("response = %d %q, %v, close = %t, want 413 big, nil, true", res.StatusCode, body, err, res.Close)
			}
			r.logEntry() // the exchange has ended
			_, _ = io.WriteString(conn, tt.rest+next)
			if more, _ := io.ReadAll(responses); len(more) > 0 {
				t.Errorf("after the response came %q, want nothing", more)
			}
			if got := api.bytes(); strings.Contains(got, "/next") {
				t.Errorf("upstream got %q, want one request", got)
			}
		})
	}
}

func TestMalformedBodyClosesConnection(t *testing.T) {
	const smuggled = "GET /@acme/smuggled HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	for name, body := range map[string]string{
		"size that is none": "zz\r\n", "negative size": "-1\r\n", "size too large": "fffffffffffffffff\r\n",
		"chunk too long": "1\r\nab\r\n0\r\n\r\n", "bare LF": "1\na\n0\n\n",
		"trailer without a colon": "0\r\ntrailer\r\n\r\n", "trailer that is folded": "0\r\n x: y\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			v := newFakeCredentials("acme")
			seen := make(chan string, 2)
			r := newTestProxy(t, v, v.requireToken(func(_ http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				seen <- req.URL.Path
			}))
			got := r.raw("POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + body + smuggled)
			if status, responses := statusOf(t, got), strings.Count(got, "HTTP/1.1 "); status != 400 || responses != 1 {
				t.Errorf("response = %q, want 400 and nothing behind it", got)
			}
			select {
			case path := <-seen:
				if path == "/smuggled" {
					t.Error("the API got what came after the body")
				}
			default:
			}
		})
	}
}

// The response breaks off before the client has sent all of its body.
func TestTruncatedEarlyResponseClosesConnection(t *testing.T) {
	api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
		readHead(r)
		_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
	})
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
	got := r.raw("POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
	if status := statusOf(t, got); status != 200 || !strings.HasSuffix(got, "\r\n\r\nhalf") {
		t.Errorf("response = %q, want 200 with half of its body", got)
	}
	if line := r.logEntry(); line["code"] != "upstream_protocol_error" {
		t.Errorf("log: code = %v, want upstream_protocol_error", line["code"])
	}
}

func TestExpectContinueWaitsForTheAPI(t *testing.T) {
	asked := make(chan struct{})
	api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
		readHead(r)
		<-asked
		_, _ = io.WriteString(w, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
	close(asked)
	got := r.raw("POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
	if status := statusOf(t, got); status != 417 {
		t.Errorf("first status = %d, want 417 without a 100 before it", status)
	}
}

// Interim responses before the body is read are not passed on, because the server
// may be writing its own 100 on another goroutine.
func TestInterimResponsesWithContinue(t *testing.T) {
	const early, late = "HTTP/1.1 103 Early Hints\r\nLink: early\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: late\r\n\r\n"
	api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
		readHead(r)
		_, _ = io.WriteString(w, early+"HTTP/1.1 100 Continue\r\n\r\n")
		_, _ = io.ReadFull(r, make([]byte, 4))
		_, _ = io.WriteString(w, late+"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
	got := r.raw("POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nabcd")
	if want := "HTTP/1.1 100 Continue\r\n\r\n" + late + "HTTP/1.1 200 "; !strings.HasPrefix(got, want) {
		t.Errorf("response = %q, want the beginning %q", got, want)
	}
}

func TestTruncatedUpload(t *testing.T) {
	tests := []struct{ name, framing string }{
		{"length", "Content-Length: 10\r\n\r\nhalf"},
		{"chunked", "Transfer-Encoding: chunked\r\n\r\n8\r\nhalf"},
		{"bad chunk", "Transfer-Encoding: chunked\r\n\r\nzz\r\nhalf"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			whole := make(chan bool, 1)
			r := newTestProxy(t, newFakeCredentials("acme"), func(_ http.ResponseWriter, req *http.Request) {
				_, err := io.Copy(io.Discard, req.Body)
				whole <- err == nil
			})
			conn, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, "POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"+tt.framing)
			_ = conn.(*net.TCPConn).CloseWrite()
			response, _ := io.ReadAll(conn)
			if code := bodyOrCode(t, string(response)); code != "bad_request_body" {
				t.Errorf("code = %q, want bad_request_body", code)
			}
			if <-whole {
				t.Error("the API got half a body as a complete one")
			}
		})
	}
}

func TestPipelinedRequests(t *testing.T) {
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, req *http.Request) { _, _ = io.WriteString(w, req.URL.Path) }))
	got := r.raw("GET /@acme/1 HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /@acme/2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhiGET /@acme/3 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	first, second, third := strings.Index(got, "\r\n\r\n/1"), strings.Index(got, "\r\n\r\n/2"), strings.Index(got, "\r\n\r\n/3")
	if first < 0 || second < first || third < second {
		t.Errorf("responses = %q, want those to /1, /2 and /3", got)
	}
}
