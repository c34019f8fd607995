package postgrestest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Relay is a TCP relay between a program and the server that can fail like a network. It
// is safe for concurrent use.
type Relay struct {
	listener net.Listener

	mu     sync.Mutex             // guards all below
	server string                 // where connections go
	pairs  map[*pair]struct{}     // connections that are relayed
	state  relayState             // what happens to them
	change chan struct{}          // closed by the next change of the state
	lose   func(sent []byte) bool // see LoseResponse; nil: no response is lost

	running sync.WaitGroup
}

type relayState int

const (
	passing relayState = iota
	cut                // connections are closed at once
	stalled            // connections stay open and transmit nothing
)

// pair is a connection of the program and its connection to the server.
type pair struct{ client, server net.Conn }

func (p *pair) close() {
	_ = p.client.Close() // both may be closed already
	_ = p.server.Close()
}

// NewRelay starts a relay to the address of a server, host:port.
func NewRelay(ctx context.Context, server string) (*Relay, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting a relay: %w", err)
	}
	r := &Relay{listener: l, server: server, pairs: make(map[*pair]struct{}), change: make(chan struct{})}
	r.running.Go(r.accept)
	return r, nil
}

// DSN returns the connection string through the relay.
func (r *Relay) DSN(t testing.TB, direct string) string {
	t.Helper()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal("parsing the connection string: it must be a URL")
	}
	u.Host = r.listener.Addr().String()
	return u.String()
}

// Address returns the host:port of the relay.
func (r *Relay) Address() string { return r.listener.Addr().String() }

// Turn directs new connections to another server and closes the existing ones.
func (r *Relay) Turn(server string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.server = server
	r.closeAll()
}

// Cut closes all connections, existing and new, as if the server were down.
func (r *Relay) Cut() { r.set(cut) }

// Stall transmits nothing and keeps connections open, like a firewall that drops packets.
func (r *Relay) Stall() { r.set(stalled) }

// Restore ends Cut or Stall.
func (r *Relay) Restore() { r.set(passing) }

func (r *Relay) set(s relayState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = s
	close(r.change)
	r.change = make(chan struct{})
	if s == cut {
		r.closeAll()
	}
}

// closeAll closes all connections. The caller holds r.mu.
func (r *Relay) closeAll() {
	for p := range r.pairs {
		p.close()
	}
}

// LoseResponse closes a connection once what it has sent matches and the server begins to
// respond: the request takes effect, and its response is lost.
func (r *Relay) LoseResponse(matches func(sent []byte) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lose = matches
}

// Commits matches the end of a transaction.
func Commits(sent []byte) bool { return bytes.Contains(sent, []byte("commit\x00")) }

// Close stops the relay and closes all connections.
func (r *Relay) Close() error {
	err := r.listener.Close()
	r.set(cut)
	r.running.Wait()
	return err
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.running.Go(func() { r.relay(client) })
	}
}

func (r *Relay) relay(client net.Conn) {
	if !r.await() {
		_ = client.Close()
		return
	}
	server, err := net.Dial("tcp", r.to()) //nolint:noctx // it is on this machine
	if err != nil {
		_ = client.Close()
		return
	}
	p := &pair{client, server}
	r.enter(p)
	defer r.leave(p)
	var both sync.WaitGroup
	matched := make(chan struct{})
	both.Go(func() { r.copy(p, server, client, func(sent []byte) { r.watch(sent, matched) }) })
	both.Go(func() {
		r.copy(p, client, server, func([]byte) {
			select {
			case <-matched:
				p.close()
			default:
			}
		})
	})
	both.Wait()
}

// to returns the current address of the server.
func (r *Relay) to() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.server
}

// watch closes matched if the response to what was sent must be lost.
func (r *Relay) watch(sent []byte, matched chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lose == nil || !r.lose(sent) {
		return
	}
	select {
	case <-matched:
	default:
		close(matched)
	}
}

func (r *Relay) enter(p *pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pairs[p] = struct{}{}
	if r.state == cut {
		p.close()
	}
}

func (r *Relay) leave(p *pair) {
	p.close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pairs, p)
}

// await waits while the relay is stalled, and reports whether it transmits then.
func (r *Relay) await() bool {
	for {
		r.mu.Lock()
		state, change := r.state, r.change
		r.mu.Unlock()
		if state != stalled {
			return state == passing
		}
		<-change
	}
}

// copy transmits bytes, after it has passed them to seen, until one side closes.
func (r *Relay) copy(p *pair, to io.Writer, from io.Reader, seen func([]byte)) {
	defer p.close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if !r.await() {
			return
		}
		seen(buffer[:n])
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
