package connect

import (
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
	// patience is how long a page may wait for Pleo: for a refresh under way to
	// end, for an exchange, and for what is asked about its tokens.
	patience       = 4 * time.Minute
	idleTimeout    = time.Minute
	maxHeaderBytes = 16 << 10
	maxConnections = 512
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
	}
}

// LimitConnections lets l accept no more than 512 connections at a time, so that
// clients of the pages leave room for those of the other listeners.
func LimitConnections(l net.Listener) net.Listener {
	return &limited{Listener: l, room: make(chan struct{}, maxConnections), done: make(chan struct{})}
}

type limited struct {
	net.Listener
	room   chan struct{} // holds one for each open connection
	done   chan struct{} // closed by Close
	closed sync.Once
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &limitedConn{Conn: conn, leave: sync.OnceFunc(func() { <-l.room })}, nil
}

func (l *limited) Close() error {
	l.closed.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
