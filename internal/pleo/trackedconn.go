package pleo

import (
	"context"
	"net"
	"sync"
)

// trackedConn knows whether anything has been written to it since a mark, and
// can be kept from being written to, so that "nothing was sent" is a proof and
// not a guess.
type trackedConn struct {
	net.Conn

	mu      sync.Mutex // guards what follows
	written int        // bytes handed to the kernel, those of a write under way included
	closed  bool
}

// trackWrites makes dial return connections that are watched.
func trackWrites(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &trackedConn{Conn: c}, nil
	}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// trackedConnOf returns the watched connection that c, perhaps TLS in TLS, runs
// on; nil when there is none.
func trackedConnOf(c net.Conn) *trackedConn {
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

// Write counts the bytes before they are written, because a write that is
// interrupted may have sent them all, and takes back those that were not.
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

// position returns what [trackedConn.closeIfUnwritten] is to compare with.
func (c *trackedConn) position() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written
}

// closeIfUnwritten reports whether nothing has been written since the mark. If so,
// nothing can be any more.
func (c *trackedConn) closeIfUnwritten(mark int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.written != mark {
		return false
	}
	c.closed = true
	return true
}
