package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// controlHandler serves the control endpoint.
func controlHandler(s *Simulator) http.Handler {
	mux := http.NewServeMux()
	for pattern, c := range controls(s) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { c.respond(r).write(w) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLocal(r) || r.Header.Get("Origin") != "" {
			exception(http.StatusForbidden, "FORBIDDEN", "the control endpoint is for programs on the same machine").write(w)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// isLocal reports whether a request comes from this machine or process.
func isLocal(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return true // a pipe or a unix socket
	}
	ip := net.ParseIP(host)
	return ip == nil || ip.IsLoopback()
}

// control handles a request. It returns the document to respond with, or nil for
// none.
type control func(*http.Request) (any, error)

// controls maps patterns of the control endpoint to their handlers.
func controls(s *Simulator) map[string]control {
	return map[string]control{
		"GET /_control/companies":              getting(s.Companies),
		"POST /_control/companies":             creating(s.AddCompany),
		"GET /_control/grants":                 getting(s.Grants),
		"POST /_control/grants":                creating(s.IssueGrant),
		"POST /_control/grants/revoke":         creating(func(sel selection) (map[string]int, error) { return revokeSelected(s, sel) }),
		"DELETE /_control/grants/{id}":         deleting(s.RevokeGrant),
		"POST /_control/keys":                  creating(func(r keyRequest) (Key, error) { return s.IssueKey(r.key(s.now())) }),
		"DELETE /_control/keys/{id}":           deleting(s.RevokeKey),
		"POST /_control/access-tokens/kill":    selecting("tokens", s.KillAccessTokens),
		"POST /_control/refresh-tokens/expire": selecting("tokens", s.ExpireRefreshTokens),
		"GET /_control/faults":                 getting(s.faults.list),
		"POST /_control/faults":                creating(s.SetFault),
		"DELETE /_control/faults":              deleting(s.faults.clear),
		"DELETE /_control/faults/{id}":         deleting(s.faults.clear),
		"GET /_control/counters":               getting(s.Counters),
		"DELETE /_control/counters":            deleting(func(string) error { s.ResetCounters(); return nil }),
	}
}

func (c control) respond(r *http.Request) response {
	document, err := c(r)
	if errors.Is(err, ErrNotFound) {
		return exception(http.StatusNotFound, "CONTROL_FAILED", err.Error())
	}
	if err != nil {
		return exception(http.StatusBadRequest, "CONTROL_FAILED", err.Error())
	}
	if document == nil {
		return response{status: http.StatusNoContent}
	}
	return jsonResponse(http.StatusOK, document)
}

func getting[Out any](get func() Out) control {
	return func(*http.Request) (any, error) { return get(), nil }
}

// creating decodes the body for create and responds with what it returns. An
// empty body means an empty document.
func creating[In, Out any](create func(In) (Out, error)) control {
	return func(r *http.Request) (any, error) {
		var in In
		d := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
		d.DisallowUnknownFields()
		if err := d.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("reading the body: %w", err)
		}
		return create(in)
	}
}

func deleting(remove func(id string) error) control {
	return func(r *http.Request) (any, error) { return nil, remove(r.PathValue("id")) }
}

// keyRequest is a [Key] whose expiry may be given as a duration.
type keyRequest struct {
	Key
	ExpiresIn Duration `json:"expires_in"`
}

func (r keyRequest) key(now time.Time) Key {
	if r.ExpiresIn != 0 {
		r.ExpiresAt = now.Add(time.Duration(r.ExpiresIn)).UTC()
	}
	return r.Key
}

// selection selects one grant, the grants of a company, or all if it is empty.
type selection struct {
	Grant   string `json:"grant"`
	Company string `json:"company_id"`
}

// selecting applies f to the grants that the body selects, and responds with the
// number that it returns.
func selecting(name string, f func(grantID, companyID string) int) control {
	return creating(func(sel selection) (map[string]int, error) {
		return map[string]int{name: f(sel.Grant, sel.Company)}, nil
	})
}

func revokeSelected(s *Simulator, sel selection) (map[string]int, error) {
	if sel.Grant != "" {
		return map[string]int{"grants": 1}, s.RevokeGrant(sel.Grant)
	}
	return map[string]int{"grants": s.RevokeGrants(sel.Company)}, nil
}
