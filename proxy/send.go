package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// openBody returns the request's body from its first byte, nil if it has none.
// It reports false when the first byte is not kept any more.
func (x *exchange) openBody() (*attemptBody, bool) {
	if x.upload == nil {
		return nil, true
	}
	return x.upload.attach()
}

// send makes one attempt, and returns the head of a final answer. Its error is
// a [problem] or errClientGone.
func (x *exchange) send(a *refresh.Authorization, body *attemptBody) (*http.Response, error) {
	x.entry.attempts++
	x.entry.version = a.Version
	x.used = a
	a.Begin()
	defer a.End()
	res, err := x.roundTrip(a, body)
	for tries := 0; err != nil && tries < maxUnsentRetries && x.unsent(); tries++ {
		again, ok := x.openBody()
		if !ok {
			break
		}
		res, err = x.roundTrip(a, again)
	}
	if err != nil {
		return nil, x.failed(err)
	}
	if res.StatusCode < http.StatusOK {
		_ = res.Body.Close()
		return nil, upstreamProblem(codeUpstreamProtocolError, x.name, errBadStatus)
	}
	return res, nil
}

// maxUnsentRetries is how many pooled connections in a row one attempt may find dead.
const maxUnsentRetries = 16

// unsent reports whether the last try has failed for no other reason than that
// its pooled connection was dead before anything was written to it.
func (x *exchange) unsent() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ctx.Err() == nil && x.badBody() == nil && x.conn.unused()
}

// roundTrip makes one try of an attempt.
func (x *exchange) roundTrip(a *refresh.Authorization, body *attemptBody) (*http.Response, error) {
	clock := startResponseTimer(x.proxy.timeout, func() { x.cancel(errUpstreamTimeout) })
	defer clock.stop()
	if body != nil {
		body.timer = clock
	}
	x.setSending(true)
	defer x.setSending(false)
	began := time.Now()
	res, err := x.proxy.transport.RoundTrip(x.outbound(a, body))
	x.entry.upstream += time.Since(began)
	return res, err
}

var (
	errUpstreamTimeout = errors.New("the upstream timeout has passed")
	errBadStatus       = errors.New("the answer changes protocols, or its status is below 200")
	errTooManyInterim  = errors.New("too many 1xx answers")
	errNotHTTP         = errors.New("the answer is not HTTP")
)

// outbound builds the request of one attempt.
//
// The transport re-sends requests by itself when a reused connection breaks,
// even after their bytes were written, if they have no body and their method is
// safe or they carry an idempotency key. A request may not be sent twice here
// except after a 401. The key is disguised by [disableRetries]; safe methods get a body
// that is empty, but of a type of its own. The coding "identity" puts nothing
// on the wire, and keeps the transport from chunking that body.
func (x *exchange) outbound(a *refresh.Authorization, body *attemptBody) *http.Request {
	out := new(http.Request).WithContext(x.ctx)
	out.Method = x.in.Method
	out.URL = x.url
	out.Host = x.proxy.upstream.host
	out.Proto, out.ProtoMajor, out.ProtoMinor = "HTTP/1.1", 1, 1
	out.Header = x.outHeader
	if x.sent {
		out.Header = maps.Clone(x.outHeader) // the transport may still be writing the one before
	}
	x.sent = true
	switch {
	case body != nil:
		out.Body, out.ContentLength, out.Trailer = body, x.in.ContentLength, body.trailer
		if out.ContentLength < 0 {
			out.TransferEncoding = []string{"chunked"} // or it would be probed for being empty
		}
	case out.Method == http.MethodGet, out.Method == http.MethodHead, out.Method == http.MethodOptions:
		out.Body, out.TransferEncoding = noBody{}, []string{"identity"}
	}
	authorize(out.Header, a.Value)
	return out
}

// failed says what it means for the client that an attempt brought no answer.
func (x *exchange) failed(err error) error {
	if errors.Is(context.Cause(x.ctx), errUpstreamTimeout) {
		return upstreamProblem(codeUpstreamTimeout, x.name, errUpstreamTimeout)
	}
	// Before the context, which ends too when a client stops in the middle.
	if err := x.badBody(); err != nil {
		return badRequestBody(x.name, err)
	}
	if x.clientGone() {
		return errClientGone
	}
	if !x.hadConn() {
		return upstreamProblem(codeUpstreamUnreachable, x.name, err)
	}
	return upstreamProblem(codeUpstreamProtocolError, x.name, sanitizedError(err))
}

func (x *exchange) hadConn() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.conn.got
}

// badBody returns how the client's body was cut short or malformed; nil where it
// was not, and where the client's connection broke.
func (x *exchange) badBody() error {
	if x.upload == nil {
		return nil
	}
	_, err := x.upload.state()
	if _, broken := errors.AsType[*net.OpError](err); broken {
		return nil
	}
	return err
}

// sanitizedError returns err if it says nothing that the upstream made up. Errors
// of parsing quote the answer, which may quote our request.
func sanitizedError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op
	}
	for _, known := range []error{errTooManyInterim, io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, known) {
			return known
		}
	}
	return errNotHTTP
}

// maxInterimResponses is how many 1xx answers one request may get. The transport bounds
// only the size of each.
const maxInterimResponses = 32

func (x *exchange) setSending(sending bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sending = sending
	if sending {
		x.conn = connUse{}
	}
}

// relayInterim passes a 1xx answer on. The transport calls it from a goroutine
// of its own, perhaps after the attempt has been given up; holding mu while
// writing is what keeps the handler from writing at the same time.
func (x *exchange) relayInterim(status int, header textproto.MIMEHeader) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.interim++; x.interim > maxInterimResponses {
		return errTooManyInterim
	}
	// 100 is between the API and us. The server sends its own to the client once
	// the body is read, which is when the API has asked for it.
	if !x.sending || status == http.StatusContinue || !x.in.ProtoAtLeast(1, 1) || x.continues() {
		return nil
	}
	h := x.w.Header()
	copyResponseHeader(h, http.Header(header), header["Connection"])
	x.w.WriteHeader(status)
	clear(h)
	return nil
}

// continues reports whether the server may be writing a 100 of its own, which it
// does while the body is read for the first time. It keeps its final answer from
// being written at the same time, and no other.
func (x *exchange) continues() bool {
	return len(x.in.Header["Expect"]) > 0 && x.upload != nil && !x.upload.started()
}

// How much of a rejection is read, and for how long, to use its connection
// again.
const (
	maxDiscardBytes = 64 << 10
	discardTimeout  = 100 * time.Millisecond
)

func discard(body io.ReadCloser) {
	hurry := time.AfterFunc(discardTimeout, func() { _ = body.Close() })
	defer hurry.Stop()
	_, _ = io.CopyN(io.Discard, body, maxDiscardBytes)
	_ = body.Close()
}
