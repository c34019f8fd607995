package pleo

import (
	"fmt"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Tokens is a successful response of the token endpoint.
type Tokens struct {
	// AccessToken is empty if the response was truncated after the refresh token.
	AccessToken credstore.Secret
	// RefreshToken is empty if the response had none: the one that was sent
	// remains valid.
	RefreshToken credstore.Secret
	// SentAt is when the request was sent. Lifetimes are counted from it.
	SentAt time.Time
	// Lifetime is that of the access token, from SentAt, at most 24 hours. It is 0
	// if the response had no usable expires_in.
	Lifetime time.Duration
	Scope    string
}

// A token request without tokens in its response has exactly one of three
// outcomes, each with an error type of its own: [NotSentError], [ResponseError] or
// [UnknownOutcomeError]. None of them holds a secret, or text that the server may
// choose freely.

// NotSentError is a token request of which no byte was written: the name did not
// resolve, or dialing or the TLS handshake failed. The token remains valid.
type NotSentError struct{ Err error }

func (e *NotSentError) Error() string { return "the token request was not sent: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *NotSentError) Unwrap() error { return e.Err }

// UnknownOutcomeError is a token request that was sent, at least in part, and whose
// response, if any, does not show whether the token was exchanged.
type UnknownOutcomeError struct {
	Status int // 0 if there was no response header
	// RetryAfter is the delay that the server asked for; 0 if it did not.
	RetryAfter time.Duration
	Err        error
}

func (e *UnknownOutcomeError) Error() string {
	return "the outcome of the token request is unknown: " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

// Class says what a response without tokens means.
type Class string

// The classes of a [ResponseError].
const (
	TokenRejected  Class = "token_rejected"  // the token that was sent is not valid
	ClientRejected Class = "client_rejected" // our client or its secret is not valid
	RateLimited    Class = "rate_limited"    // 429: the token was not exchanged
	Unexpected     Class = "unexpected"      // any other 4xx
)

// ResponseError is a response of the token endpoint that rejects the request.
type ResponseError struct {
	Class  Class
	Status int
	// Code is the error member of the response (RFC 6749 section 5.2). It is empty
	// if it is long or has characters that the RFC does not allow.
	Code string
	// RetryAfter is the delay that the server asked for; 0 if it did not.
	RetryAfter time.Duration
}

func (e *ResponseError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("the authorization server returned status %d", e.Status)
	}
	return fmt.Sprintf("the authorization server returned status %d %s", e.Status, e.Code)
}
