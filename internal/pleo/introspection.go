package pleo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

var (
	// ErrIntrospectionUnsupported means that the authorization server has no token
	// introspection.
	ErrIntrospectionUnsupported = errors.New("the authorization server does not support token introspection")

	errNoActiveMember = errors.New("introspecting a token: the response does not say whether it is active")
)

// Active reports whether the authorization server calls the token active (RFC
// 7662). This does not use up a refresh token. hint is access_token, refresh_token
// or empty. The error matches [ErrIntrospectionUnsupported] if the server has no
// introspection; after any error nothing is known about the token.
func (s *AuthorizationServer) Active(ctx context.Context, token credstore.Secret, hint string) (bool, error) {
	info, err := s.introspect(ctx, token, hint)
	return info.active, err
}

// Subject returns the URN of the company or organisation that the access token
// belongs to. It is empty if the token is not active or the response does not name
// one. Errors are those of [AuthorizationServer.Active].
func (s *AuthorizationServer) Subject(ctx context.Context, accessToken credstore.Secret) (string, error) {
	info, err := s.introspect(ctx, accessToken, "access_token")
	if !info.active {
		return "", err
	}
	return info.subject, err
}

// tokenInfo is the result of an introspection.
type tokenInfo struct {
	active  bool
	subject string // a URN; empty if the response does not name it
}

func (s *AuthorizationServer) introspect(ctx context.Context, token credstore.Secret, hint string) (info tokenInfo, err error) {
	if token.IsZero() {
		return tokenInfo{}, errNoToken
	}
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
	x := &exchange{transport: s.transport, now: s.now, finish: s.auth.authenticate(form, s.clientID, secret)}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.introspectURL, strings.NewReader(form.Encode()))
	if err != nil {
		return tokenInfo{}, fmt.Errorf("introspecting a token: %w", errInvalidRequest)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	x.send(req)
	if x.response == nil {
		return tokenInfo{}, fmt.Errorf("introspecting a token: %w", x.err)
	}
	return x.response.tokenInfo(token, secret)
}

// tokenInfo interprets the response to an introspection request.
func (r *response) tokenInfo(sent ...credstore.Secret) (tokenInfo, error) {
	switch {
	case r.status == http.StatusNotFound:
		return tokenInfo{}, ErrIntrospectionUnsupported
	case r.status == http.StatusUnauthorized:
		// RFC 7662 section 2.3: the client is rejected, whatever the body.
		return tokenInfo{}, &ResponseError{Class: ClientRejected, Status: r.status, Code: invalidClient, RetryAfter: r.retryAfter}
	case r.clientError():
		return tokenInfo{}, r.responseError(sent...)
	case r.status != http.StatusOK:
		return tokenInfo{}, &StatusError{Status: r.status, RetryAfter: r.retryAfter}
	case r.bodyErr != nil:
		return tokenInfo{}, fmt.Errorf("introspecting a token: %w", r.bodyErr)
	}
	return parseTokenInfo(r.body)
}

// parseTokenInfo parses an introspection response (RFC 7662 section 2.2). Pleo
// names the subject in a member of its own, and possibly in sub.
func parseTokenInfo(body []byte) (tokenInfo, error) {
	var members struct {
		Active *bool `json:"active"`
		// A wrong type must not hide whether the token is active.
		SubjectURN any `json:"urn:pleo:params:oauth:subject_urn"`
		Sub        any `json:"sub"`
	}
	if json.Unmarshal(body, &members) != nil || members.Active == nil {
		return tokenInfo{}, errNoActiveMember
	}
	info := tokenInfo{active: *members.Active}
	for _, member := range []any{members.SubjectURN, members.Sub} {
		if urn, ok := member.(string); ok && info.subject == "" && isSubject(urn) {
			info.subject = urn
		}
	}
	return info, nil
}
