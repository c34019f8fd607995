package upstream

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// responseBody is the body of a response. It is not safe for concurrent use.
type responseBody struct {
	transfer *transfer
	source   io.Reader
	chunked  bool
	limited  bool  // a read deadline has been set
	err      error // the result of further reads; the connection is no longer used
}

// Read implements io.Reader. It releases the connection at the end of the body.
func (b *responseBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if limit := b.transfer.client.bodyTimeout; limit > 0 {
		b.setDeadline(time.Now().Add(limit))
	}
	n, err := b.source.Read(p)
	if errors.Is(err, io.EOF) {
		if b.limited {
			b.setDeadline(time.Time{})
		}
		b.err = io.EOF
		b.transfer.finish()
	} else if err != nil {
		b.err = b.transfer.fail(BrokenResponse, err)
	}
	return n, b.err
}

// Close implements io.Closer. It closes the connection unless the body was read to
// its end.
func (b *responseBody) Close() error {
	if b.err == nil {
		b.err = b.transfer.fail(BrokenResponse, ErrClosed)
	}
	return nil
}

// Ready reports whether Read returns without waiting for the server. It may report
// false although Read would return.
func (b *responseBody) Ready() bool {
	if b.err != nil {
		return true
	}
	return b.transfer.conn.ready() && !(b.chunked && endsBetweenChunks(b.transfer.conn.buffered()))
}

// endsBetweenChunks reports whether p may end before the first byte of a chunk, or
// before the end of the last one, which is empty. What is not small is data.
func endsBetweenChunks(p []byte) bool {
	const maxChunkLines = 64 // bytes; more than most servers send between the data of two chunks
	if len(p) == 0 || len(p) > maxChunkLines {
		return false
	}
	_, data, ok := bytes.Cut(bytes.TrimPrefix(p, []byte("\r\n")), []byte("\n"))
	return !ok || len(data) == 0
}

func (b *responseBody) setDeadline(t time.Time) {
	b.limited = true
	_ = b.transfer.conn.SetReadDeadline(t) // if this fails, so does reading
}

// Limits of Discard.
const (
	maxDiscardBytes = 64 << 10
	discardTimeout  = 100 * time.Millisecond
)

// Discard closes a response body that is not needed. If little is left of it, it is
// read first, so that the connection can be reused.
func Discard(body io.ReadCloser) {
	if b, ok := body.(*responseBody); ok && b.err == nil && b.transfer.client.bodyTimeout == 0 {
		b.setDeadline(time.Now().Add(discardTimeout))
		_, _ = io.CopyN(io.Discard, b, maxDiscardBytes) // Close handles errors
	}
	_ = body.Close()
}

// noEOF returns the error for reading something incomplete.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
