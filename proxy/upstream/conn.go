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
	idle     time.Time // since when the pool has it

	headLimit int64        // bytes that may be read before the final response's body
	request   http.Request // for http.ReadResponse, which needs the method
	names     []string     // scratch space of writeFields
	abort     func()       // ends the connection at once, whatever other goroutines do with it
}

func newConn(c net.Conn, raw *rawConn) *conn {
	cn := &conn{Conn: c, raw: raw, born: time.Now(), headLimit: math.MaxInt64}
	cn.reader = bufio.NewReader(limitedReader{cn})
	cn.writer = bufio.NewWriter(c)
	cn.abort = func() { _ = raw.Close() }
	return cn
}

// limitedReader reads the connection up to its limit for heads.
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

// ready reports whether reading returns without waiting for the server: with
// data, the end of the connection or an error. It costs a system call at most.
//
// TLS is asked for a byte rather than the socket. It may hold data that it has
// read already, and messages such as new session tickets are its own.
func (c *conn) ready() bool {
	if c.reader.Buffered() > 0 {
		return true
	}
	c.raw.probing = true
	_, err := c.reader.Peek(1)
	c.raw.probing = false
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// peekHead returns the head of the next response without consuming it. whole
// is false if the head does not fit into the buffer; the beginning is checked
// then.
func (c *conn) peekHead() (whole bool, err error) {
	for n := 1; ; n = c.reader.Buffered() + 1 {
		if n > c.reader.Size() {
			return false, nil
		}
		if _, err := c.reader.Peek(n); err != nil {
			return false, err
		}
		buffered, err := c.reader.Peek(c.reader.Buffered())
		if err != nil {
			return false, err
		}
		if whole, err := scanHead(buffered); whole || err != nil {
			return whole, err
		}
	}
}

// close ends the connection and tells TLS so.
func (c *conn) close() { _ = c.Close() }

// rawConn is a connection below TLS. It counts what is written, since TLS does
// not report that part of a record was, and can read without blocking.
type rawConn struct {
	net.Conn
	written int64 // bytes, since the request began
	probing bool  // reads do not block
	probe   prober
	err     error // of probing; the system reports some errors once
}

func newRawConn(c net.Conn) *rawConn {
	return &rawConn{Conn: c, probe: newProber(c)}
}

// Read implements io.Reader. While probing it returns [os.ErrDeadlineExceeded]
// instead of blocking, which TLS takes for an error that passes.
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
