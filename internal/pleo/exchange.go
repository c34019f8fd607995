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

// maxAnswer is how much of an answer's body is read, in bytes.
const maxAnswer = 1 << 20

var (
	errCaptured    = errors.New("the answer was captured")
	errSecondTry   = errors.New("a token request is sent once")
	errTooLong     = errors.New("the answer is longer than 1 MB")
	errNotFormed   = errors.New("the request could not be formed")
	errNothingSend = errors.New("there is no token to send")
)

// exchange is one request to the authorization server and what became of it. It
// is the [http.RoundTripper] of the client that sends the request, and captures
// the answer instead of handing it on: what it means is not the sender's to
// decide. It sends one request in its life, and belongs to one goroutine.
type exchange struct {
	base  http.RoundTripper
	now   func() time.Time
	touch func(*http.Request) // finishes the request; may be nil

	ran     bool
	gotConn bool
	conn    *watchedConn // nil: the connection is not watched
	mark    int          // of conn, from before the request was written
	sentAt  time.Time    // just before the request was written

	answer *answer // nil when no head of one came
	cause  error   // why not
}

// answer is what could be read of an answer.
type answer struct {
	status     int
	retryAfter time.Duration // 0 when the server did not say
	body       []byte        // at most maxAnswer
	broken     error         // why the body ended early; nil when it is whole
}

// RoundTrip sends the request and captures the answer. It always returns an error.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	if x.ran {
		_ = req.Body.Close() // a RoundTripper's duty; it is a reader of bytes
		return nil, errSecondTry
	}
	x.send(req)
	return nil, errCaptured
}

// send sends the request and captures what becomes of it.
func (x *exchange) send(req *http.Request) {
	x.ran = true
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: x.connected})
	req = req.Clone(ctx)
	req.GetBody = nil // nobody is to send it again
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity") // without it any is acceptable (RFC 9110 section 12.5.3)
	req.Header.Set("User-Agent", userAgent)
	if x.touch != nil {
		x.touch(req)
	}
	resp, err := x.base.RoundTrip(req)
	if err != nil {
		x.cause = causeOf(ctx, err)
		return
	}
	x.answer = x.read(ctx, resp)
}

// connected is called before the request is written.
func (x *exchange) connected(info httptrace.GotConnInfo) {
	x.gotConn = true
	x.sentAt = x.now()
	x.conn = watchedUnder(info.Conn)
	if x.conn != nil {
		x.mark = x.conn.mark()
	}
}

func (x *exchange) read(ctx context.Context, resp *http.Response) *answer {
	a := &answer{status: resp.StatusCode, retryAfter: retryAfter(resp.Header, x.now())}
	if a.success() || a.clientError() {
		a.body, a.broken = readBody(ctx, resp.Body)
	}
	_ = resp.Body.Close() // the connection is not used again
	return a
}

func (a *answer) success() bool     { return a.status >= 200 && a.status <= 299 }
func (a *answer) clientError() bool { return a.status >= 400 && a.status <= 499 }

// readBody returns what can be read of body, and why it is not the whole. It does
// not wait for the end behind a JSON object that is whole: until it returns, a
// crash loses what is in there.
func readBody(ctx context.Context, body io.Reader) ([]byte, error) {
	in := io.LimitReader(unpacked(body), maxAnswer+1)
	var b bytes.Buffer
	for piece := make([]byte, pieceSize); !wholeObject(b.Bytes()); {
		n, err := in.Read(piece)
		b.Write(piece[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return b.Bytes(), causeOf(ctx, err)
		}
	}
	if b.Len() > maxAnswer {
		return b.Bytes()[:maxAnswer], errTooLong
	}
	return b.Bytes(), nil
}

// pieceSize is how much of an answer is read at a time, in bytes: mostly all of it.
const pieceSize = 4 << 10

// wholeObject reports whether b is a JSON object up to its end.
func wholeObject(b []byte) bool {
	return bytes.HasSuffix(bytes.TrimRight(b, " \t\r\n"), []byte("}")) && json.Valid(b)
}

// gzipMagic is what every gzip file begins with (RFC 1952 section 2.3.1), and no
// JSON text.
const gzipMagic = "\x1f\x8b"

// unpacked returns body without the compression that we ask servers not to use.
// One that uses it all the same has spent the refresh token as well, and its
// successor is inside. What is readable of a part is read.
func unpacked(body io.Reader) io.Reader {
	in := bufio.NewReader(body)
	if magic, _ := in.Peek(len(gzipMagic)); string(magic) != gzipMagic {
		return in // an error comes again when it is read
	}
	out, err := gzip.NewReader(in)
	if err != nil {
		return broken{err}
	}
	return out
}

// broken is a body that cannot be read.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// silence says what became of a request without an answer: a [NotSentError] or
// an [UnknownError].
func (x *exchange) silence() error {
	if !x.ran {
		return &NotSentError{Err: errNotFormed}
	}
	if !x.gotConn || x.conn != nil && x.conn.untouched(x.mark) {
		return &NotSentError{Err: x.cause}
	}
	return &UnknownError{Err: x.cause}
}
