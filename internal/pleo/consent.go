package pleo

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/oauth2"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// AuthorizeURL returns the URL at which a browser asks for consent (RFC 6749
// section 4.1.1). It contains the state, which the browser brings back, and the
// S256 challenge of the verifier (RFC 7636 section 4.2). Without scopes the
// authorization server decides what it asks for.
func (s *AuthorizationServer) AuthorizeURL(state, verifier credstore.Secret, redirectURI string, scopes []string) string {
	q := url.Values{
		"response_type":         {"code"},
		"client_id":             {s.clientID},
		"redirect_uri":          {redirectURI},
		"state":                 {state.Reveal()},
		"code_challenge":        {oauth2.S256ChallengeFromVerifier(verifier.Reveal())},
		"code_challenge_method": {"S256"},
	}
	if len(scopes) > 0 {
		q.Set("scope", strings.Join(scopes, " "))
	}
	return s.authorizeURL + "?" + q.Encode()
}

// Exchange sends the code of a consent once and returns the tokens for it (RFC 6749
// section 4.1.3). Verifier and redirect URI must be those of the consent. Errors
// and contexts are as for [AuthorizationServer.Refresh]; what may be lost is the
// consent.
func (s *AuthorizationServer) Exchange(ctx context.Context, code, verifier credstore.Secret, redirectURI string) (Tokens, error) {
	if code.IsZero() || verifier.IsZero() {
		return Tokens{}, &NotSentError{Err: errNoToken}
	}
	return s.requestTokens(ctx, func(ctx context.Context, c *oauth2.Config) {
		c.RedirectURL = redirectURI
		_, _ = c.Exchange(ctx, code.Reveal(), oauth2.VerifierOption(verifier.Reveal())) // the exchange holds the outcome
	}, code, verifier)
}

// MissingScopes returns the wanted scopes that are not in granted, a list separated
// by spaces. If granted is empty nothing is known, and nothing is missing.
func MissingScopes(wanted []string, granted string) []string {
	have := strings.Fields(granted)
	if len(have) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(wanted), func(scope string) bool { return slices.Contains(have, scope) })
}
