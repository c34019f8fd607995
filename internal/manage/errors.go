package manage

import (
	"errors"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// NotPossibleError is why something cannot be done with a connection in its
// present state.
type NotPossibleError struct {
	Connection string // its name
	Reason     string // what the connection is or has, such as "is disabled"
}

func (e *NotPossibleError) Error() string {
	return fmt.Sprintf("connection %q %s", e.Connection, e.Reason)
}

// InvalidError is what is wrong with the input of an operator or a program. It
// holds no secret.
type InvalidError struct{ Reason string }

func (e *InvalidError) Error() string { return e.Reason }

func invalid(format string, args ...any) error {
	return &InvalidError{Reason: fmt.Sprintf(format, args...)}
}

// NotFoundError is a name that no connection has. It matches
// [credstore.ErrNotFound].
type NotFoundError struct {
	Name string // empty: what was given cannot be a name, and may be a secret
}

func (e *NotFoundError) Error() string {
	if e.Name == "" {
		return "this is not a valid connection name"
	}
	return fmt.Sprintf("there is no connection %q", e.Name)
}

func (e *NotFoundError) Unwrap() error { return credstore.ErrNotFound }

// ExistsError is an existing connection that differs from the one to create.
type ExistsError struct {
	Name       string
	Difference string // such as "with another kind or external tenant"
}

func (e *ExistsError) Error() string {
	return fmt.Sprintf("there is already a connection %q %s", e.Name, e.Difference)
}

// RefreshError is why a refresh returned no new token pair.
type RefreshError struct {
	Code    string // of the connection's last error; empty: unknown
	Message string // for people: without a period
}

func (e *RefreshError) Error() string {
	if e.Code == "" {
		return e.Message
	}
	return e.Code + ": " + e.Message
}

// KeyCheckError is why Pleo could not be asked about an API key.
type KeyCheckError struct{ Err error }

func (e *KeyCheckError) Error() string { return fmt.Sprintf("asking Pleo about the key: %v", e.Err) }
func (e *KeyCheckError) Unwrap() error { return e.Err }

var (
	// ErrRefreshPending means that a requested refresh has no outcome yet.
	ErrRefreshPending = errors.New("the refresh has no outcome yet")
	// ErrRemovedMeanwhile means that a connection was removed while it was created
	// again. The caller can try again.
	ErrRemovedMeanwhile = errors.New("a connection with this name was removed at the same time")
	// ErrReturnURL means that links may not return to a URL.
	ErrReturnURL = errors.New("the return URL is not listed in connect.return_urls, with which it is compared character by character")
	// ErrNoLinks means that there are no pages for customers.
	ErrNoLinks = errors.New("connect links are not set up: connect.public_url is not set")
)
