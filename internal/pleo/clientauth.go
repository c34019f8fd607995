package pleo

import (
	"fmt"
	"net/http"
	"net/url"

	"golang.org/x/oauth2"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// ClientAuth is how our client proves itself to the authorization server. It is
// set and never detected: detection presents a refresh token twice. The zero
// value means [Basic].
type ClientAuth string

// The ways to send a client id and secret.
const (
	// Basic is HTTP Basic with both form-encoded first (RFC 6749 section 2.3.1).
	Basic ClientAuth = "basic"
	// Post is client_id and client_secret among the form's parameters.
	Post ClientAuth = "post"
	// BasicPlain is HTTP Basic with both as they are (RFC 7617).
	BasicPlain ClientAuth = "basic_plain"
)

// ParseClientAuth returns the way called s.
func ParseClientAuth(s string) (ClientAuth, error) {
	switch a := ClientAuth(s); a {
	case Basic, Post, BasicPlain:
		return a, nil
	}
	return "", fmt.Errorf("unknown client authentication %q: use basic, post or basic_plain", s)
}

// style is what x/oauth2 calls the way.
func (a ClientAuth) style() oauth2.AuthStyle {
	if a == Post {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

// authenticate puts client id and secret on a request that is not x/oauth2's:
// in the form, or in a header that the returned function sets.
func (a ClientAuth) authenticate(form url.Values, id string, secret credstore.Secret) func(*http.Request) {
	switch a {
	case Post:
		form.Set("client_id", id)
		if !secret.IsZero() { // RFC 6749 section 2.3.1: may be left out
			form.Set("client_secret", secret.Reveal())
		}
		return nil
	case BasicPlain:
		return a.plainBasic(id, secret)
	}
	return func(req *http.Request) {
		req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret.Reveal()))
	}
}

// plainBasic corrects what x/oauth2, which knows no plain Basic, put on a request.
func (a ClientAuth) plainBasic(id string, secret credstore.Secret) func(*http.Request) {
	if a != BasicPlain {
		return nil
	}
	return func(req *http.Request) { req.SetBasicAuth(id, secret.Reveal()) }
}
