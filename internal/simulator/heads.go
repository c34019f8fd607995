package simulator

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// NewServer returns a server for one of the handlers. Together with
// [RecordHeads] it lets /echo tell the header fields in the order and spelling
// in which they came; without, /echo sorts them. The caller serves and shuts
// down.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 30 * time.Second,
		MaxHeaderBytes:    1 << 20,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, headConnKey{}, c)
		},
	}
}

// RecordHeads returns a listener whose connections keep what they have read
// last, for /echo.
func RecordHeads(ln net.Listener) net.Listener { return headListener{ln} }

type headConnKey struct{}

type headListener struct{ net.Listener }

func (l headListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &headConn{Conn: c}, nil
}

// keptBytes is how much of what came last a headConn keeps at least. A head
// that is longer cannot be told in its original form.
const keptBytes = 256 << 10

// headConn keeps the last bytes that were read from a connection.
type headConn struct {
	net.Conn

	mu   sync.Mutex // guards last
	last []byte
}

func (c *headConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.last)+n > 2*keptBytes {
		c.last = append(c.last[:0], c.last[len(c.last)-min(len(c.last), keptBytes):]...)
	}
	c.last = append(c.last, p[:n]...)
	return n, err
}

// CloseWrite lets the server close its half after an early answer, without
// which the client could lose that answer to a reset.
func (c *headConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return nil // a pipe: closing it loses nothing
	}
	return half.CloseWrite()
}

// headField is one header field as it came.
type headField struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// takeHead returns the header fields of the request that is being handled, in
// the order and spelling in which they came, and forgets what was read before
// them. It returns nil where they are not known: HTTP/2, other servers.
func takeHead(r *http.Request) []headField {
	c := headConnOf(r.Context())
	if c == nil || r.ProtoMajor != 1 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	start := bytes.LastIndex(c.last, []byte(r.Method+" "+r.RequestURI+" "+r.Proto+"\r\n"))
	if start < 0 {
		return nil
	}
	head, rest, found := bytes.Cut(c.last[start:], []byte("\r\n\r\n"))
	if !found {
		return nil
	}
	fields := parseHead(head)
	c.last = append(c.last[:0], rest...)
	return fields
}

func headConnOf(ctx context.Context) *headConn {
	switch c := ctx.Value(headConnKey{}).(type) {
	case *headConn:
		return c
	case interface{ NetConn() net.Conn }:
		return nil // TLS: the connection below holds ciphertext
	default:
		return nil
	}
}

func parseHead(head []byte) []headField {
	lines := bytes.Split(head, []byte("\r\n"))
	fields := make([]headField, 0, len(lines))
	for _, line := range lines[1:] {
		name, value, _ := bytes.Cut(line, []byte(":"))
		fields = append(fields, headField{string(name), string(bytes.TrimSpace(value))})
	}
	return fields
}
