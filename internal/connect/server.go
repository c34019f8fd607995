package connect

import (
	"container/list"
	"crypto/tls"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits of the connect listener, which anybody can reach.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 30 * time.Second
	// maxPageDuration is how long a page may wait for Pleo: for a refresh under way to
	// end, for an exchange, and for what is asked about its tokens.
	maxPageDuration = 4 * time.Minute
	idleTimeout     = time.Minute
	maxHeaderBytes  = 16 << 10
	maxConnections  = 512
)

// NewServer returns the server of the connect listener, with limits that slow
// and many clients cannot exceed: over TLS, by ServeTLS without files, unless t is
// nil. What it serves should come from [LimitConnections]. errorLog gets what goes
// wrong below HTTP.
func NewServer(h http.Handler, t *tls.Config, errorLog *log.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		TLSConfig:         t,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          errorLog,
		ConnState:         trackIdle,
	}
}

// LimitConnections lets l accept no more than 512 connections at a time, so that
// clients of the pages leave room for those of the other listeners. Where there is
// no room, the connection goes that has waited longest for its client's next
// request.
func LimitConnections(l net.Listener) net.Listener {
	return &limitedListener{
		Listener: l, slots: make(chan struct{}, maxConnections),
		becameIdle: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

type limitedListener struct {
	net.Listener
	slots      chan struct{} // holds one for each open connection
	becameIdle chan struct{} // has one when a connection became idle
	done       chan struct{} // closed by Close
	closed     sync.Once

	mu   sync.Mutex // guards idle, and which connection is in it where
	idle list.List  // of *limitedConn, the longest first
}

func (l *limitedListener) Accept() (net.Conn, error) {
	if err := l.acquireSlot(); err != nil {
		return nil, err
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: conn, listener: l, releaseSlot: sync.OnceFunc(func() { <-l.slots })}, nil
}

// acquireSlot waits for room, or makes some.
func (l *limitedListener) acquireSlot() error {
	for {
		select {
		case l.slots <- struct{}{}:
			return nil
		default:
		}
		if idle := l.longestIdle(); idle != nil {
			_ = idle.Close() // nobody waits for what it would say
		}
		select {
		case l.slots <- struct{}{}:
			return nil
		case <-l.becameIdle:
		case <-l.done:
			return net.ErrClosed
		}
	}
}

func (l *limitedListener) longestIdle() *limitedConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.idle.Front()
	if first == nil {
		return nil
	}
	c := l.idle.Remove(first).(*limitedConn)
	c.element = nil
	return c
}

func (l *limitedListener) Close() error {
	l.closed.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	listener    *limitedListener
	releaseSlot func()
	element     *list.Element // among those that are idle; nil elsewhere
}

func (c *limitedConn) Close() error {
	defer c.releaseSlot()
	return c.Conn.Close()
}

// trackIdle is an [http.Server]'s ConnState: it keeps track of which connections are
// between two requests.
func trackIdle(conn net.Conn, state http.ConnState) {
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	if c, ok := conn.(*limitedConn); ok {
		c.setIdle(state == http.StateIdle)
	}
}

func (c *limitedConn) setIdle(idle bool) {
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.element != nil {
		l.idle.Remove(c.element)
		c.element = nil
	}
	if !idle {
		return
	}
	c.element = l.idle.PushBack(c)
	select {
	case l.becameIdle <- struct{}{}:
	default:
	}
}
