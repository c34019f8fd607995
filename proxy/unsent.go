package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptrace"
	"sync/atomic"
)

// DialFunc is [net/http.Transport.DialContext].
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// CountWrites returns dial with connections that count what is written to them.
// On a [Config.Transport] that dials by it, a request that meets a pooled
// connection that has died is sent again on another, if none of its bytes were
// written. Without it such a request fails.
func CountWrites(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &countedConn{Conn: c}, nil
	}
}

type countedConn struct {
	net.Conn
	written atomic.Int64
}

// Write is Conn's, counted.
func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// conn is the upstream connection of one attempt. Its zero value is none.
type connUse struct {
	conn          *countedConn // nil where writes are not counted
	writtenBefore int64        // bytes written when the attempt got it
	tlsOverhead   int64        // bytes that TLS may write on its own account
	reused        bool
	got           bool // there was a connection
}

// tlsCloseOverhead is more than TLS needs to close a connection, and less than the
// smallest request with a credential takes over it.
const tlsCloseOverhead = 64

func newLine(info httptrace.GotConnInfo) connUse {
	l := connUse{reused: info.Reused, got: true}
	c := info.Conn
	if over, ok := c.(*tls.Conn); ok {
		c, l.tlsOverhead = over.NetConn(), tlsCloseOverhead
	}
	if l.conn, _ = c.(*countedConn); l.conn != nil {
		l.writtenBefore = l.conn.written.Load()
	}
	return l
}

// unused reports whether it is known that the attempt, which has failed, has
// written nothing to a connection that was there before it.
func (l connUse) unused() bool {
	return l.reused && l.conn != nil && l.conn.written.Load()-l.writtenBefore <= l.tlsOverhead
}
