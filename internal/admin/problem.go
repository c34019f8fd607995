package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// code names a problem for programs.
type code string

const (
	codeBadRequest         code = "bad_request"
	codeBodyTooLarge       code = "body_too_large"
	codeCompanyBound       code = "company_bound"
	codeConnectionBusy     code = "connection_busy"
	codeConnectionExists   code = "connection_exists"
	codeConnectionUnknown  code = "connection_unknown"
	codeCrossSiteRequest   code = "cross_site_request"
	codeHostNotAllowed     code = "host_not_allowed"
	codeKeyRejected        code = "key_refused"
	codeMediaType          code = "media_type_not_supported"
	codeMethodNotSupported code = "method_not_supported"
	codeNotFound           code = "not_found"
	codeNotPossible        code = "not_possible"
	codeOtherCompany       code = "other_company"
	codeRefreshFailed      code = "refresh_failed"
	codeReturnURL          code = "return_url_not_allowed"
	codeStoreUnavailable   code = "store_unavailable"
	codeTokenRequired      code = "admin_token_required"
	codeTokenTaken         code = "token_taken"
	codeUpstream           code = "upstream_unreachable"
)

// retryDelay is when clients should try again after a 503.
const retryDelay = 5 * time.Second

// statusAndTitle returns what all problems of the code have in common.
func (c code) statusAndTitle() (status int, title string) {
	switch c {
	case codeBadRequest:
		return http.StatusBadRequest, "Bad request"
	case codeReturnURL:
		return http.StatusBadRequest, "Return URL not allowed"
	case codeTokenRequired:
		return http.StatusUnauthorized, "Admin token required"
	case codeCrossSiteRequest:
		return http.StatusForbidden, "Cross-site request"
	case codeHostNotAllowed:
		return http.StatusForbidden, "Host not allowed"
	case codeConnectionUnknown:
		return http.StatusNotFound, "Connection unknown"
	case codeNotFound:
		return http.StatusNotFound, "Not found"
	case codeMethodNotSupported:
		return http.StatusMethodNotAllowed, "Method not supported"
	case codeCompanyBound:
		return http.StatusConflict, "Company bound to another connection"
	case codeConnectionExists:
		return http.StatusConflict, "Connection exists"
	case codeNotPossible:
		return http.StatusConflict, "Not possible"
	case codeOtherCompany:
		return http.StatusConflict, "Another company"
	case codeTokenTaken:
		return http.StatusConflict, "Refresh token of another connection"
	case codeBodyTooLarge:
		return http.StatusRequestEntityTooLarge, "Body too large"
	case codeMediaType:
		return http.StatusUnsupportedMediaType, "Media type not supported"
	case codeKeyRejected:
		return http.StatusUnprocessableEntity, "Key refused"
	case codeRefreshFailed:
		return http.StatusBadGateway, "Refresh failed"
	case codeUpstream:
		return http.StatusBadGateway, "Pleo not reached"
	case codeConnectionBusy:
		return http.StatusServiceUnavailable, "Connection busy"
	}
	return http.StatusServiceUnavailable, "Store unavailable"
}

func newProblem(c code, format string, args ...any) *webguard.Problem {
	status, title := c.statusAndTitle()
	p := &webguard.Problem{Code: string(c), Status: status, Title: title, Detail: fmt.Sprintf(format, args...)}
	if status == http.StatusServiceUnavailable {
		p.RetryAfter = retryDelay
	}
	return p
}

func writeProblem(w http.ResponseWriter, p *webguard.Problem) {
	_, _ = p.Write(w) // fails only if the client has left
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	writeBody(w, v)
	return nil
}

func writeBody(w http.ResponseWriter, v any) {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // only a client that has left makes this fail
}
