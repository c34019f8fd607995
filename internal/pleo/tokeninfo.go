package pleo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

var (
	// ErrNoIntrospection says that the authorization server has no token
	// introspection.
	ErrNoIntrospection = errors.New("the authorization server has no introspection")

	errNotActive = errors.New("introspecting a token: the answer does not say whether it is active")
)

// Active asks the authorization server whether the token is good (RFC 7662).
// That spends nothing. hint is access_token, refresh_token or empty. The error
// matches [ErrNoIntrospection] when there is nobody to ask; with any error
// nothing is known about the token.
func (s *AuthorizationServer) Active(ctx context.Context, token credstore.Secret, hint string) (bool, error) {
	if token.IsZero() {
		return false, errNothingSend
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var active bool
	err := s.withSecret(func(secret credstore.Secret) (err error) {
		active, err = s.activeWith(ctx, token, hint, secret)
		return err
	})
	return active, err
}

func (s *AuthorizationServer) activeWith(ctx context.Context, token credstore.Secret, hint string, secret credstore.Secret) (bool, error) {
	form := url.Values{"token": {token.Reveal()}}
	if hint != "" {
		form.Set("token_type_hint", hint)
	}
	x, err := s.post(ctx, s.introspectURL, form, secret)
	if err != nil {
		return false, err
	}
	if x.answer == nil {
		return false, fmt.Errorf("introspecting a token: %w", x.cause)
	}
	return x.answer.active(token, secret)
}

// active says what the answer to an introspection request means.
func (a *answer) active(sent ...credstore.Secret) (bool, error) {
	switch {
	case a.status == http.StatusNotFound:
		return false, ErrNoIntrospection
	case a.status == http.StatusUnauthorized:
		// RFC 7662 section 2.3: the client is refused, with whatever body.
		return false, &AnswerError{Class: ClientRefused, Status: a.status, Code: invalidClient, RetryAfter: a.retryAfter}
	case a.clientError():
		return false, a.refusal(sent...)
	case a.status != http.StatusOK:
		return false, &StatusError{Status: a.status, RetryAfter: a.retryAfter}
	case a.broken != nil:
		return false, fmt.Errorf("introspecting a token: %w", a.broken)
	}
	return activeFrom(a.body)
}

func activeFrom(body []byte) (bool, error) {
	var info struct {
		Active *bool `json:"active"`
	}
	if json.Unmarshal(body, &info) != nil || info.Active == nil {
		return false, errNotActive
	}
	return *info.Active, nil
}
