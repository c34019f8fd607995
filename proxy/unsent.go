package proxy

import (
	"crypto/tls"
	"net/http/httptrace"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

// conn is the upstream connection of one attempt. Its zero value is none.
type connUse struct {
	conn          *outbound.TrackedConn // nil where writes are not tracked
	writtenBefore int                   // bytes written when the attempt got it
	tlsOverhead   int                   // bytes that TLS may write on its own account
	reused        bool
	got           bool // there was a connection
}

// tlsCloseOverhead is more than TLS needs to close a connection, and less than the
// smallest request with a credential takes over it.
const tlsCloseOverhead = 64

func newLine(info httptrace.GotConnInfo) connUse {
	l := connUse{reused: info.Reused, got: true}
	if _, ok := info.Conn.(*tls.Conn); ok {
		l.tlsOverhead = tlsCloseOverhead
	}
	if l.conn = outbound.Tracked(info.Conn); l.conn != nil {
		l.writtenBefore = l.conn.Written()
	}
	return l
}

// unused reports whether it is known that the attempt, which has failed, has
// written nothing to a connection that was there before it.
func (l connUse) unused() bool {
	return l.reused && l.conn != nil && l.conn.Written()-l.writtenBefore <= l.tlsOverhead
}
