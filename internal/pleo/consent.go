package pleo

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/oauth2"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// AuthorizeURL returns where a browser is sent to ask for consent (RFC 6749
// section 4.1.1). The verifier goes there as its S256 challenge (RFC 7636
// section 4.2), and again, as it is, with the code to [AuthorizationServer.Exchange].
// Without scopes the server decides what it asks for.
//
// The state is for the browser to bring back, so the address holds it.
func (s *AuthorizationServer) AuthorizeURL(state, verifier credstore.Secret, redirectURI string, scopes []string) string {
	q := url.Values{
		"response_type":         {"code"},
		"client_id":             {s.clientID},
		"redirect_uri":          {redirectURI},
		"state":                 {state.Reveal()},
		"code_challenge":        {challenge(verifier)},
		"code_challenge_method": {"S256"},
	}
	if len(scopes) > 0 {
		q.Set("scope", strings.Join(scopes, " "))
	}
	return s.authorizeURL + "?" + q.Encode()
}

func challenge(verifier credstore.Secret) string {
	sum := sha256.Sum256([]byte(verifier.Reveal()))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Exchange sends the code that a consent gave, once, and returns the tokens for
// it (RFC 6749 section 4.1.3). The verifier is the one whose challenge the
// consent was asked with, and the redirect URI the same. Errors and contexts are
// as for [AuthorizationServer.Refresh]: what is lost is the consent.
func (s *AuthorizationServer) Exchange(ctx context.Context, code, verifier credstore.Secret, redirectURI string) (Tokens, error) {
	if code.IsZero() || verifier.IsZero() {
		return Tokens{}, &NotSentError{Err: errNoToken}
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var tokens Tokens
	err := s.withClientSecret(func(secret credstore.Secret) (err error) {
		x := &exchange{base: s.transport, now: s.now, finish: s.auth.plainBasic(s.clientID, secret)}
		c := s.oauth(secret)
		c.RedirectURL = redirectURI
		ctx := context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: x})
		_, _ = c.Exchange(ctx, code.Reveal(), oauth2.VerifierOption(verifier.Reveal())) // an error always: x has captured what happened
		tokens, err = x.tokens(code, verifier, secret)
		return err
	})
	return tokens, err
}

// MissingScopes returns which of the wanted scopes are not among those granted,
// which are separated by spaces. Where nothing is said of what was granted,
// nothing is known to be missing.
func MissingScopes(wanted []string, granted string) []string {
	have := strings.Fields(granted)
	if len(have) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(wanted), func(scope string) bool { return slices.Contains(have, scope) })
}
