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

// unreachable is F8: nothing is sent, so nothing is lost, and the tries grow
// rarer, out of step with each other.
func unreachable(r *run) {
	r.variant("refused dial", func(r *run) {
		r.Parallel()
		port := r.deadPort()
		w := r.newEnvWith(simulator.Config{}, func(*env) string { return fmt.Sprintf("auth_url: %q", "http://"+port.address) })
		connections := w.connectExpired(max(3, r.trials/3))
		p := w.outage(connections)
		port.serve(w.sim.AuthorizationServer())
		w.awaitFinal(p, connections) // without a hand
		p.stop()
		w.finish(len(connections))
	})
	r.variant("name that does not resolve", func(r *run) {
		r.Parallel()
		// Go resolves no name of this kind (RFC 7686), and asks nobody.
		w := r.newEnvWith(simulator.Config{}, func(*env) string { return `auth_url: "https://authorization-server.onion"` })
		connections := w.connectExpired(max(3, r.trials/3))
		p := w.outage(connections)
		p.stop()
		w.finish(len(connections))
	})
	r.variant("certificate of somebody else", func(r *run) {
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

// outage starts a process, lets it try for some seconds and checks what it does.
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
		time.Sleep(2 * time.Second) // how often it tries meanwhile is what is tested
	}
	w.checkBackoff(p, connections)
	if c := w.sim.Counters(); c.MaxTimesSent > 0 {
		w.violation("a token was presented %d times to a server that cannot be reached", c.MaxTimesSent)
	}
	return p
}

// refreshFailure is a line of the log that says when a refresh is tried again.
type refreshFailure struct {
	Time       time.Time `json:"time"`
	Connection string    `json:"connection"`
	NextAt     time.Time `json:"next_at"`
}

// refreshFailures reads them from the log, by connection.
func (p *process) refreshFailures() map[string][]refreshFailure {
	found := map[string][]refreshFailure{}
	for line := range strings.Lines(p.log.String()) {
		var s refreshFailure
		if json.Unmarshal([]byte(line), &s) == nil && !s.NextAt.IsZero() {
			found[s.Connection] = append(found[s.Connection], s)
		}
	}
	return found
}

// checkBackoff checks that waits double from one second on, and that they are
// spread: a connection waits between half of that and all of it.
func (w *env) checkBackoff(p *process, connections []connection) {
	w.Helper()
	first := map[time.Duration]bool{}
	all := p.refreshFailures()
	for _, l := range connections {
		if len(all[l.name]) < 2 {
			w.violation("%s was tried %d times in 8 s, want more", l.name, len(all[l.name]))
		}
		for i, s := range all[l.name] {
			most, slack := time.Second<<i, 20*time.Millisecond
			if wait := s.NextAt.Sub(s.Time); wait < most/2-slack || wait > most+slack {
				w.violation("%s: wait %d is %v, want between %v and %v", l.name, i+1, wait, most/2, most)
			}
			if i == 0 {
				first[s.NextAt.Sub(s.Time)] = true
			}
		}
	}
	if len(first) < 2 {
		w.violation("all connections wait equally long: %v", first)
	}
}

// deadPort is an address at which nobody listens, and nobody else can.
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
	go func() { _ = server.Serve(listener) }() // getUntil it is closed
	d.Cleanup(func() { _ = server.Close() })
}

// gate is an authorization server over TLS that can leave its clients standing
// in the handshake, where they have sent nothing yet.
type gate struct {
	net.Listener
	came chan struct{} // a value for each client that stands there

	shut atomic.Bool
	mu   sync.Mutex    // guards open
	open chan struct{} // closed when clients may go on
}

// moveBehindGate puts the authorization server of a world behind a gate.
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

// stop leaves the clients that come from now on in the handshake.
func (g *gate) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
	g.shut.Store(true)
}

// allow lets all clients go on.
func (g *gate) allow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut.Swap(false) {
		close(g.open)
	}
}

// Accept takes a client; while the gate is shut nothing is read from it.
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

// blockedConn is a client at the gate.
type blockedConn struct {
	net.Conn
	open <-chan struct{}
}

// Read waits for the gate.
func (s *blockedConn) Read(p []byte) (int, error) {
	<-s.open
	return s.Conn.Read(p)
}

// killedBeforeSending is F12. The kernel frees the lease at once.
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
		heir := w.serve()
		for _, l := range connections {
			holder := w.serve()
			g.stop()
			pending := holder.sendAsync(l)
			<-g.came
			waiting := heir.sendAsync(l)
			holder.kill()
			<-pending
			g.allow()
			w.checkImmediate(<-waiting, l, heir)
		}
		w.checkWorking(heir, connections)
		heir.stop()
		w.finish(len(connections))
	})
}

// maxConcurrentRefreshes checks that a connection was served without waiting for any time-out.
func (w *env) checkImmediate(a response, l connection, p *process) {
	w.Helper()
	if a.status != http.StatusOK || a.took > 2*time.Second {
		w.violation("%s: %d after %v, want 200 within 2 s: %s\n%s", l.name, a.status, a.took, a.body, p.log)
	}
}
