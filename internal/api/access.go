package api

import (
	"net/http"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// access decides which requests may read and change.
//
// Reading shows names and states of connections and no secret, so all users of the
// machine may read on a loopback address or unix socket. Pages in their browsers may
// not: see [API.checkOrigin]. Changes can end a customer's access or move it to
// another company, so they require a token on every listener.
type access struct {
	token   func() credstore.Secret
	exposed bool // others than this machine's users can reach the listener
}

// requireReader serves h to clients that may read: to all on a listener that only
// this machine can reach, and otherwise to those that send the admin token.
func (a access) requireReader(h http.HandlerFunc) http.HandlerFunc {
	if !a.exposed {
		return h
	}
	return a.requireToken(h)
}

// requireToken serves h to clients that send the admin token, on every listener.
// Programs send it with each request. The session of a browser does not count: a
// page of another site could otherwise make the browser send a change.
func (a access) requireToken(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		given, want := bearerToken(r), a.token()
		if given.IsZero() {
			w.Header().Set("WWW-Authenticate", `Bearer realm="pleo-auth-proxy"`)
			writeProblem(w, manage.NewProblem(manage.CodeTokenRequired, `The admin token is required. Send "Authorization: Bearer TOKEN" with the token in the file that admin.token_file names.`))
			return
		}
		if want.IsZero() || !want.Equal(given) { // an empty file is not a token
			w.Header().Set("WWW-Authenticate", `Bearer realm="pleo-auth-proxy", error="invalid_token"`)
			writeProblem(w, manage.NewProblem(manage.CodeTokenRequired, "The admin token is not correct. It is in the file that admin.token_file names."))
			return
		}
		h(w, r)
	}
}

// bearerToken returns the token of the request (RFC 6750 section 2.1), or none.
func bearerToken(r *http.Request) credstore.Secret {
	given := r.Header.Values("Authorization")
	if len(given) != 1 { // a proxy in front may have checked another one of two
		return credstore.Secret{}
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return credstore.Secret{}
	}
	return credstore.NewSecret(strings.TrimSpace(token))
}
