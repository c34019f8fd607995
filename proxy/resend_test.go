package proxy

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy/upstream"
)

// deadConns dials connections that can be killed while they are idle: reading
// blocks, and writing fails after a number of bytes.
type deadConns struct {
	mu    sync.Mutex // guards conns
	conns []*deadConn
}

type deadConn struct {
	net.Conn
	dead  atomic.Bool
	takes int // bytes that are still written
}

func (m *deadConns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = append(m.conns, &deadConn{Conn: c})
	return m.conns[len(m.conns)-1], nil
}

func (m *deadConns) killAll(takes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		c.takes = takes
		c.dead.Store(true)
	}
}

func (c *deadConn) Write(p []byte) (int, error) {
	if !c.dead.Load() {
		return c.Conn.Write(p)
	}
	n, _ := c.Conn.Write(p[:min(c.takes, len(p))])
	return n, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
}

// countRequests responds with the body, and counts the requests for each path.
func countRequests(seen *sync.Map) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, _ := seen.LoadOrStore(r.URL.Path, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		echo(w, r)
	}
}

func timesSeen(seen *sync.Map, path string) int64 {
	n, ok := seen.Load(path)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

var deadRequests = []struct{ name, method, header, body string }{
	{"get", "GET", "", ""},
	{"head", "HEAD", "", ""},
	{"delete", "DELETE", "", ""},
	{"post", "POST", "", "hi"},
	{"post with a key", "POST", "k", "hi"},
	{"post with a key and no body", "POST", "k", ""},
	{"large post", "PUT", "", strings.Repeat("0123456789", 10_000)},
}

// A request is sent on another connection if an idle one died before anything was
// written to it.
func TestUnwrittenRequestIsResent(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, tt := range deadRequests {
			t.Run(fmt.Sprintf("%s, TLS: %v", tt.name, secure), func(t *testing.T) {
				var seen sync.Map
				m, r := newDeadConnProxy(t, secure, countRequests(&seen))
				r.do("GET", "/warm", nil)
				m.killAll(0)
				got := r.do(tt.method, "/x", bodyOf(tt.body), "Idempotency-Key", tt.header)
				want := tt.body
				if tt.method == "HEAD" {
					want = ""
				}
				if got.StatusCode != 200 || got.body != want || timesSeen(&seen, "/x") != 1 {
					t.Errorf("response = %d with %d bytes after %d requests, want 200 with %d after 1", got.StatusCode, len(got.body), timesSeen(&seen, "/x"), len(want))
				}
				r.logEntry()
				if line := r.logEntry(); line["attempts"] != int64(1) {
					t.Errorf("log: attempts = %v, want 1", line["attempts"])
				}
			})
		}
	}
}

func bodyOf(s string) io.Reader {
	if s == "" {
		return nil
	}
	return strings.NewReader(s)
}

func newDeadConnProxy(t *testing.T, secure bool, api http.HandlerFunc) (*deadConns, *testProxy) {
	t.Helper()
	m := &deadConns{}
	server := httptest.NewUnstartedServer(api)
	var roots *x509.CertPool
	if secure {
		server.StartTLS()
		roots = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return m, newTestProxyTo(t, newFakeCredentials("acme"), server.URL, func(c *Config) {
		c.Upstream = newUpstream(t, server.URL, func(c *upstream.Config) { c.Dial, c.RootCAs = m.dial, roots })
	})
}

// The same holds for a replay.
func TestUnwrittenReplayIsResent(t *testing.T) {
	v := newFakeCredentials("acme")
	var m *deadConns
	m, r := newDeadConnProxy(t, false, func(w http.ResponseWriter, req *http.Request) { v.requireToken(echo)(w, req) })
	r.do("GET", "/warm", nil) // rejected: v is not yet the proxy's
	r.credentials.mu.Lock()
	r.credentials.current = v.current
	r.credentials.mu.Unlock()
	v.expire("acme")
	body := strings.Repeat("x", 100_000)
	m.killAll(0)
	if got := r.do("POST", "/", strings.NewReader(body)); got.StatusCode != 200 || got.body != body {
		t.Errorf("response = %d with %d bytes, want 200 with all", got.StatusCode, len(got.body))
	}
}
