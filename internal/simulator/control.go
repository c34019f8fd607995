package simulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxEventWait is how long a request for events may wait.
const maxEventWait = 5 * time.Minute

// Control serves the endpoint described in the package documentation, below
// /_control/. It answers loopback and in-memory connections only, and no
// requests from web pages.
func (s *Simulator) Control() http.Handler {
	mux := http.NewServeMux()
	for pattern, answer := range s.controls() {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { respondControl(w, r, answer) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLocal(r) || r.Header.Get("Origin") != "" {
			exception(http.StatusForbidden, "FORBIDDEN", "the control endpoint answers local programs only").write(w)
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

// control answers a request with a document, nil for none, or an error.
type control func(*http.Request) (any, error)

// controls maps the patterns of the control endpoint to what they do.
func (s *Simulator) controls() map[string]control {
	return map[string]control{
		"GET /_control/settings":               func(*http.Request) (any, error) { return s.Settings(), nil },
		"PATCH /_control/settings":             s.patchSettings,
		"GET /_control/companies":              func(*http.Request) (any, error) { return s.directory.allCompanies(), nil },
		"POST /_control/companies":             creating(s.AddCompany),
		"POST /_control/clients":               creating(func(c Client) (Client, error) { return c, s.SetClient(c) }),
		"GET /_control/grants":                 func(*http.Request) (any, error) { return s.Grants(), nil },
		"POST /_control/grants":                creating(s.IssueGrant),
		"POST /_control/grants/revoke":         creating(s.revokeSelected),
		"DELETE /_control/grants/{id}":         deleting(s.RevokeGrant),
		"POST /_control/keys":                  creating(s.issueKeyFor),
		"DELETE /_control/keys/{id}":           deleting(s.RevokeKey),
		"POST /_control/access-tokens/kill":    creating(s.killSelected),
		"POST /_control/refresh-tokens/expire": creating(s.expireSelected),
		"GET /_control/faults":                 func(*http.Request) (any, error) { return s.Faults(), nil },
		"POST /_control/faults":                creating(s.SetFault),
		"DELETE /_control/faults":              func(*http.Request) (any, error) { s.ClearFaults(); return nil, nil },
		"DELETE /_control/faults/{id}":         deleting(s.ClearFault),
		"GET /_control/counters":               func(*http.Request) (any, error) { return s.Counters(), nil },
		"DELETE /_control/counters":            func(*http.Request) (any, error) { s.ResetCounters(); return nil, nil },
		"GET /_control/events":                 s.awaitEvents,
	}
}

func respondControl(w http.ResponseWriter, r *http.Request, answer control) {
	document, err := answer(r)
	switch {
	case err != nil:
		exception(status(err), "CONTROL_FAILED", err.Error()).write(w)
	case document == nil:
		response{status: http.StatusNoContent}.write(w)
	default:
		jsonResponse(http.StatusOK, document).write(w)
	}
}

// creating makes a control of a function from a JSON document to another. An
// empty body stands for an empty document.
func creating[In, Out any](create func(In) (Out, error)) control {
	return func(r *http.Request) (any, error) {
		var in In
		if err := readJSON(r.Body, true, &in); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("reading the body: %w", err)
		}
		return create(in)
	}
}

func deleting(remove func(id string) error) control {
	return func(r *http.Request) (any, error) { return nil, remove(r.PathValue("id")) }
}

// patchSettings lays the members of the body over the settings in force.
func (s *Simulator) patchSettings(r *http.Request) (any, error) {
	n, err := s.Settings().clone()
	if err != nil {
		return nil, err
	}
	if err := readJSON(r.Body, true, &n); err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	if err := s.Configure(n); err != nil {
		return nil, err
	}
	return s.Settings(), nil
}

// keyRequest is a [Key] that may end after a time instead of at one.
type keyRequest struct {
	Key
	ExpiresIn Duration `json:"expires_in"`
}

func (s *Simulator) issueKeyFor(req keyRequest) (Key, error) {
	if req.ExpiresIn != 0 {
		req.ExpiresAt = s.now().Add(time.Duration(req.ExpiresIn)).UTC()
	}
	return s.IssueKey(req.Key)
}

// selection names the grants that something is done to: one, those of a
// company, or, where it is empty, all.
type selection struct {
	Grant   string `json:"grant"`
	Company string `json:"company_id"`
}

type affected struct {
	Tokens int `json:"tokens"`
}

type revoked struct {
	Grants int `json:"grants"`
}

func (s *Simulator) revokeSelected(sel selection) (revoked, error) {
	if sel.Grant != "" {
		return revoked{1}, s.RevokeGrant(sel.Grant)
	}
	return revoked{s.RevokeGrants(sel.Company)}, nil
}

func (s *Simulator) killSelected(sel selection) (affected, error) {
	return affected{s.KillAccessTokens(sel.Grant, sel.Company)}, nil
}

func (s *Simulator) expireSelected(sel selection) (affected, error) {
	return affected{s.ExpireRefreshTokens(sel.Grant, sel.Company)}, nil
}

// awaitEvents answers with the events after a number, as soon as there is one.
func (s *Simulator) awaitEvents(r *http.Request) (any, error) {
	q := r.URL.Query()
	after, err := strconv.ParseInt(cmpOr(q.Get("after"), "0"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("reading after: %w", err)
	}
	wait, err := time.ParseDuration(cmpOr(q.Get("wait"), "0s"))
	if err != nil {
		return nil, fmt.Errorf("reading wait: %w", err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), min(wait, maxEventWait))
	defer cancel()
	found, last := s.events.await(ctx, after, func(e Event) bool { return matchesQuery(e, q) })
	return struct {
		Events []Event `json:"events"`
		Last   int64   `json:"last"`
	}{append([]Event{}, found...), last}, nil
}

func matchesQuery(e Event, q url.Values) bool {
	return (!q.Has("phase") || e.Phase == q.Get("phase")) &&
		(!q.Has("grant") || e.Grant == q.Get("grant")) &&
		(!q.Has("company_id") || e.Company == q.Get("company_id"))
}

// ReadSettings reads settings from JSON; unknown members are errors.
func ReadSettings(r io.Reader) (Settings, error) {
	var s Settings
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Settings{}, fmt.Errorf("reading the settings: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Settings{}, errors.New("reading the settings: something follows the document")
	}
	return s, nil
}

// clone copies the settings, lists and all: decoding JSON writes into the
// lists that it finds.
func (s Settings) clone() (Settings, error) {
	var c Settings
	text, err := json.Marshal(s)
	if err != nil {
		return Settings{}, fmt.Errorf("copying the settings: %w", err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return Settings{}, fmt.Errorf("copying the settings: %w", err)
	}
	return c, nil
}
