package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// bodySender sends a request body on its own goroutine.
type bodySender struct {
	client  *Client
	conn    *conn
	body    io.Reader
	length  int64 // less than 0: chunked
	trailer http.Header

	mu        sync.Mutex // guards the fields below, and the deadlines until responded
	state     sendState
	responded bool  // the head of the final response has been read
	ended     bool  // its body too; run releases the connection
	err       error // of sending
}

type sendState int

const (
	stateReading sendState = iota // waits for the reader of the body
	stateWriting
	stateSent
	stateFailed
)

func startBody(c *Client, cn *conn, r *Request) *bodySender {
	b := &bodySender{client: c, conn: cn, body: r.Body, length: r.ContentLength, trailer: r.Trailer}
	go b.run()
	return b
}

func (b *bodySender) run() {
	var err error
	if b.length < 0 {
		err = b.sendChunks()
	} else {
		err = b.sendBytes(b.length)
	}
	b.mu.Lock()
	b.err, b.state = err, stateSent
	if err != nil {
		b.state = stateFailed
	}
	ended := b.ended
	b.mu.Unlock()
	switch {
	case ended:
		_ = b.conn.SetWriteDeadline(time.Time{}) // if this fails, so does the next request
		b.client.release(b.conn, err == nil)
	case errors.Is(err, ErrRequestBody):
		b.conn.abort() // the server must see that the body is not complete
	}
	// After a write error there may still be a response.
}

const (
	sendBufferSize = 32 << 10
	maxChunkHead   = len("8000\r\n")
)

var sendBuffers = sync.Pool{New: func() any { return new([maxChunkHead + sendBufferSize + len("\r\n")]byte) }}

// sendBytes sends a body of known length.
func (b *bodySender) sendBytes(left int64) error {
	buf := sendBuffers.Get().(*[maxChunkHead + sendBufferSize + len("\r\n")]byte)
	defer sendBuffers.Put(buf)
	for left > 0 {
		p := buf[:min(left, sendBufferSize)]
		n, err := b.read(p)
		if n > 0 {
			if _, err := b.conn.Write(p[:n]); err != nil {
				return err
			}
		}
		left -= int64(n)
		if errors.Is(err, io.EOF) && left > 0 {
			err = errBodyTooShort
		}
		if err != nil && left > 0 {
			return fmt.Errorf("%w: %w", ErrRequestBody, err)
		}
	}
	return nil
}

// sendChunks sends a body of unknown length and its trailer section. Each read of
// the body becomes a chunk that is written at once.
func (b *bodySender) sendChunks() error {
	buf := sendBuffers.Get().(*[maxChunkHead + sendBufferSize + len("\r\n")]byte)
	defer sendBuffers.Put(buf)
	for {
		n, err := b.read(buf[maxChunkHead : maxChunkHead+sendBufferSize])
		if n > 0 {
			if _, err := b.conn.Write(frameChunk(buf[:], n)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return b.sendTrailer()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRequestBody, err)
		}
	}
}

// frameChunk returns the n bytes at maxChunkHead as a chunk, with size and line ends
// around them.
func frameChunk(buf []byte, n int) []byte {
	var head [maxChunkHead]byte
	size := append(strconv.AppendInt(head[:0], int64(n), 16), "\r\n"...)
	begin := maxChunkHead - len(size)
	copy(buf[begin:], size)
	end := maxChunkHead + n
	return buf[begin : end+copy(buf[end:], "\r\n")]
}

func (b *bodySender) sendTrailer() error {
	if err := validateFields(b.trailer); err != nil {
		return fmt.Errorf("%w: %w", ErrRequestBody, err)
	}
	writeAll(b.conn.writer, "0\r\n")
	writeFields(b.conn.writer, b.trailer, nil)
	return b.conn.writer.Flush()
}

// read reads from the request body. The response timeout is stopped meanwhile.
func (b *bodySender) read(p []byte) (int, error) {
	if err := b.enter(stateReading, 0); err != nil {
		return 0, err
	}
	n, err := b.body.Read(p)
	if e := b.enter(stateWriting, b.client.responseTimeout); e != nil {
		return 0, e
	}
	return n, err
}

// enter changes the state and restarts the response timeout, or stops it if 0.
func (b *bodySender) enter(s sendState, timeout time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return errResponseEnded
	}
	b.state = s
	if !b.responded && b.client.responseTimeout > 0 {
		var deadline time.Time
		if timeout > 0 {
			deadline = time.Now().Add(timeout)
		}
		_ = b.conn.SetDeadline(deadline) // if this fails, so does writing
	}
	return nil
}

// stopTimeout stops the response timeout because the response has arrived.
func (b *bodySender) stopTimeout() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.responded = true
	_ = b.conn.SetDeadline(time.Time{})
}

// lastWriteTimeout limits the write that has not returned at the end of the response.
const lastWriteTimeout = time.Second

// responseEnded is called at the end of the response. As servers usually respond
// when they have the whole request, the last write may not have returned yet; the
// connection is then released when it has. But a server that responds early may
// never read the rest, so that write is limited.
func (b *bodySender) responseEnded(reusable bool) {
	b.mu.Lock()
	sent := b.state == stateSent
	b.ended = reusable && b.state == stateWriting
	ended := b.ended
	if ended {
		_ = b.conn.SetWriteDeadline(time.Now().Add(lastWriteTimeout)) // if this fails, so does writing
	}
	b.mu.Unlock()
	if !ended {
		b.client.release(b.conn, reusable && sent)
	}
}

// readError returns the error of reading the request body.
func (b *bodySender) readError() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.err, ErrRequestBody) {
		return b.err
	}
	return nil
}
