package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// TrackConnections returns l with connections that tell a [Proxy] what net/http
// keeps to itself. The server of [NewServer] should serve it:
//
//   - A client that has shut down its side for writing gets its answer all the
//     same; without this it is taken for one that has left.
//   - A request with both Content-Length and Transfer-Encoding is refused, and
//     one of HTTP/1.0 with the latter, which net/http takes for one without a body.
//   - A request that is not HTTP is answered by problem+json.
//
// Over TLS only the first is done.
func TrackConnections(l net.Listener) net.Listener { return trackedListener{l} }

type trackedListener struct{ net.Listener }

func (l trackedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &clientConn{Conn: c}, nil
}

// clientConn is the connection of a client. The server may read the first byte of
// the next request while it says that the one before has been answered.
type clientConn struct {
	net.Conn

	broken  atomic.Bool // reading failed, other than by the end of what is sent
	handled atomic.Bool // a request of it has reached the proxy, and is not answered yet

	mu sync.Mutex // guards what follows
	// head is what was read since the last answer, until the header section of
	// a request was complete. A pipelined request has none: it was read with the
	// one before. The first byte may be missing.
	head     []byte
	complete bool
}

// Read is Conn's, and remembers what it saw.
func (c *clientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.recordHead(p[:n])
	if err != nil && !errors.Is(err, io.EOF) && !isTimeout(err) {
		c.broken.Store(true)
	}
	return n, err
}

// isTimeout: the server interrupts its own reads by a deadline in the past.
func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// CloseWrite lets the server end its last answer while it still waits for the
// client to read it.
func (c *clientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *clientConn) recordHead(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.complete || len(p) == 0 {
		return
	}
	from := max(len(c.head)-len("\n\r"), 0)
	c.head = append(c.head, p...)
	fresh := c.head[from:]
	c.complete = bytes.Contains(fresh, []byte("\n\r\n")) || bytes.Contains(fresh, []byte("\n\n")) ||
		len(c.head) > maxHeaderBytes+4096 // more than the server reads
}

// headBufferSize is what most header sections fit into, in bytes. A larger
// buffer is not kept for the next one.
const headBufferSize = 4 << 10

// reset forgets the request that has been answered.
func (c *clientConn) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cap(c.head) > headBufferSize {
		c.head = nil
	}
	c.head, c.complete = c.head[:0], false
	c.handled.Store(false)
}

// framing reports which of the fields that say how long a body is the header
// section has.
func (c *clientConn) framing() (length, coding bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for line := range bytes.SplitSeq(c.head, []byte("\n")) {
		if len(bytes.TrimSuffix(line, []byte("\r"))) == 0 {
			break
		}
		name, _, _ := bytes.Cut(line, []byte(":"))
		length = length || bytes.EqualFold(name, []byte("Content-Length"))
		coding = coding || bytes.EqualFold(name, []byte("Transfer-Encoding"))
	}
	return length, coding
}

// Write is Conn's, but puts a problem in the place of the answers that net/http
// gives by itself, to requests that it does not hand on, so that clients can
// tell them from those of the API.
func (c *clientConn) Write(p []byte) (int, error) {
	if c.handled.Load() {
		return c.Conn.Write(p)
	}
	status, text, ok := parseServerError(p)
	if !ok {
		return c.Conn.Write(p)
	}
	if _, err := c.Conn.Write(badRequest(text).bytes(status)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// parseServerError takes apart an answer of the server's own, which comes in
// one piece. text is what it says beyond its status.
func parseServerError(p []byte) (status int, text string, ok bool) {
	head, body, _ := strings.Cut(string(p), "\r\n\r\n")
	version, rest, _ := strings.Cut(head, " ")
	digits, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(digits)
	if err != nil || !strings.HasPrefix(version, "HTTP/1.") || status < http.StatusBadRequest {
		return 0, "", false
	}
	if status == http.StatusExpectationFailed {
		return status, "Expect may only say 100-continue", true
	}
	if status == http.StatusRequestHeaderFieldsTooLarge {
		return status, fmt.Sprintf("its header section is larger than %d KiB", maxHeaderBytes>>10), true
	}
	if !strings.HasPrefix(body, digits) {
		return status, strings.TrimRight(body, ".\n"), true
	}
	_, text, _ = strings.Cut(body, ": ")
	return status, text, true
}

// connKey is the context key of the [clientConn] that a request came by.
type connKey struct{}

func connContext(ctx context.Context, c net.Conn) context.Context {
	watched := trackedConn(c)
	if watched == nil {
		return ctx
	}
	watched.mu.Lock()
	watched.complete = c != net.Conn(watched) // what TLS reads is no header section
	watched.mu.Unlock()
	return context.WithValue(ctx, connKey{}, watched)
}

// connState tells the connection that a request has been answered.
func connState(c net.Conn, state http.ConnState) {
	if watched, ok := c.(*clientConn); ok && state == http.StateIdle {
		watched.reset()
	}
}

// trackedConn returns the watched connection that c is, or is TLS over.
func trackedConn(c net.Conn) *clientConn {
	if over, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = over.NetConn()
	}
	watched, _ := c.(*clientConn)
	return watched
}

func connOf(r *http.Request) *clientConn {
	c, _ := r.Context().Value(connKey{}).(*clientConn)
	return c
}

// markHandled notes that the request has reached the proxy: what is written until the
// next one is its answer.
func markHandled(r *http.Request) {
	if c := connOf(r); c != nil {
		c.handled.Store(true)
	}
}

// clientLeft reports whether the end of r's context means that the client is not
// there to be answered. The server ends it as soon as nothing more can be read;
// a client that has only shut down its side for writing still reads.
func clientLeft(r *http.Request) bool {
	c := connOf(r)
	return c == nil || r.ProtoMajor != 1 || c.broken.Load()
}

// resetConnection makes the end of the connection one that no client takes for that of an
// answer: unsent bytes are dropped, and the client is told that it was reset. A
// unix socket cannot do that.
func resetConnection(r *http.Request) {
	c := connOf(r)
	if c == nil {
		return
	}
	if resets, ok := c.Conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = resets.SetLinger(0) // of a connection that is closed already there is nothing to end
	}
}

// conflictingFraming reports whether the request's framing is in doubt (RFC 9112 section
// 6.1): it has both fields, and whoever is between us and the client may go by the
// other one; or it is of HTTP/1.0, which has no codings.
func conflictingFraming(r *http.Request) bool {
	c := connOf(r)
	modern := r.ProtoAtLeast(1, 1)
	if c == nil || r.TLS != nil || modern && len(r.TransferEncoding) == 0 {
		return false
	}
	length, coding := c.framing()
	return coding && (length || !modern)
}
