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

// morgue dials connections that can be made to have died in the pool: reading
// says nothing, writing fails after as many bytes as they still take.
type morgue struct {
	mu    sync.Mutex // guards conns
	conns []*mortal
}

type mortal struct {
	net.Conn
	dead  atomic.Bool
	takes int // bytes of a write after death
}

func (m *morgue) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = append(m.conns, &mortal{Conn: c})
	return m.conns[len(m.conns)-1], nil
}

func (m *morgue) killAll(takes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		c.takes = takes
		c.dead.Store(true)
	}
}

func (c *mortal) Write(p []byte) (int, error) {
	if !c.dead.Load() {
		return c.Conn.Write(p)
	}
	n, _ := c.Conn.Write(p[:min(c.takes, len(p))])
	return n, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
}

// counting answers with the body, and counts requests for each path.
func counting(seen *sync.Map) http.HandlerFunc {
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

// A pooled connection that died before anything was written to it is no reason
// to fail, over TLS or not.
func TestRequestThatWasNotWrittenIsSentAgain(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, tt := range deadRequests {
			t.Run(fmt.Sprintf("%s, TLS: %v", tt.name, secure), func(t *testing.T) {
				var seen sync.Map
				m, r := newMorgueRig(t, secure, counting(&seen))
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

func newMorgueRig(t *testing.T, secure bool, api http.HandlerFunc) (*morgue, *testProxy) {
	t.Helper()
	m := &morgue{}
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

// A replay meets a dead connection as well as a first attempt may.
func TestReplayThatWasNotWrittenIsSentAgain(t *testing.T) {
	v := newFakeCredentials("acme")
	var m *morgue
	m, r := newMorgueRig(t, false, func(w http.ResponseWriter, req *http.Request) { v.requireToken(echo)(w, req) })
	r.do("GET", "/warm", nil) // refused: this vault is not the rig's
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
