package simulator

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"time"
)

// code is an authorization code: single use, bound to the client, the redirect
// URI and the PKCE challenge of the authorization request.
type code struct {
	spec        grantSpec
	redirectURI string
	challenge   string // S256; empty: the request had none
	expiresAt   time.Time
	grant       string // that it was redeemed for; empty: not yet
}

// redemption is a token request with an authorization code.
type redemption struct {
	clientID    string
	code        string
	redirectURI string
	verifier    string
}

// issueCode keeps a code and returns its value.
func (l *grantStore) issueCode(c code) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	value := "sim-code." + random(24)
	l.codes[value] = &c
	return value
}

// redeem gives a grant for a code. A code that comes twice revokes what it was
// redeemed for (RFC 6749 section 4.1.2); one that comes wrong is spent too.
func (l *grantStore) redeem(r redemption, o OAuthSettings, now time.Time) (tokenPair, error) {
	c, err := l.takeCode(r, now)
	if err != nil {
		return tokenPair{}, err
	}
	pair := l.issue(c.spec, o, now)
	l.mu.Lock()
	defer l.mu.Unlock()
	c.grant = pair.grant
	return pair, nil
}

func (l *grantStore) takeCode(r redemption, now time.Time) (*code, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.codes[r.code]
	if !ok || c.spec.clientID != r.clientID {
		return nil, fmt.Errorf("%w: the code is unknown", errRejected)
	}
	if c.expiresAt.IsZero() {
		l.revokeLocked("its code was presented twice", func(g *grant) bool { return g.id == c.grant })
		return nil, fmt.Errorf("%w: the code has been used", errRejected)
	}
	expired := !now.Before(c.expiresAt)
	c.expiresAt = time.Time{} // spent from here on
	if expired {
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
