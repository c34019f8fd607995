package webguard

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// typePrefix begins the type of every problem. It is a name and not an address: it
// stays when pages move, and no client tries to fetch it.
const typePrefix = "urn:pleo-auth-proxy:problem:"

// Problem is an error response: a problem document (RFC 9457), and the error that
// leads to it. Clients see all of it.
type Problem struct { //nolint:errname // the term of RFC 9457
	Code   string // identifies the problem to programs
	Status int
	Title  string // the same for all problems of the code

	// Message is sentences for people: what happened, and what to do next. It should
	// be short, because many clients print only the first 200 bytes of a response.
	Message    string
	Detail     string // Message with further sentences; empty: just Message
	Connection string // name of the connection; empty: none
	ConnectURL string // where a person can fix the problem; empty: nowhere

	// RetryAfter is when the client should try again, rounded up to seconds. 0:
	// waiting does not help.
	RetryAfter time.Duration
}

// Error implements [error].
func (p *Problem) Error() string { return p.Message }

// document is the JSON form of a Problem. What a person needs comes first, for
// clients that print the beginning only.
type document struct {
	Code       string `json:"code"`
	Message    string `json:"message"`
	ConnectURL string `json:"connect_url,omitempty"`
	Connection string `json:"connection,omitempty"`
	Status     int    `json:"status"`
	Type       string `json:"type"`
	Title      string `json:"title"`
	Detail     string `json:"detail"`
}

// Body returns the problem document.
func (p *Problem) Body() ([]byte, error) {
	body, err := json.Marshal(document{
		Code: p.Code, Message: p.Message, ConnectURL: p.ConnectURL, Connection: p.Connection,
		Status: p.Status, Type: typePrefix + p.Code, Title: p.Title, Detail: cmp.Or(p.Detail, p.Message),
	})
	if err != nil {
		return nil, fmt.Errorf("encoding problem: %w", err)
	}
	return append(body, '\n'), nil
}

// SetHeader sets the header fields that every problem has.
func (p *Problem) SetHeader(h http.Header) {
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.RetryAfter > 0 {
		seconds := (p.RetryAfter + time.Second - 1) / time.Second
		h.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
}

// Write writes the problem as the response, and returns the length of its body. An
// error means that the client did not receive it.
func (p *Problem) Write(w http.ResponseWriter) (int64, error) {
	body, err := p.Body()
	if err != nil {
		return 0, err
	}
	p.SetHeader(w.Header())
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	n, err := w.Write(body)
	return int64(n), err
}
