package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// halfClosed sends bytes, shuts down the writing side after when is closed, and
// returns everything that it receives.
func (r *testProxy) halfClosed(request string, when <-chan struct{}) string {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, request); err != nil {
		r.t.Fatal(err)
	}
	<-when
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		r.t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(all)
}

func TestHalfClosedClientGetsResponse(t *testing.T) {
	tests := []struct{ name, request, want string }{
		{"without a body", "GET /@acme/ HTTP/1.1\r\nHost: localhost\r\n\r\n", ""},
		{"with a body", "POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi", "hi"},
		{"chunked", "POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "hi"},
		{"HTTP/1.0", "GET /@acme/ HTTP/1.0\r\nHost: localhost\r\n\r\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newFakeCredentials("acme")
			arrived, closed := make(chan struct{}), make(chan struct{})
			r := newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, req *http.Request) {
				body, _ := io.ReadAll(req.Body)
				close(arrived)
				<-closed
				_, _ = io.WriteString(w, "late "+string(body))
			}))
			// The API responds after the server has read the end of the input.
			r.listen(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				context.AfterFunc(req.Context(), func() { close(closed) })
				r.proxy.ServeHTTP(w, req)
			}))
			got := r.halfClosed(tt.request, arrived)
			if status := statusOf(t, got); status != 200 || !strings.Contains(got, "late "+tt.want) {
				t.Errorf("response = %q, want 200 with late %s", got, tt.want)
			}
			if line := r.logEntry(); line["status"] != int64(200) || line["code"] != "" {
				t.Errorf("log = %v %v, want 200 and no code", line["status"], line["code"])
			}
		})
	}
}

func TestConflictingFramingIsRejected(t *testing.T) {
	const chunks = "2\r\nhi\r\n0\r\n\r\n"
	tests := []struct {
		name, request string
		pieces        int
	}{
		{"length first", "POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, 1},
		{"coding first", "POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n" + chunks, 1},
		{"odd case, bare LF", "POST /@acme/ HTTP/1.1\nHost: localhost\ncontent-LENGTH: 4\nTRANSFER-encoding: chunked\n\n" + chunks, 1},
		{"HTTP/1.0", "POST /@acme/ HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, 1},
		{"coding alone of HTTP/1.0", "POST /@acme/ HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, 1},
		{"byte by byte", "POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, 1000},
		{"on a used connection", "GET /@acme/used HTTP/1.1\r\nHost: localhost\r\n\r\n|POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newFakeCredentials("acme")
			posts := 0
			r := newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, req *http.Request) {
				if req.Method == "POST" {
					posts++
				}
				ok(w, req)
			}))
			conn, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			responses := bufio.NewReader(conn)
			first, request, used := strings.Cut(tt.request, "|")
			if used {
				_, _ = io.WriteString(conn, first)
				res, err := http.ReadResponse(responses, nil)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
			} else {
				request = first
			}
			for piece := range strings.SplitSeq(request, "") {
				if tt.pieces == 1 {
					piece = request
				}
				_, _ = io.WriteString(conn, piece)
				if tt.pieces == 1 {
					break
				}
			}
			all, _ := io.ReadAll(responses) // until the proxy closes the connection
			if status, code := statusOf(t, string(all)), bodyOrCode(t, string(all)); status != 400 || code != "bad_request" || posts != 0 {
				t.Errorf("response = %d %s after %d requests, want 400 bad_request and none", status, code, posts)
			}
		})
	}
}

func TestMalformedRequestsGetAProblem(t *testing.T) {
	tests := []struct {
		name, request string
		status        int
	}{
		{"bad percent sign in the path", "GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"unknown coding", "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
		{"not HTTP", "hello\r\n\r\n", 400},
		{"endless header", "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 300<<10) + "\r\n\r\n", 431},
		{"another version", "GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 505},
		{"unknown expectation", "POST /@acme/ HTTP/1.1\r\nHost: localhost\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\nhi", 417},
		{"unknown expectation of HTTP/1.0", "POST /@acme/ HTTP/1.0\r\nHost: localhost\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\nhi", 417},
	}
	api := newTCPUpstream(t, respondAlways(okResponse))
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := r.raw(tt.request)
			if status, code := statusOf(t, got), bodyOrCode(t, got); status != tt.status || code != "bad_request" {
				t.Errorf("response = %d %s, want %d bad_request", status, code, tt.status)
			}
			if tt.status == 431 && !strings.Contains(got, "header section is larger than 256 KiB") {
				t.Errorf("response = %q, want it to say what is too large", got)
			}
			if !strings.Contains(got, "\r\nProxy-Status: pleo-auth-proxy") {
				t.Errorf("response = %q, want it to have Proxy-Status", got)
			}
		})
	}
	if got := api.bytes(); got != "" {
		t.Errorf("upstream got %q, want nothing", got)
	}
}

// A response of the API that looks like one of net/http is left unchanged.
func TestUpstreamErrorsAreNotReplaced(t *testing.T) {
	const body = "400 Bad Request"
	api := newTCPUpstream(t, respondAlways("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\nConnection: close\r\n\r\n"+body))
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
	if got := r.raw("GET /@acme/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\n"+body) {
		t.Errorf("response = %q, want the API's", got)
	}
}

// A body may contain what looks like a response of net/http, at the beginning of a
// write.
func TestBodyThatLooksLikeAServerErrorIsNotReplaced(t *testing.T) {
	const refusal = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
	// Each is written by itself, since both are larger than the server's buffers.
	first, second := strings.Repeat("x", 20_000), refusal+strings.Repeat("y", 20_000)
	received := make(chan struct{})
	api := newTCPUpstream(t, func(r *bufio.Reader, w net.Conn) {
		for readHead(r) {
			_, _ = fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(first)+len(second), first)
			<-received
			_, _ = io.WriteString(w, second)
		}
	})
	r := newTestProxyTo(t, newFakeCredentials("acme"), api.url)
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // in case the response is too short
	responses := bufio.NewReader(conn)
	for range 2 { // also on a reused connection
		_, _ = io.WriteString(conn, "GET /@acme/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
		res, err := http.ReadResponse(responses, nil)
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, len(first), len(first)+len(second))
		if _, err := io.ReadFull(res.Body, body); err != nil {
			t.Fatal(err)
		}
		received <- struct{}{}
		rest, err := io.ReadAll(res.Body)
		body = append(body, rest...)
		if string(body) != first+second || err != nil {
			t.Fatalf("body = %d bytes, %v, with %.60q; want %d with %.60q", len(body), err, body[min(len(body), len(first)):], len(first)+len(second), second)
		}
	}
	// A response of net/http itself is still replaced.
	_, _ = io.WriteString(conn, "GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n")
	all, _ := io.ReadAll(responses)
	if status, code := statusOf(t, string(all)), bodyOrCode(t, string(all)); status != 400 || code != "bad_request" {
		t.Errorf("response = %d %s, want 400 bad_request", status, code)
	}
}

// listenTLS serves the proxy over TLS, and returns a client that trusts it.
func (r *testProxy) listenTLS(h2 bool) *http.Client {
	r.t.Helper()
	borrowed := httptest.NewTLSServer(nil)
	r.t.Cleanup(borrowed.Close)
	roots := borrowed.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	server := NewServer(r.proxy, &tls.Config{Certificates: borrowed.TLS.Certificates, MinVersion: tls.VersionTLS12}, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(TrackConnections(listener), "", "")
	}()
	r.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	r.addr, r.url = listener.Addr().String(), "https://"+listener.Addr().String()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: h2, DisableCompression: true}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestOverTLS(t *testing.T) {
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			v := newFakeCredentials("acme")
			r := newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, req *http.Request) {
				body, _ := io.ReadAll(req.Body)
				w.Header().Set("X-Uri", req.RequestURI)
				w.Header().Set("X-Sum", req.Trailer.Get("X-Sum"))
				_, _ = w.Write(body)
			}))
			client := r.listenTLS(h2)
			v.expire("acme") // so that there is a replay
			req, err := http.NewRequest("POST", r.url+"/@acme/v1/a%2Fb?x=%zz;", io.MultiReader(strings.NewReader("hello")))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer mine")
			req.Trailer = http.Header{"X-Sum": {"42"}}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			body, err := io.ReadAll(res.Body)
			if res.Proto != name || res.StatusCode != 200 || string(body) != "hello" || err != nil {
				t.Errorf("response = %s %d %q, %v, want %s 200 hello", res.Proto, res.StatusCode, body, err, name)
			}
			if uri, sum := res.Header.Get("X-Uri"), res.Header.Get("X-Sum"); uri != "/v1/a%2Fb?x=%zz;" || sum != "42" {
				t.Errorf("upstream got %q with trailer %q, want both as they were sent", uri, sum)
			}
		})
	}
}

func TestPlainRequestToTLS(t *testing.T) {
	r := newTestProxy(t, newFakeCredentials("acme"), ok)
	r.listenTLS(false)
	got := r.raw("GET /@acme/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if status, code := statusOf(t, got), bodyOrCode(t, got); status != 400 || code != "bad_request" || !strings.Contains(got, "HTTPS server") {
		t.Errorf("response = %q, want 400 bad_request, and that the server speaks HTTPS", got)
	}
}

// Resetting a stream cancels its request at the API, and no other one of the
// connection.
func TestHTTP2StreamReset(t *testing.T) {
	arrived, ended := make(chan struct{}), make(chan struct{})
	v := newFakeCredentials("acme")
	r := newTestProxy(t, v, v.requireToken(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/slow" {
			close(arrived)
			<-req.Context().Done()
			close(ended)
			return
		}
		ok(w, req)
	}))
	client := r.listenTLS(true)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", r.url+"/@acme/slow", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-arrived
		cancel()
	}()
	if res, err := client.Do(req); err == nil {
		_ = res.Body.Close()
		t.Error("Do = no error, want that the stream was reset")
	}
	<-ended
	if got := fetch(client, r.url+"/@acme/"); got != "ok" {
		t.Errorf("the next response = %q, want ok", got)
	}
}
