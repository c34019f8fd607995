// Package manage has the use cases on connections, for the command line, the JSON
// API and the pages alike.
package manage

import (
	"errors"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Link is a connect link.
type Link struct {
	URL       credstore.Secret // lets its bearer connect a company
	ExpiresAt time.Time
}

// NewKey is an API key for a connection.
type NewKey struct {
	Key       credstore.Secret
	Next      bool      // replaces the present key once that is rejected, and not at once
	ExpiresAt time.Time // zero: unknown

	AllowOtherCompany  bool // the connection may move to another company
	AllowSharedCompany bool // the company may have another connection
}

// Removal is what happened at Pleo to a connection that was removed.
type Removal struct {
	Uninstalled bool
	Message     string // sentences for people
}

// ErrRefreshPending means that a requested refresh has no outcome yet.
var ErrRefreshPending = errors.New("the refresh has no outcome yet")

// NotPossibleError is why something cannot be done with a connection in its
// present state.
type NotPossibleError struct {
	Message string // sentences for people
}

func (e *NotPossibleError) Error() string { return e.Message }

// RefreshError is why a refresh returned no new token pair.
type RefreshError struct {
	Code    string
	Message string // for people: without a period
}

func (e *RefreshError) Error() string { return e.Code + ": " + e.Message }
