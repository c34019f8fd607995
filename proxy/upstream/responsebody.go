package upstream

import (
	"errors"
	"io"
	"time"
)

// responseBody is the body of a response. It is not safe for concurrent use.
type responseBody struct {
	transfer *transfer
	source   io.Reader
	limited  bool  // reading has a deadline
	err      error // that Read returns from now on; the connection is no longer used
}

// Read implements io.Reader. At the end of the body it releases the connection.
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

// Close implements io.Closer. It closes the connection if the body has not been
// read to its end.
func (b *responseBody) Close() error {
	if b.err == nil {
		b.err = b.transfer.fail(BrokenResponse, ErrClosed)
	}
	return nil
}

// Ready reports whether Read returns without waiting for the server.
func (b *responseBody) Ready() bool { return b.err != nil || b.transfer.conn.ready() }

func (b *responseBody) setDeadline(t time.Time) {
	b.limited = true
	_ = b.transfer.conn.SetReadDeadline(t) // on a closed connection, reading fails
}

// Limits of Discard.
const (
	maxDiscardBytes = 64 << 10
	discardTimeout  = 100 * time.Millisecond
)

// Discard reads what is left of the body of a response that is not needed, so
// that its connection can be used again, and closes it. It gives up where that
// takes longer than a new connection would.
func Discard(body io.ReadCloser) {
	if b, ok := body.(*responseBody); ok && b.err == nil && b.transfer.client.bodyTimeout == 0 {
		b.setDeadline(time.Now().Add(discardTimeout))
		_, _ = io.CopyN(io.Discard, b, maxDiscardBytes) // Close ends the connection after an error
	}
	_ = body.Close()
}

// noEOF returns err, which ended the reading of something incomplete.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
