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
	// errDetached ends reads for an attempt that another has taken the place of,
	// or whose exchange is over.
	errDetached = errors.New("the body is no longer read for this attempt")

	// errNotBuffered ends a replay whose body was lost after it began.
	errNotBuffered = errors.New("the body could not be kept")
)

// upload is the body of one request on its way from the client, kept while it
// is read so that it can be sent once more. One attempt at a time owns it.
//
// The transport may go on reading for an attempt that has been answered, and
// still be blocked in that read when the replay begins. So reading the client
// needs the turn, and what is read is kept by whoever reads it: a late read of
// the first attempt is not lost to the second.
type upload struct {
	in      *http.Request
	ctx     context.Context // of the exchange; ends waits for the turn
	reading chan struct{}   // holds one token while somebody reads from the client
	buffer  *replayBuffer   // appended to by who has the turn
	strip   stripFunc       // for trailers

	// announced is the trailer section before it has come: names without
	// values. It is nil unless the body is chunked, which trailers need.
	announced http.Header

	mu       sync.Mutex // guards the fields below
	owner    *attemptBody
	received int64 // bytes
	err      error // that the client's body ended with; io.EOF at its end
}

// stripFunc returns a header or trailer section without what is not forwarded.
type stripFunc func(section http.Header, connection []string) http.Header

// newUpload returns nil for a request without a body.
func newUpload(ctx context.Context, in *http.Request, k *replayBuffers, strip stripFunc) *upload {
	if in.ContentLength == 0 || in.Body == nil || in.Body == http.NoBody {
		return nil
	}
	u := &upload{
		in:      in,
		ctx:     ctx,
		reading: make(chan struct{}, 1),
		buffer:  k.newBuffer(in.ContentLength),
		strip:   strip,
	}
	if in.ContentLength < 0 {
		u.announced = strip(in.Trailer, in.Header["Connection"])
	}
	return u
}

// attach makes a new attempt the owner of the body and hands it out from its
// first byte. It reports false when that byte is not kept any more.
func (u *upload) attach() (*attemptBody, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.received > 0 && !u.buffer.complete() {
		return nil, false
	}
	u.owner = &attemptBody{upload: u, trailer: maps.Clone(u.announced)}
	return u.owner, true
}

// finish releases what is kept and lets nobody read any more. A read that is
// under way goes on until the client sends something or the server closes the
// body.
func (u *upload) finish() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.owner = nil
	u.buffer.release()
}

// stopReading makes w's connection unreadable, and waits until nobody reads from the
// client. A handler that panics has to: the server then takes the connection's
// buffers back without closing the body first, and drains what a silent client
// may never send.
func (u *upload) stopReading(w http.ResponseWriter) {
	if http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) != nil {
		return // a read under way could not be ended
	}
	u.reading <- struct{}{}
}

// size returns how many bytes the client has sent.
func (u *upload) size() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.received
}

// malformed returns how the client's body was cut short or malformed; nil if it
// was not, and if the client's connection broke.
func (u *upload) malformed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, broken := errors.AsType[*net.OpError](u.err); broken || errors.Is(u.err, io.EOF) {
		return nil
	}
	return u.err
}

// started reports whether something was read from the client, or tried in vain.
func (u *upload) started() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.received > 0 || u.err != nil
}

// complete reports whether the client's body was read to its proper end.
func (u *upload) complete() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return errors.Is(u.err, io.EOF)
}

// attemptBody is the request body of one attempt.
type attemptBody struct {
	upload  *upload
	trailer http.Header // filled in at the end of the body; nil unless chunked
	offset  int64       // what this attempt has got; of its reader
}

// Read gives what is kept, then what the client sends.
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
	whole := b.upload.buffer.append(p[:n])
	return b.recordRead(p[:n], err, whole)
}

// readBuffered reads what an earlier attempt, or an earlier read for it, has taken
// from the client. It reports false when there is no such thing.
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

// atEnd is what again returns where nothing is left to read again. u.mu is held.
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

// recordRead records what was read from the client, and whether everything is kept.
func (b *attemptBody) recordRead(p []byte, err error, whole bool) (int, error) {
	u := b.upload
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
	if u.owner == b {
		if !whole {
			u.buffer.discard()
		}
		u.received += int64(len(p))
		b.offset = u.received
		if err != nil {
			b.fillTrailer()
		}
		return len(p), err
	}
	// The successor relies on having everything: it was told so by attach.
	if u.owner != nil && !whole && !u.buffer.appendUnlimited(p) {
		u.err = errNotBuffered
	}
	u.received += int64(len(p))
	return 0, errDetached
}

// fillTrailer takes over the trailer section, which net/http has once the body
// is at its end. u.mu is held.
func (b *attemptBody) fillTrailer() {
	if b.trailer == nil || !errors.Is(b.upload.err, io.EOF) {
		return
	}
	for name, values := range b.upload.strip(b.upload.in.Trailer, b.upload.in.Header["Connection"]) {
		b.trailer[name] = values
	}
}
