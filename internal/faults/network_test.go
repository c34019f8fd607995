package faults

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// unreachable is F8: nothing is sent, so nothing is lost. The retries back off, each
// connection at its own pace.
func unreachable(r *run) {
	r.variant("connection refused", func(r *run) {
		r.Parallel()
		port := r.deadPort()
		w := r.newEnvWith(simulator.Config{}, func(*env) string { return fmt.Sprintf("auth_url: %q", "http://"+port.address) })
		connections := w.connectExpired(max(3, r.trials/3))
		p := w.outage(connections)
		port.serve(w.sim.AuthorizationServer())
		w.awaitFinal(p, connections) // without an operator
		p.stop()
		w.finish(len(connections))
	})
	r.variant("DNS failure", func(r *run) {
		r.Parallel()
		// Go does not resolve such names (RFC 7686).
		w := r.newEnvWith(simulator.Config{}, func(*env) string { return `auth_url: "https://authorization-server.onion"` })
		connections := w.connectExpired(max(3, r.trials/3))
		p := w.outage(connections)
		p.stop()
		w.finish(len(connections))
	})
	r.variant("untrusted certificate", func(r *run) {
		r.Parallel()
		w := r.newEnvWith(simulator.Config{}, func(w *env) string {
			server := httptest.NewUnstartedServer(w.sim.AuthorizationServer())
			server.Config.ErrorLog = discardLogger()
			server.StartTLS()
			w.Cleanup(server.Close)
			return fmt.Sprintf("auth_url: %q", server.URL)
		})
		connections := w.connectExpired(max(3, r.trials/3))
		p := w.outage(connections)
		p.stop()
		w.finish(len(connections))
	})
}

// outage starts a process, lets it try for some seconds and checks its retries.
func (w *env) outage(connections []connection) *process {
	w.Helper()
	p := w.serve()
	for range 4 {
		for _, l := range connections {
			a := p.get(l)
			if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
				w.violation("%s: %d %q, want 503 with Retry-After: %s", l.name, a.status, a.header.Get("Retry-After"), a.body)
			}
		}
		time.Sleep(2 * time.Second) // the number of retries is what is tested
	}
	w.checkBackoff(p, connections)
	if c := w.sim.Counters(); c.MaxTimesSent > 0 {
		w.violation("a token was sent %d times to an unreachable server", c.MaxTimesSent)
	}
	return p
}

// refreshFailure is a log entry about a refresh that will be retried.
type refreshFailure struct {
	Time       time.Time `json:"time"`
	Connection string    `json:"connection"`
	RetryAt    time.Time `json:"retry_at"`
}

// refreshFailures reads them from the log, by connection.
func (p *process) refreshFailures() map[string][]refreshFailure {
	found := map[string][]refreshFailure{}
	for line := range strings.Lines(p.log.String()) {
		var s refreshFailure
		if json.Unmarshal([]byte(line), &s) == nil && !s.RetryAt.IsZero() {
			found[s.Connection] = append(found[s.Connection], s)
		}
	}
	return found
}

// checkBackoff checks that delays double from one second on, with jitter: each is
// between half of that and all of it.
func (w *env) checkBackoff(p *process, connections []connection) {
	w.Helper()
	first := map[time.Duration]bool{}
	all := p.refreshFailures()
	for _, l := range connections {
		if len(all[l.name]) < 2 {
			w.violation("%s was retried %d times in 8 s, want more", l.name, len(all[l.name]))
		}
		for i, s := range all[l.name] {
			most, slack := time.Second<<i, 20*time.Millisecond
			if wait := s.RetryAt.Sub(s.Time); wait < most/2-slack || wait > most+slack {
				w.violation("%s: delay %d is %v, want between %v and %v", l.name, i+1, wait, most/2, most)
			}
			if i == 0 {
				first[s.RetryAt.Sub(s.Time)] = true
			}
		}
	}
	if len(first) < 2 {
		w.violation("all connections have the same first delay: %v", first)
	}
}

// deadPort is an address that is bound, so that no process can listen on it.
type deadPort struct {
	*run
	address string
	file    *os.File
}

func (r *run) deadPort() *deadPort {
	r.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		r.Fatal(err)
	}
	d := &deadPort{run: r, file: os.NewFile(uintptr(fd), "port")} //nolint:gosec // a descriptor is small
	r.Cleanup(func() { _ = d.file.Close() })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		r.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		r.Fatal(err)
	}
	d.address = fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	return d
}

// serve ends the outage.
func (d *deadPort) serve(h http.Handler) {
	d.Helper()
	if err := unix.Listen(int(d.file.Fd()), 128); err != nil {
		d.Fatal(err)
	}
	listener, err := net.FileListener(d.file)
	if err != nil {
		d.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: eventTimeout}
	go func() { _ = server.Serve(listener) }() // until it is closed
	d.Cleanup(func() { _ = server.Close() })
}

// gate is the listener of a TLS server that can block clients in the handshake,
// before they have sent a request.
type gate struct {
	net.Listener
	came chan struct{} // a value for each blocked client

	shut atomic.Bool
	mu   sync.Mutex    // guards open
	open chan struct{} // closed when clients may continue
}

// moveBehindGate puts the authorization server behind a gate.
func moveBehindGate(g **gate) authServerMover {
	return func(w *env) string {
		server := httptest.NewUnstartedServer(w.sim.AuthorizationServer())
		server.Config.ErrorLog = discardLogger()
		*g = &gate{Listener: server.Listener, came: make(chan struct{}, 64), open: make(chan struct{})}
		server.Listener = *g
		server.StartTLS()
		w.Cleanup(server.Close)
		w.Cleanup((*g).allow)
		certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		return fmt.Sprintf("auth_url: %q, ca_file: %q", server.URL, w.write("ca.pem", string(certificate)))
	}
}

// stop blocks clients from now on.
func (g *gate) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
	g.shut.Store(true)
}

// allow lets all clients continue.
func (g *gate) allow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut.Swap(false) {
		close(g.open)
	}
}

// Accept accepts a client. Nothing is read from it while the gate is shut.
func (g *gate) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil || !g.shut.Load() {
		return c, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.came <- struct{}{}
	return &blockedConn{Conn: c, open: g.open}, nil
}

// blockedConn is a client that the gate blocks.
type blockedConn struct {
	net.Conn
	open <-chan struct{}
}

// Read waits until the gate is open.
func (s *blockedConn) Read(p []byte) (int, error) {
	<-s.open
	return s.Conn.Read(p)
}

// killedBeforeSending is F12. The kernel releases the lease at once.
func killedBeforeSending(r *run) {
	half := max(1, r.trials/2)
	r.variant("restart", func(r *run) {
		var g *gate
		w := r.newEnvWith(simulator.Config{}, moveBehindGate(&g))
		connections := w.connectExpired(half)
		p := w.serve()
		for _, l := range connections {
			g.stop()
			pending := p.sendAsync(l)
			<-g.came
			p.kill()
			<-pending
			g.allow()
			p = w.serve()
			w.checkImmediate(p.get(l), l, p)
		}
		w.checkWorking(p, connections)
		p.stop()
		w.finish(len(connections))
	})
	r.variant("another process", func(r *run) {
		var g *gate
		w := r.newEnvWith(simulator.Config{}, moveBehindGate(&g))
		connections := w.connectExpired(half)
		successor := w.serve()
		for _, l := range connections {
			owner := w.serve()
			g.stop()
			pending := owner.sendAsync(l)
			<-g.came
			waiting := successor.sendAsync(l)
			owner.kill()
			<-pending
			g.allow()
			w.checkImmediate(<-waiting, l, successor)
		}
		w.checkWorking(successor, connections)
		successor.stop()
		w.finish(len(connections))
	})
}

// checkImmediate checks that a request did not wait for a timeout.
func (w *env) checkImmediate(a response, l connection, p *process) {
	w.Helper()
	if a.status != http.StatusOK || a.took > 2*time.Second {
		w.violation("%s: %d after %v, want 200 within 2 s: %s\n%s", l.name, a.status, a.took, a.body, p.log)
	}
}
