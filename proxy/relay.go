package proxy

import (
	"errors"
	"io"
	"net/http"
	"strings"
)

// copyBufferSize is how much of an answer is read at a time, in bytes.
const copyBufferSize = 32 << 10

// relay passes an answer of the API on to the client.
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
		_ = http.NewResponseController(x.w).Flush() // what there is, request-Id included
		x.abort()
	}
	copyResponseTrailer(h, res.Trailer, announced)
}

// copyBody streams a response body. The head goes out at once and the body as it
// comes: what has been written is flushed before waiting for the API. The code of
// the error says who broke off.
func (x *exchange) copyBody(body io.Reader) (code, error) {
	if body == http.NoBody {
		return "", nil
	}
	flush := http.NewResponseController(x.w).Flush
	upcoming, _ := body.(interface{ Ready() bool })
	buf := x.proxy.copyBuffers.Get().(*[]byte)
	defer x.proxy.copyBuffers.Put(buf)
	for written := true; ; { // the head
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
		switch {
		case errors.Is(readErr, io.EOF):
			return "", nil
		case readErr != nil && x.clientGone(): // which ends reading too
			return codeClientClosed, readErr
		case readErr != nil:
			return codeUpstreamProtocolError, readErr
		}
	}
}

// closeAfterPartialBody makes an answer the last one of its connection if it comes before
// the end of the request's body, or instead of it. net/http reads on for that end
// once a full-duplex handler has returned, and must not find a next request behind
// it: reading that one's body panics where nobody recovers. And where the body is
// malformed, or reading it was broken off, nobody knows where it ends.
func (x *exchange) closeAfterPartialBody() {
	if x.upload != nil && x.in.ProtoMajor == 1 && !x.upload.complete() {
		closeAfterResponse(x.w)
	}
}

// closeConnection closes the connection behind the answer that w is about to get, and not
// before the client has had time to read it. It is what net/http does when a body
// is larger than allowed, and the way to it.
func closeAfterResponse(w http.ResponseWriter) {
	tooLarge := http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0)
	_, _ = tooLarge.Read(make([]byte, 1)) // an error always
}

// abort ends the client's connection in the middle of an answer, which is how a
// client sees that the answer is not whole. One of HTTP/1.0, which has no chunks,
// sees it only by a reset, where the answer has no length.
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

// reject answers a request that was not, or not successfully, forwarded.
func (x *exchange) reject(err error) {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		// Nobody is there to read an answer. Returning would make the server send
		// an empty 200.
		x.entry.status, x.entry.code, x.entry.byListener = statusClientClosed, codeClientClosed, true
		x.abort()
	}
	x.entry.status, x.entry.code, x.entry.byListener = problemKinds[p.code].status, p.code, true
	x.entry.err = p.cause
	x.closeAfterPartialBody()
	x.entry.sent, err = p.write(x.w)
	if err != nil && x.entry.err == nil {
		x.entry.err = err
	}
}

// announceTrailer names in h the trailer fields that an answer announces, and returns
// the names.
func announceTrailer(h, trailer http.Header) []string {
	var names []string
	for name := range trailer {
		if !strippedFromResponse(name) {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		h["Trailer"] = []string{strings.Join(names, ", ")}
	}
	return names
}

// copyResponseTrailer passes the trailer section on once the body has been read.
func copyResponseTrailer(h, trailer http.Header, announced []string) {
	for _, name := range announced {
		h[name] = trailer[name] // also when it did not come: a header field of the name is not it
		delete(trailer, name)
	}
	for name, values := range trailer {
		if !strippedFromResponse(name) {
			h[http.TrailerPrefix+name] = values
		}
	}
}
