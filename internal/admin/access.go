package admin

import (
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// requireReader serves h to whom may read: to everybody on a listener that only this
// machine can reach, else to those who send the admin token.
func (a *Admin) requireReader(h http.HandlerFunc) http.HandlerFunc {
	if !a.exposed {
		return h
	}
	return a.requireToken(h)
}

// requireToken serves h to those who send the admin token, on every listener.
// Programs send it with each request; a browser's session is no substitute, so
// that no page can make a browser act here.
func (a *Admin) requireToken(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		given := bearerToken(r)
		if given.IsZero() {
			w.Header().Set("WWW-Authenticate", `Bearer realm="pleo-auth-proxy"`)
			writeProblem(w, manage.NewProblem(manage.CodeTokenRequired, "This takes the admin token: send Authorization: Bearer and what is in the file that admin.token_file names."))
			return
		}
		if !a.validToken(given) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="pleo-auth-proxy", error="invalid_token"`)
			writeProblem(w, manage.NewProblem(manage.CodeTokenRequired, "This is not the admin token, which is in the file that admin.token_file names."))
			return
		}
		h(w, r)
	}
}

// bearerToken returns the token of the request (RFC 6750 section 2.1), or nothing.
func bearerToken(r *http.Request) credstore.Secret {
	given := r.Header.Values("Authorization")
	if len(given) != 1 {
		return credstore.Secret{}
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return credstore.Secret{}
	}
	return credstore.NewSecret(strings.TrimSpace(token))
}

// validToken compares in a time that says nothing about the token: of hashes, so
// that its length does not show either.
func (a *Admin) validToken(given credstore.Secret) bool {
	want := a.token()
	if want.IsZero() {
		return false
	}
	wantHash, givenHash := want.Hash(), given.Hash()
	return subtle.ConstantTimeCompare(wantHash[:], givenHash[:]) == 1
}
