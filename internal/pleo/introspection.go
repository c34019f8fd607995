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
	// ErrIntrospectionUnsupported says that the authorization server has no token
	// introspection.
	ErrIntrospectionUnsupported = errors.New("the authorization server has no introspection")

	errNoActiveMember = errors.New("introspecting a token: the answer does not say whether it is active")
)

// Active asks the authorization server whether the token is good (RFC 7662).
// That spends nothing. hint is access_token, refresh_token or empty. The error
// matches [ErrIntrospectionUnsupported] when there is nobody to ask; with any error
// nothing is known about the token.
func (s *AuthorizationServer) Active(ctx context.Context, token credstore.Secret, hint string) (bool, error) {
	if token.IsZero() {
		return false, errNoToken
	}
	info, err := s.introspect(ctx, token, hint)
	return info.active, err
}

// Subject asks the authorization server whose the access token is, and returns
// the URN of the company or organisation: empty if the token is not active, or
// the answer does not say. Errors are as for [AuthorizationServer.Active].
func (s *AuthorizationServer) Subject(ctx context.Context, accessToken credstore.Secret) (string, error) {
	if accessToken.IsZero() {
		return "", errNoToken
	}
	info, err := s.introspect(ctx, accessToken, "access_token")
	if !info.active {
		return "", err
	}
	return info.subject, err
}

// tokenInfo is what introspection says of a token.
type tokenInfo struct {
	active  bool
	subject string // a URN; empty: not said
}

func (s *AuthorizationServer) introspect(ctx context.Context, token credstore.Secret, hint string) (info tokenInfo, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err = s.withClientSecret(func(secret credstore.Secret) (err error) {
		info, err = s.introspectWith(ctx, token, hint, secret)
		return err
	})
	return info, err
}

func (s *AuthorizationServer) introspectWith(ctx context.Context, token credstore.Secret, hint string, secret credstore.Secret) (tokenInfo, error) {
	form := url.Values{"token": {token.Reveal()}}
	if hint != "" {
		form.Set("token_type_hint", hint)
	}
	x, err := s.post(ctx, s.introspectURL, form, secret)
	if err != nil {
		return tokenInfo{}, err
	}
	if x.response == nil {
		return tokenInfo{}, fmt.Errorf("introspecting a token: %w", x.cause)
	}
	return x.response.tokenInfo(token, secret)
}

// tokenInfo says what the answer to an introspection request means.
func (a *response) tokenInfo(sent ...credstore.Secret) (tokenInfo, error) {
	switch {
	case a.status == http.StatusNotFound:
		return tokenInfo{}, ErrIntrospectionUnsupported
	case a.status == http.StatusUnauthorized:
		// RFC 7662 section 2.3: the client is refused, with whatever body.
		return tokenInfo{}, &ResponseError{Class: ClientRejected, Status: a.status, Code: invalidClient, RetryAfter: a.retryAfter}
	case a.clientError():
		return tokenInfo{}, a.responseError(sent...)
	case a.status != http.StatusOK:
		return tokenInfo{}, &StatusError{Status: a.status, RetryAfter: a.retryAfter}
	case a.bodyErr != nil:
		return tokenInfo{}, fmt.Errorf("introspecting a token: %w", a.bodyErr)
	}
	return parseTokenInfo(a.body)
}

// parseTokenInfo reads an answer (RFC 7662 section 2.2). Pleo names the subject in
// a member of its own, and perhaps in sub.
func parseTokenInfo(body []byte) (tokenInfo, error) {
	var answer struct {
		Active *bool `json:"active"`
		// Of whatever type: whether the token is active is the more important.
		SubjectURN any `json:"urn:pleo:params:oauth:subject_urn"`
		Sub        any `json:"sub"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Active == nil {
		return tokenInfo{}, errNoActiveMember
	}
	info := tokenInfo{active: *answer.Active}
	for _, said := range []any{answer.SubjectURN, answer.Sub} {
		if urn, ok := said.(string); ok && info.subject == "" && isSubject(urn) {
			info.subject = urn
		}
	}
	return info, nil
}
