package proxy

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// copyBufferSize is how much of a response is read at a time, in bytes.
const copyBufferSize = 32 << 10

// relay passes a response of the API on to the client.
func (x *exchange) relay(res *http.Response) {
	defer func() { _ = res.Body.Close() }()
	x.entry.status = res.StatusCode
	x.entry.requestID = res.Header.Get("Request-Id")

	h := x.w.Header()
	copyResponseHeader(h, res.Header, res.Header["Connection"])
	x.proxy.api.localizeAll(h, x.target.prefix)
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or the server guesses one
	}
	if res.ContentLength < 0 && res.Body != http.NoBody {
		h["Transfer-Encoding"] = []string{"chunked"} // or the server adds a length if the body is short
	}
	announced := announceTrailer(h, res.Trailer)
	x.closeAfterPartialBody()
	x.w.WriteHeader(res.StatusCode)
	if c, err := x.copyBody(res.Body); err != nil {
		x.entry.code, x.entry.err = c, err
		x.abort()
	}
	copyResponseTrailer(h, res.Trailer, announced)
}

// copyBody streams a response body. The head goes out at once and the body as it
// arrives: what has been written is flushed before waiting for the API. The code
// of the error tells which side broke off.
func (x *exchange) copyBody(body io.Reader) (code, error) {
	if body == http.NoBody {
		return "", nil
	}
	flush := http.NewResponseController(x.w).Flush
	upcoming, _ := body.(interface{ Ready() bool })
	buf := x.proxy.copyBuffers.Get().(*[]byte)
	defer x.proxy.copyBuffers.Put(buf)
	for written := true; ; { // the head is
		if written && (upcoming == nil || !upcoming.Ready()) {
			if err := flush(); err != nil {
				return codeClientClosed, err
			}
		}
		n, readErr := body.Read(*buf)
		written = n > 0
		if written {
			sent, err := x.w.Write((*buf)[:n])
			x.entry.sent += int64(sent)
			if err != nil {
				return codeClientClosed, err
			}
		}
		if errors.Is(readErr, io.EOF) {
			return "", nil
		}
		if readErr != nil {
			return x.brokenBody(readErr, flush)
		}
	}
}

// brokenBody returns which side broke off when reading a response body has failed,
// after what has arrived was flushed, Request-Id included. If that fails too, or if
// the client has disconnected, which ends reading, it is the client.
func (x *exchange) brokenBody(readErr error, flush func() error) (code, error) {
	if err := flush(); err != nil {
		return codeClientClosed, err
	}
	if x.clientGone() {
		return codeClientClosed, readErr
	}
	return codeUpstreamProtocolError, readErr
}

// closeAfterPartialBody makes the response the last one of its connection if it
// comes before the end of the request body, or instead of it. net/http looks for
// that end after a full-duplex handler has returned, and must not find another
// request behind it: reading the body of that one panics on a goroutine that does
// not recover. And the end of a malformed body is unknown.
//
// Without an upload nothing of the body was read, and net/http decides whether to
// close the connection.
func (x *exchange) closeAfterPartialBody() {
	if x.in.ProtoMajor != 1 || x.in.ContentLength == 0 || x.upload != nil && x.upload.complete() {
		return
	}
	lingerOnClose(x.in)
	if x.upload != nil {
		closeAfterResponse(x.w)
	}
}

// closeAfterResponse makes the server close the connection after the response,
// once the client has had time to read it. net/http does this only for a body
// that exceeds the limit of a MaxBytesReader, so one is made to.
func closeAfterResponse(w http.ResponseWriter) {
	tooLarge := http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0)
	_, _ = tooLarge.Read(make([]byte, 1)) // an error always
}

// abort ends the client's connection in the middle of a response, which shows
// the client that the response is not complete. HTTP/1.0 has no chunks, so a
// response without a length needs a reset for that.
func (x *exchange) abort() {
	if _, ok := x.w.Header()["Content-Length"]; !ok && !x.in.ProtoAtLeast(1, 1) {
		resetConnection(x.in)
	}
	if x.upload != nil {
		x.upload.finish()
		x.upload.stopReading(x.w)
	}
	panic(http.ErrAbortHandler)
}

// reject responds to a request that was not forwarded, or got no valid response.
func (x *exchange) reject(err error) {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		// The client has disconnected. If the handler returned, the server would
		// send an empty 200.
		x.entry.status, x.entry.code, x.entry.byProxy = statusClientClosed, codeClientClosed, true
		x.abort()
	}
	x.entry.status, x.entry.code, x.entry.byProxy = problemKinds[p.code].status, p.code, true
	x.entry.err = p.cause
	x.closeAfterPartialBody()
	x.entry.sent, err = p.write(x.w)
	if err != nil && x.entry.err == nil {
		x.entry.err = err
	}
}

// announceTrailer writes to h the names of the trailer fields that a response
// announces, and returns them.
func announceTrailer(h, trailer http.Header) []string {
	var names []string
	for name := range trailer {
		if !strippedFromTrailer(name) {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		h["Trailer"] = []string{strings.Join(names, ", ")}
	}
	return names
}

// copyResponseTrailer passes the trailer section on, after the body.
func copyResponseTrailer(h, trailer http.Header, announced []string) {
	for _, name := range announced {
		h[name] = trailer[name] // none if it did not come: a header field of that name is another one
		delete(trailer, name)
	}
	for name, values := range trailer {
		if !strippedFromTrailer(name) {
			h[http.TrailerPrefix+name] = values
		}
	}
}

// strippedFromTrailer reports whether a field of a response's trailer section is not
// passed on. A client may merge the section into the header.
func strippedFromTrailer(name string) bool {
	return strippedFromResponse(name) || framesOrRoutes(name) || !httpguts.ValidHeaderFieldName(name)
}
