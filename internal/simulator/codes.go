package simulator

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"time"
)

// code is an authorization code. It can be redeemed once, and is bound to the
// client, the redirect URI and the PKCE challenge of the authorization request.
type code struct {
	spec        grantSpec
	redirectURI string
	challenge   string // S256; empty: the request had none
	expiresAt   time.Time
	redeemed    bool
	grant       string // id of the grant that it was redeemed for
}

// redemption is a token request with an authorization code.
type redemption struct {
	clientID    string
	code        string
	redirectURI string
	verifier    string
}

// issueCode stores a code and returns its value.
func (s *grantStore) issueCode(c code) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	value := "sim-code." + random(24)
	s.codes[value] = &c
	return value
}

// redeem issues a grant for a code. A code that is sent a second time revokes the
// grant that it was redeemed for (RFC 6749 section 4.1.2).
func (s *grantStore) redeem(r redemption, o OAuthSettings, now time.Time) (tokenPair, error) {
	c, err := s.takeCode(r, now)
	if err != nil {
		return tokenPair{}, err
	}
	pair := s.issue(c.spec, o, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.grant = pair.grant
	return pair, nil
}

// takeCode marks a code as redeemed, even if the request turns out to be invalid.
func (s *grantStore) takeCode(r redemption, now time.Time) (*code, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.codes[r.code]
	if c == nil || c.spec.clientID != r.clientID {
		return nil, fmt.Errorf("%w: the code is unknown", errRejected)
	}
	if c.redeemed {
		for _, g := range s.grants {
			if g.id == c.grant {
				g.revoke("its code was sent again")
			}
		}
		return nil, fmt.Errorf("%w: the code has been used", errRejected)
	}
	c.redeemed = true
	if !now.Before(c.expiresAt) {
		return nil, fmt.Errorf("%w: the code has expired", errRejected)
	}
	if c.redirectURI != r.redirectURI {
		return nil, fmt.Errorf("%w: the redirect_uri differs", errRejected)
	}
	return c, c.checkVerifier(r.verifier)
}

// checkVerifier compares a verifier with the challenge (RFC 7636 section 4.6).
func (c *code) checkVerifier(verifier string) error {
	if c.challenge == "" && verifier == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(verifier))
	want := base64.RawURLEncoding.EncodeToString(sum[:])
	if len(verifier) < 43 || len(verifier) > 128 || subtle.ConstantTimeCompare([]byte(want), []byte(c.challenge)) != 1 {
		return fmt.Errorf("%w: the code_verifier does not match", errRejected)
	}
	return nil
}
