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

// Limits of the connect listener, which is public.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 30 * time.Second
	// maxPageDuration is how long a page may wait for Pleo: for a refresh in
	// progress, the exchange, and introspection.
	maxPageDuration = 4 * time.Minute
	idleTimeout     = time.Minute
	maxHeaderBytes  = 16 << 10
	maxConnections  = 512
)

// NewServer returns the server of the connect listener, with limits for slow clients.
// Unless t is nil it uses TLS, by ServeTLS without files. Its listener should come
// from [LimitConnections]. errorLog receives errors below HTTP.
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

// LimitConnections lets l accept at most 512 connections at a time, which leaves
// file descriptors for the other listeners. At the limit it closes the connection
// that has been idle for the longest time.
func LimitConnections(l net.Listener) net.Listener {
	return &limitedListener{
		Listener: l, slots: make(chan struct{}, maxConnections),
		becameIdle: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

type limitedListener struct {
	net.Listener
	slots      chan struct{} // holds one for each open connection
	becameIdle chan struct{} // receives one when a connection becomes idle
	done       chan struct{} // closed by Close
	closed     sync.Once

	mu   sync.Mutex // guards idle and the element of each connection
	idle list.List  // of *limitedConn, the longest idle first
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

// acquireSlot waits for a slot, and closes an idle connection for it if there is one.
func (l *limitedListener) acquireSlot() error {
	for {
		select {
		case l.slots <- struct{}{}:
			return nil
		default:
		}
		if idle := l.longestIdle(); idle != nil {
			_ = idle.Close() // nothing depends on an idle connection
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
	element     *list.Element // of listener.idle; nil while the connection is in use
}

func (c *limitedConn) Close() error {
	defer c.releaseSlot()
	return c.Conn.Close()
}

// trackIdle is the ConnState function of a server.
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
	default: // one signal is enough
	}
}
