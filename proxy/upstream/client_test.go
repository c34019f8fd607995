package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewChecksURLs(t *testing.T) {
	tests := []struct {
		url, proxy string
		ok         bool
	}{
		{"https://api.test", "", true}, {"http://127.0.0.1:1/base/", "", true},
		{"", "", false}, {"api.test", "", false}, {"https://", "", false}, {"https:api.test", "", false}, {"ftp://api.test", "", false},
		{"https://u@api.test", "", false}, {"https://api.test?", "", false}, {"https://api.test?a", "", false}, {"https://api.test#a", "", false},
		{"https://api.test", "http://u:hunter2@proxy.test:3128", true}, {"https://api.test", "socks5://proxy.test", true},
		{"https://api.test", "ftp://u:hunter2@proxy.test", false}, {"https://api.test", "http://u:hunter2@:80", false},
	}
	for _, tt := range tests {
		config := Config{URL: parseURL(t, tt.url)}
		if tt.proxy != "" {
			config.ProxyURL = parseURL(t, tt.proxy)
		}
		_, err := New(config)
		if (err == nil) != tt.ok || err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("New(%q, %q) = %v, want ok: %v and no password", tt.url, tt.proxy, err, tt.ok)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("New without a URL = no error, want one")
	}
	if _, err := New(Config{URL: parseURL(t, "https://api.test"), BodyTimeout: -1}); err == nil {
		t.Error("New with a negative timeout = no error, want one")
	}
}

func parseURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// The client writes what the caller passes, byte for byte, and adds nothing but
// Host and framing.
func TestRequestBytes(t *testing.T) {
	chunked := func(parts ...string) *Request {
		var readers []io.Reader
		for _, p := range parts {
			readers = append(readers, strings.NewReader(p))
		}
		return &Request{Method: "POST", Target: "/", Body: io.MultiReader(readers...), ContentLength: -1}
	}
	tests := []struct {
		name    string
		request *Request
		want    string
	}{
		{"get", get("/v1/%7A//?a=b;c=%zz#\xff"), "GET /v1/%7A//?a=b;c=%zz#\xff HTTP/1.1\r\nHost: H\r\n\r\n"},
		{"post", post("hi"), "POST / HTTP/1.1\r\nHost: H\r\nContent-Length: 2\r\n\r\nhi"},
		{"post without a body", &Request{Method: "POST", Target: "/"}, "POST / HTTP/1.1\r\nHost: H\r\nContent-Length: 0\r\n\r\n"},
		{"delete without a body", &Request{Method: "DELETE", Target: "/"}, "DELETE / HTTP/1.1\r\nHost: H\r\n\r\n"},
		{"unknown method", &Request{Method: "query", Target: "/"}, "query / HTTP/1.1\r\nHost: H\r\n\r\n"},
		{"empty body of known length", post(""), "POST / HTTP/1.1\r\nHost: H\r\nContent-Length: 0\r\n\r\n"},
		{"longer than its length", &Request{Method: "PUT", Target: "/", Body: strings.NewReader("hidden"), ContentLength: 2}, "PUT / HTTP/1.1\r\nHost: H\r\nContent-Length: 2\r\n\r\nhi"},
		{"chunked", chunked("hello world, ", "hi"), "POST / HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\nd\r\nhello world, \r\n2\r\nhi\r\n0\r\n\r\n"},
		{"chunked and empty", chunked(), "POST / HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{
			"fields",
			&Request{Method: "GET", Target: "/", Header: http.Header{"x-lower": {"a"}, "X-Two": {"a", "b"}, "X-Empty": {""}, "X-None": nil, "Idempotency-Key": {"k"}}},
			"GET / HTTP/1.1\r\nHost: H\r\nIdempotency-Key: k\r\nX-Empty: \r\nX-Two: a\r\nX-Two: b\r\nx-lower: a\r\n\r\n",
		},
		{
			"fields of the client",
			&Request{Method: "GET", Target: "/", Header: http.Header{
				"Host": {"evil"}, "Content-Length": {"5"}, "Transfer-Encoding": {"chunked"}, "Upgrade": {"h2c"}, "connection": {"upgrade"},
				"Trailer": {"X"}, "Te": {"trailers"}, "Keep-Alive": {"x"}, "Proxy-Connection": {"x"},
			}},
			"GET / HTTP/1.1\r\nHost: H\r\n\r\n",
		},
		{
			"trailer",
			&Request{Method: "POST", Target: "/", Body: strings.NewReader("hi"), ContentLength: -1, Trailer: http.Header{"X-Sum": {"1"}, "X-Any": {"2"}}},
			"POST / HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\nTrailer: X-Any, X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Any: 2\r\nX-Sum: 1\r\n\r\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serveRaw(t, respond(okResponse))
			do(t, newClient(t, s.address), tt.request).check(t, 200, "ok")
			if diff := cmp.Diff(strings.Replace(tt.want, "Host: H\r\n", "Host: "+s.address+"\r\n", 1), s.received()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLargeBodies(t *testing.T) {
	body := strings.Repeat("0123456789", 100_000)
	s := serveRaw(t, func(r *bufio.Reader, c net.Conn, _ int) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			got, _ := io.ReadAll(req.Body)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(got), got)
		}
	})
	c := newClient(t, s.address)
	for _, length := range []int64{int64(len(body)), -1} {
		do(t, c, &Request{Method: "POST", Target: "/", Body: strings.NewReader(body), ContentLength: length}).check(t, 200, body)
		waitIdle(t, c)
	}
	if n := s.connections(); n != 1 {
		t.Errorf("connections = %d, want 1 for both", n)
	}
}

func TestInvalidRequestsAreNotSent(t *testing.T) {
	header := func(name, value string) *Request {
		return &Request{Method: "GET", Target: "/", Header: http.Header{name: {value}}}
	}
	s := serveRaw(t, respondForever)
	c := newClient(t, s.address)
	for name, r := range map[string]*Request{
		"no method": {Target: "/"}, "method with a space": {Method: "GET /", Target: "/"},
		"no target": {Method: "GET"}, "absolute target": get("http://evil/"), "space in the target": get("/a b"), "line in the target": get("/\r\nX: y"),
		"line in a value": header("X", "a\r\nY: b"), "NUL in a value": header("X", "a\x00"), "colon in a name": header("X:", "a"), "no name": header("", "a"),
	} {
		t.Run(name, func(t *testing.T) {
			do(t, c, r).checkPhase(t, NotSent)
		})
	}
	if n := s.connections(); n != 0 {
		t.Errorf("connections = %d, want none", n)
	}
}

// deadConns dials connections that can be killed while they are idle: reading
// blocks, and writing fails after a number of bytes.
type deadConns struct {
	mu    sync.Mutex // guards conns
	conns []*deadConn
}

type deadConn struct {
	net.Conn // hides that it is a socket, so it cannot be probed
	mu       sync.Mutex
	dead     bool
	takes    int
}

func (d *deadConns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns = append(d.conns, &deadConn{Conn: c})
	return d.conns[len(d.conns)-1], nil
}

func (d *deadConns) kill(takes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.mu.Lock()
		c.dead, c.takes = true, takes
		c.mu.Unlock()
	}
}

func (c *deadConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dead {
		return c.Conn.Write(p)
	}
	n, _ := c.Conn.Write(p[:min(c.takes, len(p))])
	return n, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
}

// If an idle connection cannot be written to, the request is sent on a new one. As
// soon as a byte was written, this holds for safe requests only.
func TestWriteFailsOnPooledConnection(t *testing.T) {
	requests := map[string]func() *Request{
		"GET":    func() *Request { return get("/x") },
		"HEAD":   func() *Request { return &Request{Method: "HEAD", Target: "/x"} },
		"DELETE": func() *Request { return &Request{Method: "DELETE", Target: "/x"} },
		"POST":   func() *Request { return post("hi") },
		"PUT": func() *Request {
			return &Request{Method: "PUT", Target: "/x", Body: strings.NewReader(strings.Repeat("x", 100_000)), ContentLength: -1}
		},
	}
	for _, secure := range []bool{false, true} {
		for _, takes := range []int{0, 1, 10} {
			for method, request := range requests {
				t.Run(fmt.Sprintf("%s, %d bytes, TLS: %v", method, takes, secure), func(t *testing.T) {
					l, adjust := listen(t), func(*Config) {}
					if secure {
						l, adjust = listenTLS(t)
					}
					s := serveRawOn(t, l, respondForever)
					d := &deadConns{}
					c := newClient(t, s.address, adjust, func(c *Config) { c.Dial = d.dial })
					do(t, c, get("/warm")).check(t, 200, "ok")
					d.kill(takes)
					got := do(t, c, request())
					if takes == 0 || method == "GET" || method == "HEAD" {
						want := "ok"
						if method == "HEAD" {
							want = ""
						}
						got.check(t, 200, want)
						return
					}
					got.checkPhase(t, NoResponse)
					if n := strings.Count(s.received(), " HTTP/1.1\r\n"); n != 1 {
						t.Errorf("the server got %d request lines, want that of the first request", n)
					}
				})
			}
		}
	}
}

func TestWriteFailsOnNewConnection(t *testing.T) {
	s := serveRaw(t, respondForever)
	dials := 0
	c := newClient(t, s.address, func(c *Config) {
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return &deadConn{Conn: conn, dead: true}, err
		}
	})
	do(t, c, get("/")).checkPhase(t, NotSent)
	if dials != 1 {
		t.Errorf("dials = %d, want 1: a new connection is not replaced", dials)
	}
}

// A connection on which the server has closed or sent something while it was idle
// is detected before a request is written, so that even requests that must not be
// sent twice succeed.
func TestDeadIdleConnectionIsNotUsed(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for name, after := range map[string]string{"closed": "", "unsolicited response": okResponse, "408 and closed": "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"} {
			t.Run(fmt.Sprintf("%s, TLS: %v", name, secure), func(t *testing.T) {
				l, adjust := listen(t), func(*Config) {}
				if secure {
					l, adjust = listenTLS(t)
				}
				idle, dead := make(chan struct{}), make(chan struct{})
				s := serveRawOn(t, l, func(r *bufio.Reader, c net.Conn, n int) {
					if n > 1 {
						respondForever(r, c, n)
						return
					}
					readRequest(r)
					_, _ = io.WriteString(c, okResponse)
					<-idle
					_, _ = io.WriteString(c, after)
					if after == okResponse {
						close(dead)
						_, _ = io.Copy(io.Discard, r)
						return
					}
					_ = c.Close()
					close(dead)
				})
				c := newClient(t, s.address, adjust)
				do(t, c, get("/")).check(t, 200, "ok")
				close(idle)
				<-dead
				time.Sleep(20 * time.Millisecond) // until the client has received it
				do(t, c, post("hi")).check(t, 200, "ok")
				if n := strings.Count(s.received(), "POST"); n != 1 || s.connections() != 2 {
					t.Errorf("requests = %d on %d connections, want 1 on the second", n, s.connections())
				}
			})
		}
	}
}

// The server closes an idle connection while a request is on its way.
func TestReusedConnectionEndsBeforeResponse(t *testing.T) {
	reset := func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }
	tests := []struct {
		name    string
		request func() *Request
		partial string // of the response
		end     func(net.Conn)
		again   bool
		want    Phase // if it is not sent again
	}{
		{"get", func() *Request { return get("/x") }, "", nil, true, 0},
		{"get, reset", func() *Request { return get("/x") }, "", reset, true, 0},
		{"head", func() *Request { return &Request{Method: "HEAD", Target: "/x"} }, "", nil, true, 0},
		{"options", func() *Request { return &Request{Method: "OPTIONS", Target: "/x"} }, "", nil, true, 0},
		{"get with a body", func() *Request {
			return &Request{Method: "GET", Target: "/x", Body: strings.NewReader("hi"), ContentLength: 2}
		}, "", nil, false, NoResponse},
		{"post without a body", func() *Request { return &Request{Method: "POST", Target: "/x"} }, "", nil, false, NoResponse},
		{"post with a key", func() *Request {
			return &Request{Method: "POST", Target: "/x", Header: http.Header{"Idempotency-Key": {"k"}}}
		}, "", nil, false, NoResponse},
		{"delete", func() *Request { return &Request{Method: "DELETE", Target: "/x"} }, "", reset, false, NoResponse},
		{"put", func() *Request { return &Request{Method: "PUT", Target: "/x"} }, "", nil, false, NoResponse},
		{"lower case", func() *Request { return &Request{Method: "get", Target: "/x"} }, "", nil, false, NoResponse},
		{"a byte of the response", func() *Request { return get("/x") }, "H", nil, false, BrokenResponse},
		{"an interim response", func() *Request { return get("/x") }, "HTTP/1.1 103 Early Hints\r\n\r\n", nil, false, BrokenResponse},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serveRaw(t, func(r *bufio.Reader, c net.Conn, n int) {
				readRequest(r)
				_, _ = io.WriteString(c, okResponse)
				if n > 1 {
					return
				}
				readRequest(r)
				_, _ = io.WriteString(c, tt.partial)
				if tt.end != nil {
					tt.end(c)
				}
			})
			c := newClient(t, s.address)
			do(t, c, get("/warm")).check(t, 200, "ok")
			r := tt.request()
			got := do(t, c, r)
			want := 1
			if tt.again {
				want = 2
				if got.status != 200 || got.err != nil {
					t.Errorf("response = %d, %v, want 200", got.status, got.err)
				}
			} else {
				got.checkPhase(t, tt.want)
			}
			if n := strings.Count(s.received(), " /x "); n != want && r.Target == "/x" {
				t.Errorf("the request was sent %d times, want %d", n, want)
			}
		})
	}
}

// Over all calls with one Request, there is one retry of this kind.
func TestRequestIsResentOnce(t *testing.T) {
	s := serveRaw(t, func(r *bufio.Reader, c net.Conn, n int) {
		readRequest(r)
		_, _ = io.WriteString(c, okResponse)
		readRequest(r) // and close the connection without a response
	})
	c := newClient(t, s.address)
	r := get("/x")
	do(t, c, get("/warm")).check(t, 200, "ok")
	do(t, c, r).check(t, 200, "ok")        // on the second connection
	do(t, c, r).checkPhase(t, NoResponse)  // which ends now
	do(t, c, r).check(t, 200, "ok")        // on a new one
	do(t, c, get("/")).check(t, 200, "ok") // another request has a retry of its own
	if n := strings.Count(s.received(), " /x "); n != 4 {
		t.Errorf("the request was sent %d times, want 4", n)
	}
}

func TestNewConnectionEndsBeforeResponse(t *testing.T) {
	s := serveRaw(t, func(r *bufio.Reader, _ net.Conn, _ int) { readRequest(r) })
	do(t, newClient(t, s.address), get("/")).checkPhase(t, NoResponse)
	if n := s.connections(); n != 1 {
		t.Errorf("connections = %d, want 1: only reused connections are replaced", n)
	}
}

// If the retry cannot connect, the error says that the request was sent before.
func TestRetryWithoutConnection(t *testing.T) {
	l := listen(t)
	s := serveRawOn(t, l, func(r *bufio.Reader, c net.Conn, _ int) {
		readRequest(r)
		_, _ = io.WriteString(c, okResponse)
		readRequest(r)
		_ = l.Close()
	})
	c := newClient(t, s.address)
	do(t, c, get("/")).check(t, 200, "ok")
	do(t, c, get("/")).checkPhase(t, NoResponse)
	do(t, c, get("/")).checkPhase(t, NotSent)
}

func TestUnreachable(t *testing.T) {
	l := listen(t)
	_ = l.Close()
	got := do(t, newClient(t, l.Addr().String()), post("hi"))
	got.checkPhase(t, NotSent)
	if !errors.Is(got.err, syscall.ECONNREFUSED) {
		t.Errorf("error = %v, want ECONNREFUSED", got.err)
	}
}

func TestConcurrentRequests(t *testing.T) {
	s := serveRaw(t, func(r *bufio.Reader, c net.Conn, _ int) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s", len(req.RequestURI)+len(body), req.RequestURI, body)
		}
	})
	c := newClient(t, s.address)
	var running sync.WaitGroup
	for i := range 50 {
		running.Go(func() {
			for j := range 40 {
				target := fmt.Sprintf("/%d/%d", i, j)
				if j%2 == 0 {
					do(t, c, get(target)).check(t, 200, target)
				} else {
					r := post(" body")
					r.Target = target
					do(t, c, r).check(t, 200, target+" body")
				}
			}
		})
	}
	running.Wait()
	if n := s.connections(); n > 100 {
		t.Errorf("connections = %d for 50 goroutines, want that they are reused", n)
	}
}
