package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"
)

var (
	// errDetached ends reads for an attempt that was replaced by another, or
	// whose exchange has ended.
	errDetached = errors.New("the body is no longer read for this attempt")

	// errNotBuffered ends a replay whose body could not be buffered to its end.
	errNotBuffered = errors.New("the body could not be buffered")
)

// upload is the body of one request on its way from the client, buffered while
// it is read so that it can be sent again. One attempt at a time owns it.
//
// An attempt may still be blocked in a read when its response has arrived and
// the replay begins. So only one goroutine at a time reads from the client, and
// buffers what it has read: what a late read of the first attempt returns is
// not lost to the second.
type upload struct {
	in      *http.Request
	ctx     context.Context // of the exchange; ends waits for reading
	reading chan struct{}   // holds a token while a goroutine reads from the client
	buffer  *replayBuffer   // appended to by the goroutine that reads
	strip   stripFunc       // for trailers

	// announced is the trailer section before the body's end: names without
	// values. It is nil unless the body is chunked, as only then it can have one.
	announced http.Header

	mu       sync.Mutex // guards the fields below
	owner    *attemptBody
	received int64 // bytes
	err      error // the end of the client's body: io.EOF if it is complete
}

// stripFunc returns a header or trailer section without what is not forwarded.
type stripFunc func(section http.Header, connection []string) http.Header

// newUpload returns nil for a request without a body.
func newUpload(ctx context.Context, in *http.Request, buffers *replayBuffers, strip stripFunc) *upload {
	if in.ContentLength == 0 || in.Body == nil || in.Body == http.NoBody {
		return nil
	}
	u := &upload{
		in:      in,
		ctx:     ctx,
		reading: make(chan struct{}, 1),
		buffer:  buffers.newBuffer(in.ContentLength),
		strip:   strip,
	}
	if in.ContentLength < 0 {
		u.announced = u.trailer()
	}
	return u
}

func (u *upload) trailer() http.Header { return u.strip(u.in.Trailer, u.in.Header["Connection"]) }

// attach makes a new attempt the owner of the body, and returns the body from
// its first byte. It reports false if that byte is no longer buffered.
func (u *upload) attach() (*attemptBody, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.received > 0 && !u.buffer.complete() {
		return nil, false
	}
	u.owner = &attemptBody{upload: u, trailer: maps.Clone(u.announced)}
	return u.owner, true
}

// finish releases the buffer and ends reads. One that is blocked ends when the
// client sends something or the server closes the body.
func (u *upload) finish() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.owner = nil
	u.buffer.release()
}

// stopReading makes w's connection unreadable, and waits until no goroutine
// reads from the client. It is for a handler that panics: the server then reuses
// the connection's buffers without closing the body first, and drains a body of
// which the client may never send the rest.
func (u *upload) stopReading(w http.ResponseWriter) {
	if http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) != nil {
		return // a blocked read would not end
	}
	u.reading <- struct{}{}
}

// size returns how many bytes the client has sent.
func (u *upload) size() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.received
}

// malformed returns the error by which the client's body ended early, but nil if
// the client's connection broke.
func (u *upload) malformed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, broken := errors.AsType[*net.OpError](u.err); broken || errors.Is(u.err, io.EOF) {
		return nil
	}
	return u.err
}

// started reports whether a read from the client has returned.
func (u *upload) started() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.received > 0 || u.err != nil
}

// complete reports whether the client's body was read to its end.
func (u *upload) complete() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return errors.Is(u.err, io.EOF)
}

// attemptBody is the request body of one attempt.
type attemptBody struct {
	upload  *upload
	trailer http.Header // filled at the end of the body; nil unless it is chunked
	offset  int64       // of the next byte; used by the reader only
}

// Read returns what is buffered, then what the client sends.
func (b *attemptBody) Read(p []byte) (int, error) {
	if n, ok, err := b.readBuffered(p); ok {
		return n, err
	}
	select {
	case b.upload.reading <- struct{}{}:
	case <-b.upload.ctx.Done():
		return 0, context.Cause(b.upload.ctx)
	}
	defer func() { <-b.upload.reading }()
	if n, ok, err := b.readBuffered(p); ok {
		return n, err
	}
	n, err := b.upload.in.Body.Read(p)
	buffered := b.upload.buffer.append(p[:n])
	return b.recordRead(p[:n], err, buffered)
}

// readBuffered reads what was read from the client before, for this attempt or
// an earlier one. It reports false if there is nothing.
func (b *attemptBody) readBuffered(p []byte) (n int, ok bool, err error) {
	u := b.upload
	u.mu.Lock()
	if u.owner != b || b.offset >= u.received {
		defer u.mu.Unlock()
		return b.atEnd()
	}
	u.mu.Unlock()
	n, err = u.buffer.readAt(p, b.offset)
	b.offset += int64(n)
	if n == 0 && err == nil {
		err = errNotBuffered
	}
	return n, true, err
}

// atEnd returns what readBuffered returns at the end of the buffer. u.mu is held.
func (b *attemptBody) atEnd() (n int, ok bool, err error) {
	if b.upload.owner != b {
		return 0, true, errDetached
	}
	if b.upload.err != nil {
		b.fillTrailer()
		return 0, true, b.upload.err
	}
	return 0, false, nil
}

// recordRead records that p was read from the client, and returns what Read
// returns.
func (b *attemptBody) recordRead(p []byte, err error, buffered bool) (int, error) {
	u := b.upload
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
	if u.owner == b {
		if !buffered {
			u.buffer.discard()
		}
		u.received += int64(len(p))
		b.offset = u.received
		if err != nil {
			b.fillTrailer()
		}
		return len(p), err
	}
	// The next attempt began because everything was buffered.
	if u.owner != nil && !buffered && !u.buffer.appendUnlimited(p) {
		u.err = errNotBuffered
	}
	u.received += int64(len(p))
	return 0, errDetached
}

// fillTrailer copies the trailer section, which net/http has at the end of the
// body. u.mu is held.
func (b *attemptBody) fillTrailer() {
	if b.trailer != nil && errors.Is(b.upload.err, io.EOF) {
		maps.Copy(b.trailer, b.upload.trailer())
	}
}
