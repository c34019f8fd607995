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
	"time"
)

// TrackConnections returns a listener whose connections record what net/http
// does not pass on to a handler. With it, the server of [NewServer]
//
//   - sends the response to a client that has shut down its writing side, which
//     net/http takes for one that has disconnected;
//   - rejects a request with both Content-Length and Transfer-Encoding, and one
//     of HTTP/1.0 with the latter, which net/http takes for one without a body;
//   - responds to what is not HTTP with problem+json;
//   - reads on for a while after a response that came before the end of the request
//     body, so that a client that sends its body first gets the response.
//
// Over TLS it does only the first and the last.
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
// the next request before it reports that the one before has been served.
type clientConn struct {
	net.Conn

	broken    atomic.Bool // reading failed, other than by io.EOF
	handled   atomic.Bool // a request of it is with the proxy
	lingering atomic.Bool // Close waits for the rest of a request body

	mu sync.Mutex // guards the fields below
	// head is what was read since the last response, up to the end of a header
	// section. It is empty for a pipelined request, which was read with the one
	// before, and may lack the first byte.
	head     []byte
	complete bool
}

// Read implements io.Reader.
func (c *clientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.recordHead(p[:n])
	if err != nil && !errors.Is(err, io.EOF) && !isTimeout(err) {
		c.broken.Store(true)
	}
	return n, err
}

// isTimeout reports whether the server interrupted its own read, for which it
// sets a deadline in the past.
func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// CloseWrite lets the server end its last response while it waits for the client
// to read it.
func (c *clientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Limits of reading after the last response.
const (
	lingerIdleTimeout = 5 * time.Second // without data from the client
	lingerTimeout     = 30 * time.Second
	maxLingerBytes    = 64 << 20
)

// Close implements [net.Conn]. If the client may still be sending a body, only the
// writing side is closed at first: closing a connection with unread data resets it,
// and the client may lose the response (RFC 9112 section 9.6). Close does not wait
// for that, because the server closes its connections one after the other.
func (c *clientConn) Close() error {
	if c.lingering.Swap(false) && c.CloseWrite() == nil {
		go c.linger() // ends by its limits
		return nil
	}
	return c.Conn.Close()
}

// linger discards what the client sends, within limits, and closes the connection.
func (c *clientConn) linger() {
	defer func() { _ = c.Conn.Close() }()
	buf := make([]byte, 16<<10)
	end := time.Now().Add(lingerTimeout)
	for left := maxLingerBytes; left > 0; {
		deadline := time.Now().Add(lingerIdleTimeout)
		if deadline.After(end) {
			deadline = end
		}
		if c.SetReadDeadline(deadline) != nil {
			return
		}
		n, err := c.Conn.Read(buf)
		if err != nil {
			return
		}
		left -= n
	}
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

// maxReusedHead is the capacity of head up to which it is reused, in bytes.
const maxReusedHead = 4 << 10

// reset prepares for the next request.
func (c *clientConn) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cap(c.head) > maxReusedHead {
		c.head = nil
	}
	c.head, c.complete = c.head[:0], false
	c.handled.Store(false)
}

// framing reports which of the fields that delimit a body the head has.
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

// Write implements io.Writer. It replaces the responses that net/http sends to
// requests of which no handler hears, by a problem, so that clients can tell them
// from responses of the API.
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

// parseServerError parses a response of net/http itself, which it writes in one
// piece. text is what it says beyond the status.
func parseServerError(p []byte) (status int, text string, ok bool) {
	head, body, _ := strings.Cut(string(p), "\r\n\r\n")
	version, rest, _ := strings.Cut(head, " ")
	digits, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(digits)
	switch {
	case err != nil || !strings.HasPrefix(version, "HTTP/1.") || status < http.StatusBadRequest:
		return 0, "", false
	case status == http.StatusExpectationFailed:
		return status, "the only expectation that is supported is 100-continue", true
	case status == http.StatusRequestHeaderFieldsTooLarge:
		return status, fmt.Sprintf("its header section is larger than %d KiB", maxHeaderBytes>>10), true
	case !strings.HasPrefix(body, digits):
		return status, strings.TrimRight(body, ".\n"), true
	}
	_, text, _ = strings.Cut(body, ": ")
	return status, text, true
}

// connKey is the context key of a request's [clientConn].
type connKey struct{}

func connContext(ctx context.Context, c net.Conn) context.Context {
	tracked := trackedConn(c)
	if tracked == nil {
		return ctx
	}
	tracked.mu.Lock()
	tracked.complete = c != net.Conn(tracked) // TLS reads no header section
	tracked.mu.Unlock()
	return context.WithValue(ctx, connKey{}, tracked)
}

// connState resets the connection after each request.
func connState(c net.Conn, state http.ConnState) {
	if tracked, ok := c.(*clientConn); ok && state == http.StateIdle {
		tracked.reset()
	}
}

// trackedConn returns the tracked connection that c is, or is TLS over.
func trackedConn(c net.Conn) *clientConn {
	if over, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = over.NetConn()
	}
	tracked, _ := c.(*clientConn)
	return tracked
}

func connOf(r *http.Request) *clientConn {
	c, _ := r.Context().Value(connKey{}).(*clientConn)
	return c
}

// markHandled records that the request has reached the proxy, so that what is
// written from now on is its response.
func markHandled(r *http.Request) {
	if c := connOf(r); c != nil {
		c.handled.Store(true)
		c.lingering.Store(false)
	}
}

// lingerOnClose keeps the client's connection readable for a while after it is
// closed, unless another request follows.
func lingerOnClose(r *http.Request) {
	if c := connOf(r); c != nil {
		c.lingering.Store(true)
	}
}

// clientLeft reports whether the end of r's context means that the client has
// disconnected. The server cancels the context as soon as nothing more can be
// read; a client that has shut down only its writing side still reads.
func clientLeft(r *http.Request) bool {
	c := connOf(r)
	return c == nil || r.ProtoMajor != 1 || c.broken.Load()
}

// resetConnection makes closing the client's connection reset it, which no client
// takes for the end of a response. On unix sockets this has no effect.
func resetConnection(r *http.Request) {
	c := connOf(r)
	if c == nil {
		return
	}
	c.lingering.Store(false)
	if tcp, ok := c.Conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0) // fails for a connection that is closed already
	}
}

// conflictingFraming reports whether the end of the request is in doubt (RFC 9112
// section 6.1). It is if both fields are present, since a server between the
// client and this one may have used the other, and if Transfer-Encoding is present
// in HTTP/1.0, which does not have it.
func conflictingFraming(r *http.Request) bool {
	c := connOf(r)
	http11 := r.ProtoAtLeast(1, 1)
	if c == nil || r.TLS != nil || http11 && len(r.TransferEncoding) == 0 {
		return false
	}
	length, coding := c.framing()
	return coding && (length || !http11)
}
