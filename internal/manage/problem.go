package manage

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// The codes of the problems that operators and their programs get.
const (
	CodeBadRequest         = "bad_request"
	CodeBodyTooLarge       = "body_too_large"
	CodeCompanyBound       = "company_bound"
	CodeConnectionBusy     = "connection_busy"
	CodeConnectionExists   = "connection_exists"
	CodeConnectionUnknown  = "connection_unknown"
	CodeCrossSiteRequest   = "cross_site_request"
	CodeHostNotAllowed     = "host_not_allowed"
	CodeKeyRejected        = "key_rejected"
	CodeMediaType          = "media_type_not_supported"
	CodeMethodNotSupported = "method_not_supported"
	CodeNotFound           = "not_found"
	CodeNotPossible        = "not_possible"
	CodeOtherCompany       = "other_company"
	CodeRefreshFailed      = "refresh_failed"
	CodeReturnURL          = "return_url_not_allowed"
	CodeStoreUnavailable   = "store_unavailable"
	CodeTokenRequired      = "admin_token_required"
	CodeTokenTaken         = "token_taken"
	CodeUpstream           = "upstream_unreachable"
)

// problemKinds has what all problems of a code have in common.
var problemKinds = map[string]struct {
	status int
	title  string
}{
	CodeBadRequest:         {http.StatusBadRequest, "Bad request"},
	CodeReturnURL:          {http.StatusBadRequest, "Return URL not allowed"},
	CodeTokenRequired:      {http.StatusUnauthorized, "Admin token required"},
	CodeCrossSiteRequest:   {http.StatusForbidden, "Cross-site request"},
	CodeHostNotAllowed:     {http.StatusForbidden, "Host not allowed"},
	CodeConnectionUnknown:  {http.StatusNotFound, "Connection not found"},
	CodeNotFound:           {http.StatusNotFound, "Not found"},
	CodeMethodNotSupported: {http.StatusMethodNotAllowed, "Method not supported"},
	CodeCompanyBound:       {http.StatusConflict, "Company already connected"},
	CodeConnectionExists:   {http.StatusConflict, "Connection already exists"},
	CodeNotPossible:        {http.StatusConflict, "Not possible"},
	CodeOtherCompany:       {http.StatusConflict, "Credential of another company"},
	CodeTokenTaken:         {http.StatusConflict, "Refresh token already in use"},
	CodeBodyTooLarge:       {http.StatusRequestEntityTooLarge, "Body too large"},
	CodeMediaType:          {http.StatusUnsupportedMediaType, "Media type not supported"},
	CodeKeyRejected:        {http.StatusUnprocessableEntity, "API key rejected"},
	CodeRefreshFailed:      {http.StatusBadGateway, "Refresh failed"},
	CodeUpstream:           {http.StatusBadGateway, "Pleo unreachable"},
	CodeConnectionBusy:     {http.StatusServiceUnavailable, "Connection busy"},
	CodeStoreUnavailable:   {http.StatusServiceUnavailable, "Store unavailable"},
}

// retryDelay is when clients should try again after a 503.
const retryDelay = 5 * time.Second

// NewProblem returns a problem of one of the codes above. The message is formatted
// as by [fmt.Sprintf], and must be whole sentences.
func NewProblem(code, format string, args ...any) *webguard.Problem {
	kind := problemKinds[code]
	p := &webguard.Problem{Code: code, Status: kind.status, Title: kind.title, Message: fmt.Sprintf(format, args...)}
	if kind.status == http.StatusServiceUnavailable {
		p.RetryAfter = retryDelay
	}
	return p
}

// Explain returns the problem that err is, or that says what err means to an
// operator. It returns nil for errors that say nothing about the request, such as
// those of a store that is unavailable.
func Explain(err error) *webguard.Problem {
	for _, explain := range []func(error) *webguard.Problem{explainOwnError, explainKeyError, explainStoreError} {
		if p := explain(err); p != nil {
			return p
		}
	}
	return nil
}

// Problem returns what operators see of err. An error that says nothing about the
// request is logged, and reported as a store that is unavailable.
func (o *Operator) Problem(err error) *webguard.Problem {
	if p := Explain(err); p != nil {
		return p
	}
	if o.Logger != nil {
		o.Logger.Warn("request failed", zap.Error(err))
	}
	return NewProblem(CodeStoreUnavailable, "The store is currently unavailable.")
}

// explainOwnError explains the errors of this package.
func explainOwnError(err error) *webguard.Problem {
	var (
		known      *webguard.Problem
		invalid    *InvalidError
		unknown    *UnknownFieldError
		notFound   *NotFoundError
		impossible *NotPossibleError
		exists     *ExistsError
		failed     *RefreshError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &invalid):
		return newErrorProblem(CodeBadRequest, invalid)
	case errors.As(err, &unknown):
		return newErrorProblem(CodeBadRequest, unknown)
	case errors.As(err, &notFound):
		return newErrorProblem(CodeConnectionUnknown, notFound)
	case errors.As(err, &impossible):
		return newErrorProblem(CodeNotPossible, impossible)
	case errors.As(err, &exists):
		return newErrorProblem(CodeConnectionExists, exists)
	case errors.As(err, &failed):
		return NewProblem(CodeRefreshFailed, "The refresh failed: %s.", failed.Message)
	case errors.Is(err, ErrReturnURL):
		return newErrorProblem(CodeReturnURL, ErrReturnURL)
	case errors.Is(err, ErrNoLinks):
		return newErrorProblem(CodeNotPossible, ErrNoLinks)
	case errors.Is(err, ErrRemovedMeanwhile):
		return NewProblem(CodeConnectionBusy, "A connection with this name was removed at the same time. Try again.")
	}
	return nil
}

// newErrorProblem returns a problem whose message is the text of err as a sentence.
func newErrorProblem(code string, err error) *webguard.Problem {
	text := err.Error()
	return NewProblem(code, "%s%s.", strings.ToUpper(text[:1]), text[1:])
}

// explainKeyError explains why an API key was not stored.
func explainKeyError(err error) *webguard.Problem {
	var (
		scopes *apikey.MissingScopesError
		failed *KeyCheckError
	)
	switch {
	case errors.Is(err, apikey.ErrSameKey):
		return NewProblem(CodeNotPossible, "The connection already has this key. The next key must be a different one.")
	case errors.Is(err, apikey.ErrWrongEnvironment):
		return NewProblem(CodeKeyRejected, "This key belongs to Pleo's other environment, so it was not stored.")
	case errors.Is(err, refresh.ErrCompanyUnknown):
		return NewProblem(CodeKeyRejected, "Pleo does not say which company this key belongs to, so it was not stored: the connection already has a company.")
	case errors.As(err, &scopes):
		return NewProblem(CodeKeyRejected, "This key lacks permissions, so it was not stored: %v.", scopes)
	case errors.As(err, &failed):
		return NewProblem(CodeUpstream, "Pleo could not be asked about the key, so it was not stored: %v. Try again later.", failed.Err)
	case errors.Is(err, pleo.ErrUnauthorized):
		return NewProblem(CodeKeyRejected, "Pleo does not accept this key, so it was not stored. It may be mistyped or deleted.")
	}
	return nil
}

// explainStoreError explains the errors of the store.
func explainStoreError(err error) *webguard.Problem {
	var (
		conflict *credstore.ConflictError
		other    *credstore.OtherCompanyError
	)
	switch {
	case errors.Is(err, credstore.ErrNotFound):
		return NewProblem(CodeConnectionUnknown, "This connection no longer exists.")
	case errors.Is(err, credstore.ErrBadQuery):
		return NewProblem(CodeBadRequest, "The cursor is not valid. Use the next_cursor of the previous page.")
	case errors.As(err, &conflict) && errors.Is(err, credstore.ErrCompanyBound):
		return NewProblem(CodeCompanyBound, "The company is already connected by connection %q. A company can have one connection of each kind.", conflict.With)
	case errors.As(err, &conflict) && errors.Is(err, credstore.ErrNameTaken):
		return NewProblem(CodeConnectionExists, "There is already a connection %q.", conflict.With)
	case errors.As(err, &conflict) && errors.Is(err, credstore.ErrTokenTaken):
		return NewProblem(CodeTokenTaken, "The refresh token belongs to connection %q. Two connections with one refresh token would end each other's access.", conflict.With)
	case errors.As(err, &other):
		return NewProblem(CodeOtherCompany, "The credential is valid, but for another company than this connection's, so the connection keeps its present credential: %v.", other)
	case errors.Is(err, credstore.ErrNotRejected):
		return NewProblem(CodeNotPossible, "The connection has no rejected refresh token to retry.")
	case errors.Is(err, credstore.ErrBusy):
		return NewProblem(CodeConnectionBusy, "The connection's credential is being changed right now. Try again.")
	}
	return nil
}
