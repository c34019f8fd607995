package upstream

import (
	"bufio"
	"errors"
	"math"
	"net"
	"net/http"
	"os"
	"time"
)

// conn is a connection to the server. One request at a time uses it.
type conn struct {
	net.Conn // TLS over raw, or raw
	raw      *rawConn
	reader   *bufio.Reader
	writer   *bufio.Writer
	born     time.Time
	idle     time.Time // when it was last returned to the pool

	headLimit int64        // bytes that may be read before the body of the final response
	request   http.Request // for http.ReadResponse, which needs the method
	names     []string     // scratch space of writeFields
	abort     func()       // closes the connection at once; other goroutines may be using it
}

// readBufferSize is also the size of the largest response head that is checked
// before it is parsed, in bytes. See transfer.readHead.
const readBufferSize = 8 << 10

func newConn(c net.Conn, raw *rawConn) *conn {
	cn := &conn{Conn: c, raw: raw, born: time.Now(), headLimit: math.MaxInt64}
	cn.reader = bufio.NewReaderSize(limitedReader{cn}, readBufferSize)
	cn.writer = bufio.NewWriter(c)
	cn.abort = func() { _ = raw.Close() }
	return cn
}

// limitedReader reads from the connection up to headLimit.
type limitedReader struct{ *conn }

// Read implements io.Reader.
func (r limitedReader) Read(p []byte) (int, error) {
	if r.headLimit <= 0 {
		return 0, errHeadTooLarge
	}
	n, err := r.conn.Read(p[:min(int64(len(p)), r.headLimit)])
	r.headLimit -= int64(n)
	return n, err
}

// ready reports whether a read returns without waiting for the server: with data,
// at the end of the connection or with an error. It takes one system call at most.
//
// It reads through TLS and not from the socket, because TLS may have buffered data
// and consumes messages of its own, such as session tickets.
func (c *conn) ready() bool {
	if c.reader.Buffered() > 0 {
		return true
	}
	c.raw.probing = true
	_, err := c.reader.Peek(1)
	c.raw.probing = false
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// buffered returns what was read and not consumed. It is valid until the next read.
func (c *conn) buffered() []byte {
	p, _ := c.reader.Peek(c.reader.Buffered()) // cannot fail
	return p
}

// peekHead waits for the next response head and checks it, without consuming it.
// It reports whether the whole head fits into the buffer; otherwise only the
// beginning has been checked.
func (c *conn) peekHead() (whole bool, err error) {
	for n := 1; ; n = c.reader.Buffered() + 1 {
		if n > c.reader.Size() {
			return false, nil
		}
		if _, err := c.reader.Peek(n); err != nil {
			return false, err
		}
		if whole, err := scanHead(c.buffered()); whole || err != nil {
			return whole, err
		}
	}
}

// close closes the connection, after a closing message of TLS.
func (c *conn) close() { _ = c.Close() }

// rawConn is a connection below TLS. It counts the bytes that are written, because
// TLS does not report partly written records, and can read without blocking.
type rawConn struct {
	net.Conn
	written int64 // bytes, since the request began
	probing bool  // reads do not block
	probe   prober
	err     error // of probing; kept because the system reports some errors once only
}

func newRawConn(c net.Conn) *rawConn {
	return &rawConn{Conn: c, probe: newProber(c)}
}

// Read implements io.Reader. While probing, it returns [os.ErrDeadlineExceeded]
// instead of blocking. For TLS this is a temporary error.
func (c *rawConn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if !c.probing {
		return c.Conn.Read(p)
	}
	n, err := c.probe.read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.err = err
	}
	return n, err
}

// Write implements io.Writer.
func (c *rawConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written += int64(n)
	return n, err
}
