package pleo

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// ClientAuth is the method of client authentication. It is configured and never
// detected, because detection sends a refresh token twice. The zero value means
// [Basic].
type ClientAuth string

const (
	// Basic is HTTP Basic with id and secret form-encoded (RFC 6749 section 2.3.1).
	Basic ClientAuth = "basic"
	// Post is client_id and client_secret in the form.
	Post ClientAuth = "post"
	// BasicPlain is HTTP Basic with id and secret unencoded (RFC 7617).
	BasicPlain ClientAuth = "basic_plain"
)

// ClientAuths returns every method of client authentication.
func ClientAuths() []ClientAuth { return []ClientAuth{Basic, Post, BasicPlain} }

// CheckClientID returns an error if a client with the id cannot authenticate by
// the method.
func (a ClientAuth) CheckClientID(id string) error {
	if a == BasicPlain && strings.Contains(id, ":") { // RFC 7617 section 2
		return errors.New("must not contain a colon with basic_plain: use basic or post")
	}
	return nil
}

// style returns the method in terms of x/oauth2.
func (a ClientAuth) style() oauth2.AuthStyle {
	if a == Post {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

// plainBasic returns a function that replaces the authentication which x/oauth2
// set: it does not support BasicPlain. For the other methods it returns nil.
func (a ClientAuth) plainBasic(id string, secret credstore.Secret) func(*http.Request) {
	if a != BasicPlain {
		return nil
	}
	return func(req *http.Request) { req.SetBasicAuth(id, secret.Reveal()) }
}

// authenticate adds client id and secret to a form, or returns a function that adds
// them to the request. It is for requests that x/oauth2 does not make.
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
