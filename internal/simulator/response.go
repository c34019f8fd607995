package simulator

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
)

// response is a whole answer, made before any of it is written, so that a fault
// can change, cut or drop it.
type response struct {
	status int
	header http.Header // may be nil
	body   []byte
	ending ending
	cut    int // bytes of the body that are written where ending cuts
}

// ending is how the connection ends after the answer.
type ending string

const (
	endWell     ending = ""         // as HTTP wants
	endDropped  ending = "dropped"  // closed without an answer
	endReset    ending = "reset"    // reset without an answer
	endCut      ending = "cut"      // closed within the body
	endCutReset ending = "cutreset" // reset within the body
)

// outcome names the answer in counts: the status, or how the connection ended.
func (r response) outcome() string {
	if r.ending != endWell {
		return string(r.ending)
	}
	return strconv.Itoa(r.status)
}

// jsonResponse answers with a JSON document in the content type that Pleo's API
// uses.
func jsonResponse(status int, v any) response {
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetEscapeHTML(false) // it is no page, and people read it
	if err := e.Encode(v); err != nil {
		return textResponse(http.StatusInternalServerError, err.Error())
	}
	return response{status: status, header: contentType("application/json;charset=UTF-8"), body: body.Bytes()}
}

func textResponse(status int, text string) response {
	return response{status: status, header: contentType("text/plain; charset=utf-8"), body: []byte(text)}
}

func htmlResponse(status int, page string) response {
	return response{status: status, header: contentType("text/html; charset=utf-8"), body: []byte(page)}
}

func contentType(t string) http.Header { return http.Header{"Content-Type": {t}} }

// with returns the reply with one more header field.
func (r response) with(name, value string) response {
	h := r.header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set(name, value)
	r.header = h
	return r
}

// exceptionInfo is the error document of Pleo's API.
type exceptionInfo struct {
	Type    string `json:"type"`
	Message string `json:"message,omitempty"`
}

func exception(status int, code, message string) response {
	return jsonResponse(status, exceptionInfo{Type: code, Message: message})
}

// write sends the reply, and ends the connection in the way it says. It does
// not return where the connection is not to be used again.
func (r response) write(w http.ResponseWriter) {
	switch r.ending {
	case endDropped:
		panic(http.ErrAbortHandler)
	case endReset:
		reset(w)
	}
	for name, values := range r.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(r.body)))
	w.WriteHeader(r.status)
	if r.ending == endWell {
		_, _ = w.Write(r.body) // the client may have left
		return
	}
	_, _ = w.Write(r.body[:min(r.cut, len(r.body))])
	_ = http.NewResponseController(w).Flush() // on failure there is nothing left to cut
	if r.ending == endCutReset {
		reset(w)
	}
	panic(http.ErrAbortHandler)
}

// reset ends the connection with a TCP reset, or closes it where that cannot be
// done (HTTP/2, pipes).
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	raw := conn
	if wrapped, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = wrapped.NetConn()
	}
	if wrapped, ok := raw.(*headConn); ok {
		raw = wrapped.Conn
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // else it closes in the ordinary way
	}
	_ = conn.Close()
	panic(http.ErrAbortHandler)
}

// readJSON reads one JSON document of at most 64 MiB and refuses unknown
// members where strict.
func readJSON(body io.Reader, strict bool, into any) error {
	d := json.NewDecoder(io.LimitReader(body, 64<<20))
	if strict {
		d.DisallowUnknownFields()
	}
	return d.Decode(into)
}
