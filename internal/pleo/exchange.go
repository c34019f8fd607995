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
)

// maxResponseBody is how much of an answer's body is read, in bytes.
const maxResponseBody = 1 << 20

var (
	errCaptured       = errors.New("the answer was captured")
	errSecondSend     = errors.New("a token request is sent once")
	errTooLong        = errors.New("the answer is longer than 1 MB")
	errInvalidRequest = errors.New("the request could not be formed")
	errNoToken        = errors.New("there is no token to send")
)

// exchange is one request to the authorization server and what became of it. It
// is the [http.RoundTripper] of the client that sends the request, and captures
// the answer instead of handing it on: what it means is not the sender's to
// decide. It sends one request in its life, and belongs to one goroutine.
type exchange struct {
	base   http.RoundTripper
	now    func() time.Time
	finish func(*http.Request) // finishes the request; may be nil

	sent    bool
	gotConn bool
	conn    *trackedConn // nil: the connection is not watched
	mark    int          // of conn, from before the request was written
	sentAt  time.Time    // just before the request was written

	response *response // nil when no head of one came
	cause    error     // why not
}

// response is what could be read of an answer.
type response struct {
	status     int
	retryAfter time.Duration // 0 when the server did not say
	body       []byte        // at most maxResponseBody
	bodyErr    error         // why the body ended early; nil when it is whole
}

// RoundTrip sends the request and captures the answer. It always returns an error.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	if x.sent {
		_ = req.Body.Close() // a RoundTripper's duty; it is a reader of bytes
		return nil, errSecondSend
	}
	x.send(req)
	return nil, errCaptured
}

// send sends the request and captures what becomes of it.
func (x *exchange) send(req *http.Request) {
	x.sent = true
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: x.connected})
	req = req.Clone(ctx)
	req.GetBody = nil // nobody is to send it again
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity") // without it any is acceptable (RFC 9110 section 12.5.3)
	req.Header.Set("User-Agent", userAgent)
	if x.finish != nil {
		x.finish(req)
	}
	resp, err := x.base.RoundTrip(req)
	if err != nil {
		x.cause = networkError(ctx, err)
		return
	}
	x.response = x.read(ctx, resp)
}

// connected is called before the request is written.
func (x *exchange) connected(info httptrace.GotConnInfo) {
	x.gotConn = true
	x.sentAt = x.now()
	x.conn = trackedConnOf(info.Conn)
	if x.conn != nil {
		x.mark = x.conn.position()
	}
}

func (x *exchange) read(ctx context.Context, resp *http.Response) *response {
	a := &response{status: resp.StatusCode, retryAfter: retryAfter(resp.Header, x.now())}
	if a.success() || a.clientError() {
		a.body, a.bodyErr = readBody(ctx, resp.Body)
	}
	_ = resp.Body.Close() // the connection is not used again
	return a
}

func (a *response) success() bool     { return a.status >= 200 && a.status <= 299 }
func (a *response) clientError() bool { return a.status >= 400 && a.status <= 499 }

// readBody returns what can be read of body, and why it is not the whole. It does
// not wait for the end behind a JSON object that is whole: until it returns, a
// crash loses what is in there.
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
			return b.Bytes(), networkError(ctx, err)
		}
	}
	if b.Len() > maxResponseBody {
		return b.Bytes()[:maxResponseBody], errTooLong
	}
	return b.Bytes(), nil
}

// readSize is how much of an answer is read at a time, in bytes: mostly all of it.
const readSize = 4 << 10

// isCompleteObject reports whether b is a JSON object up to its end.
func isCompleteObject(b []byte) bool {
	return bytes.HasSuffix(bytes.TrimRight(b, " \t\r\n"), []byte("}")) && json.Valid(b)
}

// gzipMagic is what every gzip file begins with (RFC 1952 section 2.3.1), and no
// JSON text.
const gzipMagic = "\x1f\x8b"

// decompressed returns body without the compression that we ask servers not to use.
// One that uses it all the same has spent the refresh token as well, and its
// successor is inside. What is readable of a part is read.
func decompressed(body io.Reader) io.Reader {
	in := bufio.NewReader(body)
	if magic, _ := in.Peek(len(gzipMagic)); string(magic) != gzipMagic {
		return in // an error comes again when it is read
	}
	out, err := gzip.NewReader(in)
	if err != nil {
		return failingReader{err}
	}
	return out
}

// failingReader is a body that cannot be read.
type failingReader struct{ err error }

func (b failingReader) Read([]byte) (int, error) { return 0, b.err }

// noResponseError says what became of a request without an answer: a [NotSentError] or
// an [UnknownOutcomeError].
func (x *exchange) noResponseError() error {
	if !x.sent {
		return &NotSentError{Err: errInvalidRequest}
	}
	if !x.gotConn || x.conn != nil && x.conn.closeIfUnwritten(x.mark) {
		return &NotSentError{Err: x.cause}
	}
	return &UnknownOutcomeError{Err: x.cause}
}
