package pleo

import (
	"context"
	"net"
	"sync"
)

// dialFunc is the type of [net/http.Transport.DialContext].
type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// trackedConn is a connection that counts the bytes written to it, and that can be
// closed for writing if there were none. Together they prove that a request was
// not sent, which net/http does not report.
type trackedConn struct {
	net.Conn

	mu      sync.Mutex // guards what follows
	written int        // bytes, including those of a write in progress
	closed  bool       // for writing
}

// trackWrites returns dial with its connections wrapped in a trackedConn.
func trackWrites(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &trackedConn{Conn: c}, nil
	}
}

// trackedBelow returns the trackedConn below the TLS layers of c, or nil if there is
// none. A forward proxy that uses TLS makes two layers.
func trackedBelow(c net.Conn) *trackedConn {
	for {
		switch layer := c.(type) {
		case *trackedConn:
			return layer
		case interface{ NetConn() net.Conn }: // *tls.Conn
			c = layer.NetConn()
		default:
			return nil
		}
	}
}

// Write counts the bytes before it writes them, because an interrupted write may
// have sent them all, and afterwards subtracts those that were not written.
func (c *trackedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	c.written += len(b)
	c.mu.Unlock()

	n, err := c.Conn.Write(b)

	c.mu.Lock()
	c.written -= len(b) - n
	c.mu.Unlock()
	return n, err
}

// bytesWritten returns how many bytes were written, including all of a write in
// progress.
func (c *trackedConn) bytesWritten() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written
}

// closeIfUnwritten reports whether nothing was written since bytesWritten returned the
// value before. If so, later writes fail, so that the result stays true.
func (c *trackedConn) closeIfUnwritten(before int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.written != before {
		return false
	}
	c.closed = true
	return true
}
