package pleo

import (
	"fmt"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Tokens is what the token endpoint answered with.
type Tokens struct {
	// AccessToken is empty when the answer broke off after the refresh token.
	AccessToken credstore.Secret
	// RefreshToken is empty when the answer had none: the old one stays.
	RefreshToken credstore.Secret
	// SentAt is when the request was sent; lifetimes are counted from it.
	SentAt time.Time
	// Lifetime is how long the access token lasts from SentAt; 0 when the
	// answer gave no usable expires_in. It is at most 24 hours.
	Lifetime time.Duration
	Scope    string
}

// A token request that brings no tokens ends in exactly one of three ways, each
// an error type of its own: [NotSentError], [ResponseError] or [UnknownOutcomeError].
// None of them holds a secret, nor text that the server made up freely.

// NotSentError is a token request of which no byte was written: the name did
// not resolve, the dial or the TLS handshake failed. Nothing was spent.
type NotSentError struct{ Err error }

func (e *NotSentError) Error() string { return "the token request was not sent: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *NotSentError) Unwrap() error { return e.Err }

// UnknownOutcomeError is a token request that was sent, at least in part, and not
// answered in a way that tells what became of it. The refresh token may have
// been spent.
type UnknownOutcomeError struct {
	Status int // of the answer's head; 0 when there was none
	// RetryAfter is how long the server asked to wait; 0 when it did not say.
	RetryAfter time.Duration
	Err        error
}

func (e *UnknownOutcomeError) Error() string {
	return "the outcome of the token request is unknown: " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

// Class sorts the answers that bring no tokens by what they mean for us.
type Class string

// The classes of [ResponseError].
const (
	TokenRejected  Class = "refused"        // the token that was sent is no good
	ClientRejected Class = "client_refused" // our client or its secret is
	RateLimited    Class = "busy"           // 429: nothing was spent, try later
	Unexpected     Class = "unusual"        // any other 4xx
)

// ResponseError is an answer of the token endpoint that brings no tokens.
type ResponseError struct {
	Class  Class
	Status int
	// Code is the answer's error member (RFC 6749 section 5.2) if it is made of
	// the characters that the RFC allows and not long; else empty.
	Code string
	// RetryAfter is how long the server asked to wait; 0 when it did not say.
	RetryAfter time.Duration
}

func (e *ResponseError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("the authorization server answered %d", e.Status)
	}
	return fmt.Sprintf("the authorization server answered %d %s", e.Status, e.Code)
}
