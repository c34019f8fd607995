package connect

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// tokenBytes is the randomness of states, verifiers and browser cookies. In
// base64url they have 43 characters, the minimum for a verifier (RFC 7636 section
// 4.1).
const tokenBytes = 32

func newToken() credstore.Secret {
	raw := make([]byte, tokenBytes)
	_, _ = rand.Read(raw) // documented never to fail
	return credstore.NewSecret(base64.RawURLEncoding.EncodeToString(raw))
}

// isToken reports whether s has the form of a token.
func isToken(s string) bool {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && len(raw) == tokenBytes
}

// cookies sets and reads the cookies of the pages.
type cookies struct {
	secure bool // the pages are served over TLS
}

// outcomeMaxAge is how long a browser can show an outcome again, in seconds.
const outcomeMaxAge = 15 * 60

// name returns the full name of a cookie. Browsers reject a cookie with the prefix
// __Host- that another host, or a page without TLS, has set.
func (c cookies) name(name string) string {
	if c.secure {
		return "__Host-pleo-" + name
	}
	return "pleo-" + name
}

// set sets a cookie. It is SameSite=Lax, so that it is sent when Pleo redirects the
// browser here. maxAge is in seconds; 0 means until the browser is closed, and a
// negative one deletes the cookie.
func (c cookies) set(w http.ResponseWriter, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // without TLS, on this machine only, Secure would disable it
		Name: c.name(name), Value: value, Path: "/", MaxAge: maxAge,
		Secure: c.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

const browserCookie = "browser"

// browser returns the hash of the browser cookie, and false if there is none.
func (c cookies) browser(r *http.Request) ([]byte, bool) {
	sent := r.CookiesNamed(c.name(browserCookie))
	if len(sent) != 1 || !isToken(sent[0].Value) {
		return nil, false
	}
	hash := sha256.Sum256([]byte(sent[0].Value))
	return hash[:], true
}

// ensureBrowser returns the hash of the browser cookie and sets one if there is
// none.
func (c cookies) ensureBrowser(w http.ResponseWriter, r *http.Request) []byte {
	if hash, ok := c.browser(r); ok {
		return hash
	}
	value := newToken().Reveal() // only to this browser
	c.set(w, browserCookie, value, 0)
	hash := sha256.Sum256([]byte(value))
	return hash[:]
}

// outcomeCookie names the outcome cookie of a link: two links may be in use in one
// browser.
func outcomeCookie(token credstore.Secret) string {
	hash := token.Hash()
	return "outcome-" + hex.EncodeToString(hash[:8])
}

func (c cookies) setOutcome(w http.ResponseWriter, token credstore.Secret, o outcome) {
	text, err := json.Marshal(o)
	if err != nil {
		return // an outcome is a struct of strings, which can be encoded
	}
	c.set(w, outcomeCookie(token), base64.RawURLEncoding.EncodeToString(text), outcomeMaxAge)
}

func (c cookies) clearOutcome(w http.ResponseWriter, token credstore.Secret) {
	c.set(w, outcomeCookie(token), "", -1)
}

// outcome returns the outcome of this browser's latest attempt with the link. It is
// zero if there is none.
func (c cookies) outcome(r *http.Request, token credstore.Secret) outcome {
	var o outcome
	cookie, err := r.Cookie(c.name(outcomeCookie(token)))
	if err != nil {
		return o
	}
	text, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil || json.Unmarshal(text, &o) != nil {
		return outcome{}
	}
	return o
}
