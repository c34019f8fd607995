package connect

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// tokenBytes is how much randomness states, verifiers and browsers have. In
// base64url these are 43 characters, as few as a verifier may have (RFC 7636
// section 4.1).
const tokenBytes = 32

func newToken() credstore.Secret {
	raw := make([]byte, tokenBytes)
	_, _ = rand.Read(raw) // never fails, says its documentation
	return credstore.NewSecret(base64.RawURLEncoding.EncodeToString(raw))
}

// isToken reports whether a value can be one that newToken made.
func isToken(s string) bool {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && len(raw) == tokenBytes
}

// cookieName returns the name of a cookie of ours. The prefix has the browser
// refuse one that another host, or a page without TLS, has set.
func (p *Pages) cookieName(name string) string {
	if p.secure {
		return "__Host-pleo-" + name
	}
	return "pleo-" + name
}

// setCookie sets a cookie that only we read, and that comes along when Pleo
// sends the browser back. maxAge is in seconds; 0: until the browser is closed,
// below: the cookie goes.
func (p *Pages) setCookie(w http.ResponseWriter, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // not Secure on this machine alone, where there is no TLS
		Name: p.cookieName(name), Value: value, Path: "/", MaxAge: maxAge,
		Secure: p.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

const browserCookie = "browser"

// browserHash returns the hash of what only this browser holds, if it holds it.
func (p *Pages) browserHash(r *http.Request) ([]byte, bool) {
	cookies := r.CookiesNamed(p.cookieName(browserCookie))
	if len(cookies) != 1 || !isToken(cookies[0].Value) {
		return nil, false
	}
	hash := sha256.Sum256([]byte(cookies[0].Value))
	return hash[:], true
}

// ensureBrowser makes sure that the browser can be told from others, and returns
// the hash of what it then holds.
func (p *Pages) ensureBrowser(w http.ResponseWriter, r *http.Request) []byte {
	if known, ok := p.browserHash(r); ok {
		return known
	}
	value := newToken().Reveal() // to the browser alone
	p.setCookie(w, browserCookie, value, 0)
	hash := sha256.Sum256([]byte(value))
	return hash[:]
}
