package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// budget is memory that requests share.
type budget struct {
	limit int64 // bytes
	used  atomic.Int64
}

// take reserves n bytes, or none and reports false.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

var (
	// errDetached ends reads for an attempt that another has taken the place of,
	// or whose exchange is over.
	errDetached = errors.New("the body is no longer read for this attempt")
)

// upload is the body of one request on its way from the client, kept while it
// is read so that it can be sent once more. One attempt at a time owns it.
//
// The transport may go on reading for an attempt that has been answered, and
// still be blocked in that read when the replay begins. So reading the client
// needs the turn, and what is read is kept by whoever reads it: a late read of
// the first attempt is not lost to the second.
type upload struct {
	in    *http.Request
	ctx   context.Context // of the exchange; ends waits for the turn
	turn  chan struct{}   // holds one token while somebody reads from the client
	limit int64           // how many bytes to keep at most
	pool  *budget
	strip func(http.Header) http.Header // for trailers

	// announced is the trailer section before it has come: names without
	// values. It is nil unless the body is chunked, which trailers need.
	announced http.Header

	mu       sync.Mutex // guards the fields below
	owner    *attemptBody
	kept     []byte // what has been read, from the first byte on
	keeping  bool
	reserved int64 // of pool, for kept
	received int64 // bytes
	err      error // that the client's body ended with; io.EOF at its end
}

// newUpload returns nil for a request without a body.
func newUpload(ctx context.Context, in *http.Request, limit int64, pool *budget, strip func(http.Header) http.Header) *upload {
	if in.ContentLength == 0 || in.Body == nil || in.Body == http.NoBody {
		return nil
	}
	u := &upload{
		in:      in,
		ctx:     ctx,
		turn:    make(chan struct{}, 1),
		limit:   limit,
		pool:    pool,
		strip:   strip,
		keeping: in.ContentLength <= limit && limit > 0,
	}
	if in.ContentLength < 0 {
		u.announced = strip(in.Trailer)
	}
	return u
}

// attach makes a new attempt the owner of the body and hands it out from its
// first byte. It reports false when that byte is not kept any more.
func (u *upload) attach() (*attemptBody, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.received > 0 && !u.keeping {
		return nil, false
	}
	u.owner = &attemptBody{upload: u, first: u.owner == nil, trailer: maps.Clone(u.announced)}
	return u.owner, true
}

// finish releases the memory and lets nobody read any more. A read that is
// under way goes on until the client sends something or the server closes the
// body.
func (u *upload) finish() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.owner = nil
	u.forget()
}

// settle waits until nobody reads from the client, and makes w's connection
// unreadable for that. A handler that panics has to: the server then takes the
// connection's buffers back without closing the body first.
func (u *upload) settle(w http.ResponseWriter) {
	select {
	case u.turn <- struct{}{}:
		return
	default:
	}
	if http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) == nil {
		u.turn <- struct{}{}
	}
}

// state returns how many bytes the client has sent, and the error that its body
// ended with, nil at a proper end or none yet.
func (u *upload) state() (int64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if errors.Is(u.err, io.EOF) {
		return u.received, nil
	}
	return u.received, u.err
}

// keep appends p to what is kept, or gives up keeping. u.mu is held.
func (u *upload) keep(p []byte) {
	if !u.keeping {
		return
	}
	need := int64(len(u.kept) + len(p))
	if need > u.limit {
		u.forget()
		return
	}
	if have := int64(cap(u.kept)); need > have {
		size := min(max(2*have, need, u.in.ContentLength, 1<<10), u.limit)
		if !u.pool.take(size - u.reserved) {
			u.forget()
			return
		}
		u.reserved = size
		grown := make([]byte, len(u.kept), size)
		copy(grown, u.kept)
		u.kept = grown
	}
	u.kept = append(u.kept, p...)
}

// keepLate appends what was read for an attempt that is over, while its
// successor relies on having everything. It is one read at most, and so may
// exceed the limits. u.mu is held.
func (u *upload) keepLate(p []byte) {
	u.pool.used.Add(int64(len(p)))
	u.reserved += int64(len(p))
	u.kept = append(u.kept, p...)
}

// forget drops what is kept. u.mu is held.
func (u *upload) forget() {
	u.pool.give(u.reserved)
	u.kept, u.keeping, u.reserved = nil, false, 0
}

// attemptBody is the request body of one attempt.
type attemptBody struct {
	upload  *upload
	clock   *headClock  // of the attempt; set before it is sent
	first   bool        // of the request's attempts: what it reads is kept
	trailer http.Header // filled in at the end of the body; nil unless chunked
	offset  int64       // what this attempt has got; guarded by upload.mu
}

// Read gives what is kept, then what the client sends.
func (b *attemptBody) Read(p []byte) (int, error) {
	if n, err, ok := b.again(p); ok {
		return n, err
	}
	b.clock.pause()
	defer b.clock.resume()
	select {
	case b.upload.turn <- struct{}{}:
	case <-b.upload.ctx.Done():
		return 0, context.Cause(b.upload.ctx)
	}
	defer func() { <-b.upload.turn }()
	if n, err, ok := b.again(p); ok {
		return n, err
	}
	n, err := b.upload.in.Body.Read(p)
	return b.took(p[:n], err)
}

// again reads what an earlier attempt, or an earlier read for it, has taken
// from the client. It reports false when there is no such thing.
func (b *attemptBody) again(p []byte) (int, error, bool) {
	u := b.upload
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.owner != b {
		return 0, errDetached, true
	}
	if b.offset < int64(len(u.kept)) {
		n := copy(p, u.kept[b.offset:])
		b.offset += int64(n)
		return n, nil, true
	}
	if u.err != nil {
		b.fillTrailer()
		return 0, u.err, true
	}
	return 0, nil, false
}

// took records what was read from the client.
func (b *attemptBody) took(p []byte, err error) (int, error) {
	u := b.upload
	u.mu.Lock()
	defer u.mu.Unlock()
	u.received += int64(len(p))
	u.err = err
	if u.owner != b {
		if u.owner != nil {
			u.keepLate(p)
		}
		return 0, errDetached
	}
	if b.first {
		u.keep(p)
	}
	b.offset += int64(len(p))
	if err != nil {
		b.fillTrailer()
	}
	return len(p), err
}

// fillTrailer takes over the trailer section, which net/http has once the body
// is at its end. u.mu is held.
func (b *attemptBody) fillTrailer() {
	if b.trailer == nil || !errors.Is(b.upload.err, io.EOF) {
		return
	}
	for name, values := range b.upload.strip(b.upload.in.Trailer) {
		b.trailer[name] = values
	}
}

// Close does nothing: the server closes the client's body.
func (b *attemptBody) Close() error { return nil }

// noBody is a body without a byte that the transport does not know to be one,
// and so does not dare to send again. See [exchange.outbound].
type noBody struct{}

func (noBody) Read([]byte) (int, error) { return 0, io.EOF }
func (noBody) Close() error             { return nil }

// WriteTo keeps the transport from getting itself a buffer to copy nothing.
func (noBody) WriteTo(io.Writer) (int64, error) { return 0, nil }
