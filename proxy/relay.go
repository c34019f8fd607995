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
	x.proxy.upstream.localizeAll(h, x.target.prefix)
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or the server guesses one
	}
	announced := announceTrailer(h, res.Trailer)
	x.closeAfterPartialBody()
	x.w.WriteHeader(res.StatusCode)
	if c, err := x.copyBody(res); err != nil {
		x.entry.code, x.entry.err = c, err
		_ = http.NewResponseController(x.w).Flush() // what there is, request-Id included
		x.abort()
	}
	copyResponseTrailer(h, res.Trailer, announced)
}

// copyBody streams the body of res. The code of its error says who broke off.
func (x *exchange) copyBody(res *http.Response) (code, error) {
	// An answer of unknown length may be a stream whose reader waits for each
	// piece of it, the head being the first.
	streamed := res.ContentLength < 0 && x.in.Method != http.MethodHead
	flush := func() error { return nil }
	if streamed {
		flush = http.NewResponseController(x.w).Flush
	}
	buf := x.proxy.copyBuffers.Get().(*[]byte)
	defer x.proxy.copyBuffers.Put(buf)
	for err := flush(); ; {
		if err != nil {
			return codeClientClosed, err
		}
		n, readErr := res.Body.Read(*buf)
		if n > 0 {
			if err = x.write((*buf)[:n]); err == nil {
				err = flush()
			}
		}
		if errors.Is(readErr, io.EOF) && err == nil {
			return "", nil
		}
		if readErr != nil {
			return x.brokenOff(), sanitizedError(readErr)
		}
	}
}

func (x *exchange) write(p []byte) error {
	n, err := x.w.Write(p)
	x.entry.sent += int64(n)
	return err
}

// brokenOff says why an answer ended early: reading fails too when the client
// has left.
func (x *exchange) brokenOff() code {
	if x.clientGone() {
		return codeClientClosed
	}
	return codeUpstreamProtocolError
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
