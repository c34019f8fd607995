package faults

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
)

// forwardProxy is a forward proxy in front of the simulator: every process of a soak has
// its own, so that the end of its connections can be awaited. It serves requests in
// absolute form, and tunnels (CONNECT), with the handler of the simulator.
type forwardProxy struct {
	*httptest.Server
	tunnels sync.WaitGroup
}

func newForwardProxy(simulator http.Handler) *forwardProxy {
	p := &forwardProxy{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			simulator.ServeHTTP(w, r)
			return
		}
		p.tunnels.Add(1)
		defer p.tunnels.Done()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			_ = conn.Close()
			return
		}
		serveConn(conn, simulator)
	}))
	return p
}

// Close closes the listener and returns when all handlers have returned: those of
// processes that were killed notice that their connections are closed.
func (p *forwardProxy) Close() {
	p.Server.Close()
	p.tunnels.Wait()
}

// serveConn serves the requests of one connection until it is closed.
func serveConn(conn net.Conn, h http.Handler) {
	l := &singleConn{conn: conn, closed: make(chan struct{})}
	server := &http.Server{ //nolint:gosec // G112: the client is our program
		Handler:  h,
		ErrorLog: discardLogger(),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				l.once.Do(func() { close(l.closed) })
			}
		},
	}
	_ = server.Serve(l) // ends with the connection
}

// singleConn is a listener with one connection: the second Accept returns io.EOF when
// that is closed.
type singleConn struct {
	conn     net.Conn
	accepted bool
	once     sync.Once
	closed   chan struct{}
}

func (l *singleConn) Accept() (net.Conn, error) {
	if !l.accepted {
		l.accepted = true
		return l.conn, nil
	}
	<-l.closed
	return nil, io.EOF
}

func (*singleConn) Close() error     { return nil }
func (l *singleConn) Addr() net.Addr { return l.conn.LocalAddr() }
