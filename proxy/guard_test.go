package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// statusOf returns the status of the first response in raw.
func statusOf(t *testing.T, raw string) int {
	t.Helper()
	var minor, status int
	if _, err := fmt.Sscanf(raw, "HTTP/1.%d %d ", &minor, &status); err != nil {
		t.Fatalf("reading the status of %q: %v", raw, err)
	}
	return status
}

func TestRejectedRequestsAreNotForwarded(t *testing.T) {
	tests := []struct {
		name    string
		request string // request line and further header fields
		status  int
		code    string
	}{
		{"rebound host", "GET / HTTP/1.1\r\nHost: evil.com\r\n", 403, "host_not_allowed"},
		{"two slashes", "GET //evil.com/v1 HTTP/1.1\r\nHost: localhost\r\n", 400, "bad_request_target"},
		{"two slashes after the prefix", "GET /@acme//evil.com/v1 HTTP/1.1\r\nHost: localhost\r\n", 400, "bad_request_target"},
		{"absolute form", "GET http://evil.com/v1 HTTP/1.1\r\nHost: localhost\r\n", 400, "bad_request_target"},
		{"absolute form of ourselves", "GET http://localhost/v1 HTTP/1.1\r\nHost: localhost\r\n", 400, "bad_request_target"},
		{"absolute form without authority", "GET mailto:x HTTP/1.1\r\nHost: localhost\r\n", 400, "bad_request_target"},
		{"fragment", "GET /v1/x#f HTTP/1.1\r\nHost: localhost\r\n", 400, "bad_request_target"},
		{"fragment after the query", "GET /v1/x?a=b#f HTTP/1.1\r\nHost: localhost\r\n", 400, "bad_request_target"},
		{"fragment in the prefix", "GET /@acme#f/v1 HTTP/1.1\r\nHost: localhost\r\n", 400, "bad_request_target"},
		{"empty fragment", "GET /v1/x# HTTP/1.1\r\nHost: localhost\r\n", 400, "bad_request_target"},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n", 400, "bad_request_target"},
		{"connect", "CONNECT evil.com:443 HTTP/1.1\r\nHost: localhost\r\n", 405, "method_not_supported"},
		{"connect to a path", "CONNECT /v1 HTTP/1.1\r\nHost: localhost\r\n", 405, "method_not_supported"},
		{"trace", "TRACE / HTTP/1.1\r\nHost: localhost\r\n", 405, "method_not_supported"},
		{"websocket", "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Key: x\r\n", 400, "upgrade_refused"},
		{"websocket in capitals", "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n", 400, "upgrade_refused"},
		{"websocket among others", "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c, websocket/13\r\nConnection: Upgrade\r\n", 400, "upgrade_refused"},
		{"websocket in a second field", "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", 400, "upgrade_refused"},
		{"cross-site post", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nOrigin: https://evil.com\r\n", 403, "cross_site_request"},
		{"origin null", "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n", 403, "cross_site_request"},
		{"our own origin", "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n", 403, "cross_site_request"},
		{"empty origin", "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin:\r\n", 403, "cross_site_request"},
		{"no-cors get", "GET / HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n", 403, "cross_site_request"},
		{"same-site get", "GET / HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: none\r\nSec-Fetch-Site: same-origin\r\n", 403, "cross_site_request"},
		{"preflight", "OPTIONS / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.com\r\nAccess-Control-Request-Private-Network: true\r\n", 403, "cross_site_request"},
	}
	api := newTCPUpstream(t, respondAlways(okResponse))
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := r.raw(tt.request + "Pleo-Connection: acme\r\nConnection: close\r\n\r\n")
			if status, code := statusOf(t, got), bodyOrCode(t, got); status != tt.status || code != tt.code {
				t.Errorf("response = %d %s, want %d %s", status, code, tt.status, tt.code)
			}
		})
	}
	if got := api.bytes(); got != "" {
		t.Errorf("upstream got %q, want nothing", got)
	}
}

// A server may ignore Upgrade (RFC 9110 section 7.8). Some clients offer HTTP/2 with
// each request.
func TestOptionalUpgradeIsIgnored(t *testing.T) {
	tests := []struct{ name, fields string }{
		{"h2c by java.net.http.HttpClient", "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"},
		{"TLS by Apache HttpClient 5", "Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n"},
		{"several", "Upgrade: h2c, IRC/6.9\r\nConnection: upgrade\r\n"},
		{"a name that begins like websocket", "Upgrade: websocketx\r\nConnection: upgrade\r\n"},
		{"websocket that Connection does not list", "Upgrade: websocket\r\n"},
		{"empty", "Upgrade:\r\nConnection: upgrade\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
				if req, err := http.ReadRequest(r); err == nil {
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
				}
			})
			r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
			got := r.raw("POST /@acme/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n" + tt.fields + "\r\nhiGET /@acme/next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			if responses := strings.Count(got, "HTTP/1.1 200 OK\r\n"); responses != 2 {
				t.Errorf("responses = %q, want two with status 200", got)
			}
			sent := api.bytes()
			if !strings.Contains(sent, "POST /v1 HTTP/1.1\r\n") || !strings.Contains(sent, "\r\n\r\nhi") {
				t.Errorf("upstream got %q, want the request with its body", sent)
			}
			for _, name := range []string{"upgrade", "http2-settings", "connection:"} {
				if strings.Contains(strings.ToLower(sent), name) {
					t.Errorf("upstream got %q, want no %s", sent, name)
				}
			}
		})
	}
}

func TestSecFetchSiteNoneIsAllowed(t *testing.T) {
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, v.requireToken(ok))
	if got := r.do("GET", "/v1", nil, "Sec-Fetch-Site", "none").StatusCode; got != 200 {
		t.Errorf("status = %d, want 200", got)
	}
}

func TestMalformedFramingIsNotForwarded(t *testing.T) {
	tests := []struct{ name, request string }{
		{"two lengths", "POST / HTTP/1.1\r\nHost: localhost\r\nPleo-Connection: acme\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"},
		{"negative length", "POST / HTTP/1.1\r\nHost: localhost\r\nPleo-Connection: acme\r\nContent-Length: -1\r\n\r\n"},
		{"unknown coding", "POST / HTTP/1.1\r\nHost: localhost\r\nPleo-Connection: acme\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
		{"space before the colon", "GET / HTTP/1.1\r\nHost: localhost\r\nPleo-Connection : acme\r\n\r\n"},
		{"NUL in a value", "GET / HTTP/1.1\r\nHost: localhost\r\nPleo-Connection: acme\r\nX-A: a\x00b\r\n\r\n"},
		{"CR in a value", "GET / HTTP/1.1\r\nHost: localhost\r\nPleo-Connection: acme\r\nX-A: a\rAuthorization: b\r\n\r\n"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\nPleo-Connection: acme\r\n\r\n"},
		{"no host", "GET / HTTP/1.1\r\nPleo-Connection: acme\r\n\r\n"},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
	}
	v := newFakeCredentials("acme")
	smuggled := 0
	r := newTestProxy(t, v, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("X-Probe") == "" {
			smuggled++
		}
		ok(w, req)
	})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := statusOf(t, r.raw(tt.request)); got < 400 || got >= 500 && got != 501 && got != 505 {
				t.Errorf("status = %d, want an error of the client", got)
			}
			if got := r.do("GET", "/v1", nil, "X-Probe", "1").StatusCode; got != 200 {
				t.Errorf("status of the next request = %d, want 200", got)
			}
		})
	}
	if smuggled != 0 {
		t.Errorf("%d requests reached the API, want 0", smuggled)
	}
}

func TestUnixSocketHasNoHostGuard(t *testing.T) {
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, v.requireToken(ok))
	path := filepath.Join(t.TempDir(), "proxy.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(r.proxy, nil, nil)
	done := make(chan error)
	go func() { done <- server.Serve(TrackConnections(listener)) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /@acme/ HTTP/1.1\r\nHost: anything.example\r\nConnection: close\r\n\r\n")
	response, _ := io.ReadAll(conn)
	_ = conn.Close()
	if got := statusOf(t, string(response)); got != http.StatusOK {
		t.Errorf("status = %d, want 200", got)
	}
	_ = server.Close()
	if err := <-done; !strings.Contains(err.Error(), "closed") {
		t.Errorf("Serve = %v, want that it was closed", err)
	}
}

// In HTTP/2, method and target may contain characters that end them in HTTP/1.1,
// which is the protocol of the requests to the API.
func TestRequestLineInjection(t *testing.T) {
	tests := []struct {
		name, method, target string
		status               int
		code                 string
	}{
		{"space in the path", "GET", "/@acme/x HTTP/1.1", 400, "bad_request_target"},
		{"space in the query", "GET", "/@acme/x?a b", 400, "bad_request_target"},
		{"tab in the path", "GET", "/@acme/x\t", 400, "bad_request_target"},
		{"line in the path", "GET", "/@acme/x\r\nAuthorization: Bearer mine", 400, "bad_request_target"},
		{"fragment", "GET", "/@acme/x#f", 400, "bad_request_target"},
		{"DEL in the path", "GET", "/@acme/\x7f", 400, "bad_request_target"},
		{"space in the method", "GET /elsewhere HTTP/1.1", "/@acme/x", 400, "bad_request"},
		{"no method", "", "/@acme/x", 400, "bad_request"},
		{"valid", "GET", "/@acme/x", 200, "ok"},
	}
	api := newTCPUpstream(t, respondAlways(okResponse))
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := httptest.NewRequest("GET", "/", nil)
			in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/2.0", 2, 0
			in.Host, in.Method, in.RequestURI = "localhost", tt.method, tt.target
			got := httptest.NewRecorder()
			r.proxy.ServeHTTP(got, in)
			if code := bodyOrCode(t, "\r\n\r\n"+got.Body.String()); got.Code != tt.status || code != tt.code {
				t.Errorf("response = %d %q, want %d %q", got.Code, code, tt.status, tt.code)
			}
		})
	}
	if got, want := requestLines(api.bytes()), "GET /x HTTP/1.1\n"; got != want {
		t.Errorf("upstream got %q, want %q", got, want)
	}
}
