package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

// Phase is how far a request got before it failed.
type Phase int

const (
	// NotSent means that no byte of the request was written. It is safe to send
	// it again.
	NotSent Phase = iota

	// NoResponse means that some of the request was written and no byte of a
	// response was read. The server may have acted on it.
	NoResponse

	// BrokenResponse means that the response is not HTTP, exceeds a limit or
	// ended early.
	BrokenResponse
)

// Error is the error of [Client.Do] and of the response bodies it returns. Its text
// contains nothing that the server sent.
type Error struct {
	Phase Phase
	Err   error
}

// Error implements error.
func (e *Error) Error() string {
	doing := [...]string{NotSent: "sending the request", NoResponse: "waiting for a response", BrokenResponse: "reading the response"}
	return doing[e.Phase] + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Causes of an [Error] that callers can tell apart.
var (
	// ErrTimeout means that the server did not respond within
	// [Config.ResponseTimeout] or [Config.BodyTimeout].
	ErrTimeout = errors.New("the server did not respond in time")

	// ErrRequestBody means that reading the request body failed.
	ErrRequestBody = errors.New("reading the request body")

	// ErrClosed means that the response body was closed before its end.
	ErrClosed = errors.New("the response body was closed")
)

var (
	errMalformed      = errors.New("malformed response")
	errFraming        = errors.New("response with conflicting Content-Length and Transfer-Encoding")
	errHeadTooLarge   = errors.New("response header exceeds the limit")
	errTooManyInterim = errors.New("too many 1xx responses")
	errBadStatus      = errors.New("response with status 101 or below 100")
	errBodyTooShort   = errors.New("request body is shorter than its Content-Length")
	errResponseEnded  = errors.New("the response ended before the request body was sent")
)

// ProxyError is a forward proxy's rejection of a CONNECT request.
type ProxyError struct {
	StatusCode int
}

// Error implements error.
func (e *ProxyError) Error() string {
	return fmt.Sprintf("connecting through the forward proxy: it responded %d %s", e.StatusCode, http.StatusText(e.StatusCode))
}

// causeOf returns why an operation failed: the cause of ctx if it has ended,
// because that closes the connection, and otherwise err without anything that
// the server sent. Errors of parsing quote the response, which may quote the
// request.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, ErrRequestBody) {
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrTimeout
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op
	}
	for _, known := range []error{ErrClosed, errFraming, errHeadTooLarge, errTooManyInterim, errBadStatus, io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, known) {
			return known
		}
	}
	return errMalformed
}
