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

// refusals are the codes that condemn the token that was sent. The second is
// not in RFC 6749; Pleo is known to use it.
func refusals() []string { return []string{"invalid_grant", "invalid_refresh_token"} }

// clientRefusals are the codes that say that our client is wrong.
func clientRefusals() []string {
	return []string{invalidClient, "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
}

// tokens says what the answer to a token request means: tokens, or an
// [AnswerError] or [UnknownError]. sent are the secrets that must not come back
// in an error.
func (a *answer) tokens(sent ...credstore.Secret) (Tokens, error) {
	if a.clientError() {
		return Tokens{}, a.refusal(sent...)
	}
	if !a.success() {
		return Tokens{}, a.unknown(fmt.Errorf("the authorization server answered %d", a.status))
	}
	if t, ok := tokensFrom(a.body); ok {
		return t, nil
	}
	if a.broken != nil {
		return Tokens{}, a.unknown(fmt.Errorf("the answer broke off: %w", a.broken))
	}
	return Tokens{}, a.unknown(errNoTokens)
}

func (a *answer) unknown(err error) error {
	return &UnknownError{Status: a.status, RetryAfter: a.retryAfter, Err: err}
}

// refusal sorts an answer of status 4xx.
func (a *answer) refusal(sent ...credstore.Secret) error {
	complaint := complaintFrom(a.body)
	class, code := complaint.sort()
	if a.status == http.StatusTooManyRequests {
		class = Busy // whatever it says: a client that waits has lost nothing
	}
	if class == Unusual && a.broken != nil {
		// What broke off may have been a refusal. Asking again tells.
		return a.unknown(fmt.Errorf("the answer broke off: %w", a.broken))
	}
	if code == "" {
		code = printableCode(complaint.code, sent)
	}
	return &AnswerError{Class: class, Status: a.status, Code: code, RetryAfter: a.retryAfter}
}

// complaint is the body of an error answer: RFC 6749 section 5.2, or Pleo's
// ExceptionInfo, which has a type.
type complaint struct{ code, kind, description string }

// complaintFrom reads what is readable of body, which may have broken off.
func complaintFrom(body []byte) complaint {
	m, end, whole := readMembers(body)
	read := func(name string) string {
		if s := m.text(name); s != "" || whole {
			return s
		}
		return salvage(body[end:], name)
	}
	return complaint{code: read("error"), kind: read("type"), description: read("error_description")}
}

// sort returns the class of a 4xx answer and the code that it was recognised
// by; "" for Unusual. Codes are compared without regard to case, since Pleo
// writes types in capitals. A named client error goes before a refusal that is
// only mentioned: it condemns nothing.
func (c complaint) sort() (Class, string) {
	if code := find(refusals(), is(c.code)); code != "" {
		return Refused, code
	}
	if code := find(clientRefusals(), is(c.code)); code != "" {
		return ClientRefused, code
	}
	if code := find(clientRefusals(), is(c.kind)); code != "" {
		return ClientRefused, code
	}
	for _, text := range []string{c.code, c.kind, c.description} {
		if code := find(refusals(), mentionedIn(text)); code != "" {
			return Refused, code
		}
	}
	return Unusual, ""
}

func find(codes []string, matches func(code string) bool) string {
	if i := slices.IndexFunc(codes, matches); i >= 0 {
		return codes[i]
	}
	return ""
}

func is(s string) func(string) bool {
	return func(code string) bool { return strings.EqualFold(s, code) }
}

// mentionedIn matches codes that are a word of text: "invalid_grant_type" does
// not mention invalid_grant.
func mentionedIn(text string) func(string) bool {
	words := strings.FieldsFunc(text, func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	return func(code string) bool { return slices.ContainsFunc(words, is(code)) }
}

const (
	maxCode = 64
	// echo is how many bytes of a secret, in a row, make a code an echo of it.
	echo = 6
)

// printableCode returns code if it is made of the characters that RFC 6749
// section 5.2 allows, is not long, and does not repeat what was sent; else "".
func printableCode(code string, sent []credstore.Secret) string {
	if len(code) > maxCode || !errorChars(code) {
		return ""
	}
	for _, secret := range sent {
		s := secret.Reveal()
		if echoes(code, s) || echoes(code, url.QueryEscape(s)) {
			return ""
		}
	}
	return code
}

// echoes reports whether code holds the secret, or a piece of it that is echo
// bytes long.
func echoes(code, secret string) bool {
	if secret == "" {
		return false
	}
	size := min(echo, len(secret))
	for i := 0; i+size <= len(secret); i++ {
		if strings.Contains(code, secret[i:i+size]) {
			return true
		}
	}
	return false
}

// errorChars reports whether s consists of the characters of an error code and
// of a scope: %x20-21 / %x23-5B / %x5D-7E.
func errorChars(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r < 0x20 || r > 0x7e || r == '"' || r == '\\'
	})
}
