package pleo

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

const (
	maxResponseBody = 1 << 20
	readSize        = 4 << 10 // most responses take one read
)

var (
	errCaptured       = errors.New("the response was captured")
	errSecondSend     = errors.New("a token request is sent once")
	errTooLong        = errors.New("the response is longer than 1 MB")
	errInvalidRequest = errors.New("the request is not valid")
	errNoToken        = errors.New("there is no token to send")
)

// exchange is one request to the authorization server, and its response. As the
// [http.RoundTripper] of the client that makes the request it captures the
// response instead of returning it, because x/oauth2 does not distinguish the
// outcomes that we need. It sends one request in its lifetime and is not safe for
// concurrent use.
type exchange struct {
	transport http.RoundTripper
	now       func() time.Time
	finish    func(*http.Request) // completes the request; may be nil

	started bool
	gotConn bool
	conn    *trackedConn // nil if writes are not tracked
	before  int          // bytes written to conn before the request
	sentAt  time.Time    // just before the request was written

	response *response // nil if no header was received
	err      error     // why response is nil
}

// response is what could be read of a response.
type response struct {
	status     int
	retryAfter time.Duration // 0 if the server did not ask for a delay
	body       []byte        // at most maxResponseBody
	bodyErr    error         // why the body ended early; nil if it is complete
}

// RoundTrip sends the request and captures the response. It always returns an
// error.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	if x.started {
		_ = req.Body.Close() // required of a RoundTripper
		return nil, errSecondSend
	}
	x.send(req)
	return nil, errCaptured
}

// send sends the request and captures the response.
func (x *exchange) send(req *http.Request) {
	x.started = true
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: x.connected})
	req = req.Clone(ctx)
	req.GetBody = nil // so that the transport cannot send it again
	setCommonHeader(req.Header)
	if x.finish != nil {
		x.finish(req)
	}
	resp, err := x.transport.RoundTrip(req)
	if err != nil {
		x.err = outbound.DescribeError(ctx, err)
		return
	}
	x.response = x.read(ctx, resp)
}

// connected is called before the request is written.
func (x *exchange) connected(info httptrace.GotConnInfo) {
	x.gotConn = true
	x.sentAt = x.now()
	if x.conn = trackedBelow(info.Conn); x.conn != nil {
		x.before = x.conn.bytesWritten()
	}
}

func (x *exchange) read(ctx context.Context, resp *http.Response) *response {
	r := &response{status: resp.StatusCode, retryAfter: outbound.RetryAfter(resp.Header, x.now())}
	if r.success() || r.clientError() {
		r.body, r.bodyErr = readBody(ctx, resp.Body)
	}
	_ = resp.Body.Close() // the connection is not used again
	return r
}

// noResponseError returns a [NotSentError] or an [UnknownOutcomeError] for an
// exchange without a response.
func (x *exchange) noResponseError() error {
	switch {
	case !x.started:
		return &NotSentError{Err: errInvalidRequest}
	case !x.gotConn, x.conn != nil && x.conn.closeIfUnwritten(x.before):
		return &NotSentError{Err: x.err}
	}
	return &UnknownOutcomeError{Err: x.err}
}

func (r *response) success() bool     { return r.status >= 200 && r.status <= 299 }
func (r *response) clientError() bool { return r.status >= 400 && r.status <= 499 }

// readBody returns what can be read of a body, and why that is not all of it. It
// stops at the end of a complete JSON object without waiting for the end of the
// body: until it returns, a crash loses the tokens in it.
func readBody(ctx context.Context, body io.Reader) ([]byte, error) {
	in := io.LimitReader(decompressed(body), maxResponseBody+1)
	var b bytes.Buffer
	for piece := make([]byte, readSize); !isCompleteObject(b.Bytes()); {
		n, err := in.Read(piece)
		b.Write(piece[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return b.Bytes(), outbound.DescribeError(ctx, err)
		}
	}
	if b.Len() > maxResponseBody {
		return b.Bytes()[:maxResponseBody], errTooLong
	}
	return b.Bytes(), nil
}

// isCompleteObject reports whether b is a JSON object that is closed.
func isCompleteObject(b []byte) bool {
	return bytes.HasSuffix(bytes.TrimRight(b, jsonSpace), []byte("}")) && json.Valid(b)
}

// gzipMagic begins every gzip file (RFC 1952 section 2.3.1) and no JSON text.
const gzipMagic = "\x1f\x8b"

// decompressed returns the body without gzip. Requests ask for no compression, but
// a server that compresses all the same has used up the refresh token too, and the
// new one is inside. A truncated body is decompressed as far as possible.
func decompressed(body io.Reader) io.Reader {
	in := bufio.NewReader(body)
	if magic, _ := in.Peek(len(gzipMagic)); string(magic) != gzipMagic {
		return in // which returns the error of Peek again
	}
	out, err := gzip.NewReader(in)
	if err != nil {
		return failingReader{err}
	}
	return out
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }
