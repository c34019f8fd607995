package refresh

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Authorization is the credential of one connection in the form in which it
// goes on a request. It is immutable, but for the count of its uses, and shared
// by all requests of the connection until a newer one takes its place.
type Authorization struct {
	ConnectionID string
	Connection   string // the name
	Kind         credstore.Kind
	CompanyID    string // empty while it is not known
	Version      int64  // of the credential

	// Value is the value of the Authorization header field.
	Value credstore.Secret

	inFlight *atomic.Int64 // of the connection, over all versions
}

// Begin says that a request is about to be sent with the authorization, and
// [Authorization.End] that it has been answered. A refresh prefers a moment
// without requests under way.
func (a *Authorization) Begin() {
	if a.inFlight != nil {
		a.inFlight.Add(1)
	}
}

// End says that a request announced by Begin has been answered.
func (a *Authorization) End() {
	if a.inFlight != nil {
		a.inFlight.Add(-1)
	}
}

// Code says why no authorization can be had, in the words of the problem
// documents that clients get.
type Code string

// The codes of [Error].
const (
	ConnectionUnknown       Code = "connection_unknown"
	ConnectionPending       Code = "connection_pending"
	ConnectionDisabled      Code = "connection_disabled"
	ReauthorizationRequired Code = "reauthorization_required"
	ServerUnavailable       Code = "authorization_server_unavailable"
	StoreUnavailable        Code = "store_unavailable"
	ShuttingDown            Code = "shutting_down"
)

// Error says why no authorization can be had for a connection. It holds no
// secret and may be shown to clients.
type Error struct {
	Code       Code
	Connection string // the name that was asked for
	// ConnectionID and Version are the connection's id and that of its credential,
	// where a person has to mend it.
	ConnectionID string
	Version      int64
	Reason       string        // the connection's reason, where it has one
	RetryAfter   time.Duration // when it makes sense to ask again; 0 when waiting does not help
	Err          error         // the cause, for the log; may be nil
}

func (e *Error) Error() string {
	msg := fmt.Sprintf("connection %q: %s", e.Connection, e.Code)
	if e.Reason != "" {
		msg += " (" + e.Reason + ")"
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrSuppressed says that a 401 stands: the credential has been proven not to be
// the reason, or was refreshed by force a moment ago, or is an API key that no
// other can take the place of. The client gets the 401 as it is.
var ErrSuppressed = errors.New("no other credential for this 401")

// unavailable is the error of an operation that may be tried again in a second.
func unavailable(connection string, cause error) error {
	return &Error{Code: ServerUnavailable, Connection: connection, RetryAfter: time.Second, Err: cause}
}
