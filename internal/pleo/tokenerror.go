package pleo

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

var errNoTokens = errors.New("a successful response without readable tokens")

const invalidClient = "invalid_client"

var (
	// rejectionCode matches the codes that reject the token that was sent, also as
	// words of a text. The second is not in RFC 6749; Pleo is known to use it. Case
	// is ignored because Pleo writes types in capitals.
	rejectionCode = regexp.MustCompile(`(?i)\b(invalid_grant|invalid_refresh_token)\b`)
	// clientErrorCode matches the codes that reject our client.
	clientErrorCode = regexp.MustCompile(`(?i)^(invalid_client|unauthorized_client|unsupported_grant_type|invalid_scope)$`)
)

// tokens interprets the response to a token request: tokens, a [ResponseError] or
// an [UnknownOutcomeError]. sent are secrets that errors must not show.
func (r *response) tokens(sent ...credstore.Secret) (Tokens, error) {
	if r.clientError() {
		return Tokens{}, r.responseError(sent...)
	}
	if !r.success() {
		return Tokens{}, r.unknownOutcome(fmt.Errorf("the authorization server returned status %d", r.status))
	}
	if t, ok := parseTokens(r.body); ok {
		return t, nil
	}
	if r.bodyErr != nil {
		return Tokens{}, r.truncated()
	}
	return Tokens{}, r.unknownOutcome(errNoTokens)
}

func (r *response) truncated() error {
	return r.unknownOutcome(fmt.Errorf("the response is truncated: %w", r.bodyErr))
}

func (r *response) unknownOutcome(err error) error {
	return &UnknownOutcomeError{Status: r.status, RetryAfter: r.retryAfter, Err: err}
}

// responseError classifies a 4xx response.
func (r *response) responseError(sent ...credstore.Secret) error {
	e := parseTokenError(r.body)
	class, code := e.classify()
	if r.status == http.StatusTooManyRequests {
		class = RateLimited // whatever the body says: waiting loses nothing
	}
	if class == Unexpected && r.bodyErr != nil {
		return r.truncated() // the missing part may have been a rejection
	}
	return &ResponseError{Class: class, Status: r.status, Code: cmp.Or(code, safeCode(e.code, sent)), RetryAfter: r.retryAfter}
}

// tokenError is the body of an error response: that of RFC 6749 section 5.2, or
// Pleo's ExceptionInfo, which has a type.
type tokenError struct{ code, typ, description string }

// parseTokenError parses body as far as possible; it may be truncated.
func parseTokenError(body []byte) tokenError {
	m, end, complete := parseMembers(body)
	read := func(name string) string {
		if s := m.text(name); s != "" || complete {
			return s
		}
		return findString(body[end:], name)
	}
	return tokenError{code: read("error"), typ: read("type"), description: read("error_description")}
}

// classify returns the class of a 4xx response and the code that determined it,
// which is empty for Unexpected. A client error in the error or type member counts
// before a rejection that is only mentioned, because it rejects no token.
func (e tokenError) classify() (Class, string) {
	if code := rejectionCode.FindString(e.code); code != "" && code == e.code {
		return TokenRejected, strings.ToLower(code)
	}
	for _, text := range []string{e.code, e.typ} {
		if clientErrorCode.MatchString(text) {
			return ClientRejected, strings.ToLower(text)
		}
	}
	for _, text := range []string{e.code, e.typ, e.description} {
		if code := rejectionCode.FindString(text); code != "" {
			return TokenRejected, strings.ToLower(code)
		}
	}
	return Unexpected, ""
}

const (
	maxCodeLength = 64
	// minEchoLength is how many bytes of a secret, in a row, a code must not
	// contain.
	minEchoLength = 6
)

// safeCode returns code if it is short, has only the characters that RFC 6749
// section 5.2 allows, and does not repeat what was sent; else "".
func safeCode(code string, sent []credstore.Secret) string {
	if len(code) > maxCodeLength || !isErrorText(code) {
		return ""
	}
	for _, secret := range sent {
		s := secret.Reveal()
		if repeatsSecret(code, s) || repeatsSecret(code, url.QueryEscape(s)) {
			return ""
		}
	}
	return code
}

// repeatsSecret reports whether code contains minEchoLength bytes of the secret, or
// all of a shorter one.
func repeatsSecret(code, secret string) bool {
	if secret == "" {
		return false
	}
	size := min(minEchoLength, len(secret))
	for i := 0; i+size <= len(secret); i++ {
		if strings.Contains(code, secret[i:i+size]) {
			return true
		}
	}
	return false
}

// isErrorText reports whether s has only the characters of an error code or a
// scope: %x20-21 / %x23-5B / %x5D-7E (RFC 6749 appendix A).
func isErrorText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r < 0x20 || r > 0x7e || r == '"' || r == '\\'
	})
}
