package pleo

import (
	"context"
	"net"
	"sync"
)

// watchedConn knows whether anything has been written to it since a mark, and
// can be kept from being written to, so that "nothing was sent" is a proof and
// not a guess.
type watchedConn struct {
	net.Conn

	mu      sync.Mutex // guards what follows
	written int        // bytes handed to the kernel, those of a write under way included
	shut    bool
}

// watch makes dial return connections that are watched.
func watch(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &watchedConn{Conn: c}, nil
	}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// watchedUnder returns the watched connection that c, perhaps TLS in TLS, runs
// on; nil when there is none.
func watchedUnder(c net.Conn) *watchedConn {
	for {
		switch layer := c.(type) {
		case *watchedConn:
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
func (c *watchedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.shut {
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

// mark returns what [watchedConn.untouched] is to compare with.
func (c *watchedConn) mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written
}

// untouched reports whether nothing has been written since the mark. If so,
// nothing can be any more.
func (c *watchedConn) untouched(mark int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.written != mark {
		return false
	}
	c.shut = true
	return true
}
