package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// code names a problem for programs.
type code string

const (
	codeBadRequest         code = "bad_request"
	codeConnectionUnknown  code = "connection_unknown"
	codeCrossSiteRequest   code = "cross_site_request"
	codeHostNotAllowed     code = "host_not_allowed"
	codeMethodNotSupported code = "method_not_supported"
	codeNotFound           code = "not_found"
	codeStoreUnavailable   code = "store_unavailable"
	codeTokenRequired      code = "admin_token_required"
)

// heading returns what all problems of the code have in common.
func (c code) heading() (status int, title string) {
	switch c {
	case codeBadRequest:
		return http.StatusBadRequest, "Bad request"
	case codeConnectionUnknown:
		return http.StatusNotFound, "Connection unknown"
	case codeCrossSiteRequest:
		return http.StatusForbidden, "Cross-site request"
	case codeHostNotAllowed:
		return http.StatusForbidden, "Host not allowed"
	case codeMethodNotSupported:
		return http.StatusMethodNotAllowed, "Method not supported"
	case codeTokenRequired:
		return http.StatusUnauthorized, "Admin token required"
	case codeNotFound:
		return http.StatusNotFound, "Not found"
	}
	return http.StatusServiceUnavailable, "Store unavailable"
}

// problem is an error as a document (RFC 9457), with the members that the
// proxy's own errors have too.
type problem struct {
	Type       string `json:"type"`
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Detail     string `json:"detail"`
	Code       code   `json:"code"`
	Message    string `json:"message"` // = Detail
	Connection string `json:"connection,omitempty"`
}

func problemOf(c code, detail string) problem {
	status, title := c.heading()
	return problem{
		Type:    "urn:pleo-auth-proxy:problem:" + string(c),
		Title:   title,
		Status:  status,
		Detail:  detail,
		Code:    c,
		Message: detail,
	}
}

func badRequest(format string, args ...any) *problem {
	p := problemOf(codeBadRequest, fmt.Sprintf(format, args...))
	return &p
}

func (p problem) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/problem+json")
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	w.WriteHeader(p.Status)
	writeBody(w, p)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	writeBody(w, v)
}

func writeBody(w http.ResponseWriter, v any) {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // only a client that has left makes this fail
}
