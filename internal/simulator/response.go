package simulator

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"strconv"
)

// response is a complete response. It exists before any of it is written, so that
// a fault can change, truncate or drop it.
type response struct {
	status int
	header http.Header // may be nil
	body   []byte
	ending ending
	cut    int // bytes of the body that are written if ending truncates it
}

// ending is how the connection is closed after the response.
type ending string

const (
	endNormally ending = ""          // as usual in HTTP
	endDropped  ending = "dropped"   // closed without a response
	endReset    ending = "reset"     // reset without a response
	endCut      ending = "cut"       // closed within the body
	endCutReset ending = "cut_reset" // reset within the body
)

// outcome is the key of the response in [Counters]: its status code, or how the
// connection was closed.
func (r response) outcome() string {
	if r.ending != endNormally {
		return string(r.ending)
	}
	return strconv.Itoa(r.status)
}

// jsonResponse returns a JSON document in the content type of Pleo's API.
func jsonResponse(status int, v any) response {
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetEscapeHTML(false) // readable: it is not part of a page
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

// with returns the response with another header field.
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

// write writes the response and closes the connection as its ending says. It does
// not return if the connection must not be reused.
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
	if r.ending == endNormally {
		_, _ = w.Write(r.body) // the client may have disconnected
		return
	}
	_, _ = w.Write(r.body[:min(r.cut, len(r.body))])
	_ = http.NewResponseController(w).Flush() // on failure nothing is left to truncate
	if r.ending == endCutReset {
		reset(w)
	}
	panic(http.ErrAbortHandler)
}

// reset closes the connection with a TCP reset, or in the ordinary way where that
// is impossible (HTTP/2, pipes).
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	raw := conn
	if wrapped, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = wrapped.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // on failure it is closed in the ordinary way
	}
	_ = conn.Close()
	panic(http.ErrAbortHandler)
}
