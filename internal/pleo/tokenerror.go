package pleo

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

var errNoTokens = errors.New("a successful answer without readable tokens")

const invalidClient = "invalid_client"

// rejectionCodes are the codes that condemn the token that was sent. The second is
// not in RFC 6749; Pleo is known to use it.
func rejectionCodes() []string { return []string{"invalid_grant", "invalid_refresh_token"} }

// clientErrorCodes are the codes that say that our client is wrong.
func clientErrorCodes() []string {
	return []string{invalidClient, "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
}

// tokens says what the answer to a token request means: tokens, or an
// [ResponseError] or [UnknownOutcomeError]. sent are the secrets that must not come back
// in an error.
func (a *response) tokens(sent ...credstore.Secret) (Tokens, error) {
	if a.clientError() {
		return Tokens{}, a.responseError(sent...)
	}
	if !a.success() {
		return Tokens{}, a.unknownOutcome(fmt.Errorf("the authorization server answered %d", a.status))
	}
	if t, ok := parseTokens(a.body); ok {
		return t, nil
	}
	if a.bodyErr != nil {
		return Tokens{}, a.unknownOutcome(fmt.Errorf("the answer broke off: %w", a.bodyErr))
	}
	return Tokens{}, a.unknownOutcome(errNoTokens)
}

func (a *response) unknownOutcome(err error) error {
	return &UnknownOutcomeError{Status: a.status, RetryAfter: a.retryAfter, Err: err}
}

// statusError sorts an answer of status 4xx.
func (a *response) responseError(sent ...credstore.Secret) error {
	complaint := parseTokenError(a.body)
	class, code := complaint.classify()
	if a.status == http.StatusTooManyRequests {
		class = RateLimited // whatever it says: a client that waits has lost nothing
	}
	if class == Unexpected && a.bodyErr != nil {
		// What broke off may have been a refusal. Asking again tells.
		return a.unknownOutcome(fmt.Errorf("the answer broke off: %w", a.bodyErr))
	}
	if code == "" {
		code = safeCode(complaint.code, sent)
	}
	return &ResponseError{Class: class, Status: a.status, Code: code, RetryAfter: a.retryAfter}
}

// tokenError is the body of an error answer: RFC 6749 section 5.2, or Pleo's
// ExceptionInfo, which has a type.
type tokenError struct{ code, typ, description string }

// parseTokenError reads what is readable of body, which may have broken off.
func parseTokenError(body []byte) tokenError {
	m, end, whole := parseMembers(body)
	read := func(name string) string {
		if s := m.text(name); s != "" || whole {
			return s
		}
		return findString(body[end:], name)
	}
	return tokenError{code: read("error"), typ: read("type"), description: read("error_description")}
}

// classify returns the class of a 4xx answer and the code that it was recognised
// by; "" for Unusual. Codes are compared without regard to case, since Pleo
// writes types in capitals. A named client error goes before a refusal that is
// only mentioned: it condemns nothing.
func (c tokenError) classify() (Class, string) {
	if code := findCode(rejectionCodes(), equalTo(c.code)); code != "" {
		return TokenRejected, code
	}
	if code := findCode(clientErrorCodes(), equalTo(c.code)); code != "" {
		return ClientRejected, code
	}
	if code := findCode(clientErrorCodes(), equalTo(c.typ)); code != "" {
		return ClientRejected, code
	}
	for _, text := range []string{c.code, c.typ, c.description} {
		if code := findCode(rejectionCodes(), mentionedIn(text)); code != "" {
			return TokenRejected, code
		}
	}
	return Unexpected, ""
}

func findCode(codes []string, matches func(code string) bool) string {
	if i := slices.IndexFunc(codes, matches); i >= 0 {
		return codes[i]
	}
	return ""
}

func equalTo(s string) func(string) bool {
	return func(code string) bool { return strings.EqualFold(s, code) }
}

// mentionedIn matches codes that are a word of text: "invalid_grant_type" does
// not mention invalid_grant.
func mentionedIn(text string) func(string) bool {
	words := strings.FieldsFunc(text, func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	return func(code string) bool { return slices.ContainsFunc(words, equalTo(code)) }
}

const (
	maxCodeLength = 64
	// minEchoLength is how many bytes of a secret, in a row, make a code an echo of it.
	minEchoLength = 6
)

// safeCode returns code if it is made of the characters that RFC 6749
// section 5.2 allows, is not long, and does not repeat what was sent; else "".
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

// repeatsSecret reports whether code holds the secret, or a piece of it that is echo
// bytes long.
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

// isErrorText reports whether s consists of the characters of an error code and
// of a scope: %x20-21 / %x23-5B / %x5D-7E.
func isErrorText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r < 0x20 || r > 0x7e || r == '"' || r == '\\'
	})
}
