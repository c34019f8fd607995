package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/net/http/httpguts"
)

// Request is a request to the server of a [Client].
//
// After Do has returned, it may be changed and passed to Do again, for example with
// another header value. Over all calls, it is resent at most once because a reused
// connection ended.
type Request struct {
	Method string

	// Target is the request target in origin form. It is written byte for byte.
	Target string

	// Header is written as it is, sorted by name, but without Host and the fields
	// that frame the message or belong to the connection. Those are written by the
	// client.
	Header http.Header

	// Body is nil for a request without a body. Another goroutine reads it, which
	// may still be blocked in Read after the response body has been closed.
	Body io.Reader

	// ContentLength is the length of Body. Less than 0 means that it is unknown and
	// that the body is chunked.
	ContentLength int64

	// Trailer is the trailer section of a chunked body. Its names are announced in
	// the header. Body may add values and fields until it returns io.EOF.
	Trailer http.Header

	// Interim is called for each 1xx response other than 100, on the goroutine that
	// called Do. Nil ignores them.
	Interim func(status int, header http.Header)

	resent bool // because a reused connection ended
}

// validate returns an error if the request cannot be written unchanged.
func (r *Request) validate() error {
	if !httpguts.ValidHeaderFieldName(r.Method) {
		return fmt.Errorf("checking the request: %q is not a method", r.Method)
	}
	if !strings.HasPrefix(r.Target, "/") || strings.ContainsFunc(r.Target, endsTarget) {
		return errors.New("checking the request: invalid target")
	}
	return errors.Join(validateFields(r.Header), validateFields(r.Trailer))
}

func endsTarget(c rune) bool { return c <= ' ' || c == 0x7f }

func validateFields(h http.Header) error {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("checking the request: %q is not a field name", name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("checking the request: invalid value of %s", name)
			}
		}
	}
	return nil
}

// expectsContinue reports whether the body is to be sent only after a 100 response.
func (r *Request) expectsContinue() bool {
	return httpguts.HeaderValuesContainsToken(r.Header["Expect"], "100-continue")
}

// mayResend reports whether the request may be sent again after err on a reused
// connection. See the package comment.
func (r *Request) mayResend(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	if e.Phase == NotSent {
		return true
	}
	if e.Phase != NoResponse || r.resent || r.Body != nil || !endedByServer(e.Err) {
		return false
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		r.resent = true
	}
	return r.resent
}

func endedByServer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// writeHead writes request line and header section. names is scratch space, and
// returned for the next call. Errors are returned when w is flushed.
func (r *Request) writeHead(w *bufio.Writer, host string, names []string) []string {
	writeAll(w, r.Method, " ", r.Target, " HTTP/1.1\r\nHost: ", host, "\r\n")
	switch {
	case r.Body != nil && r.ContentLength < 0:
		writeAll(w, "Transfer-Encoding: chunked\r\n")
		if len(r.Trailer) > 0 {
			names = appendNames(names, r.Trailer)
			writeAll(w, "Trailer: ", strings.Join(names, ", "), "\r\n")
		}
	case r.Body != nil:
		writeAll(w, "Content-Length: ", strconv.FormatInt(r.ContentLength, 10), "\r\n")
	case r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch:
		writeAll(w, "Content-Length: 0\r\n") // RFC 9110 section 8.6
	}
	return writeFields(w, r.Header, names)
}

// writeFields writes a header or trailer section and the empty line after it.
func writeFields(w *bufio.Writer, h http.Header, names []string) []string {
	names = appendNames(names, h)
	for _, name := range names {
		for _, v := range h[name] {
			writeAll(w, name, ": ", v, "\r\n")
		}
	}
	writeAll(w, "\r\n")
	return names
}

// appendNames returns the sorted names of the fields in h that are written. It
// overwrites names.
func appendNames(names []string, h http.Header) []string {
	names = names[:0]
	for name := range h {
		if !ownedByClient(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// ownedByClient reports whether a field is written by the client only.
func ownedByClient(name string) bool {
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

func writeAll(w *bufio.Writer, parts ...string) {
	for _, s := range parts {
		_, _ = w.WriteString(s) // the error is returned by Flush
	}
}
