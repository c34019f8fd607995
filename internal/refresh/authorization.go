package refresh

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Authorization is the credential of one connection in the form that requests carry.
// It is shared by the requests of the connection until a newer one replaces it, and
// immutable except for the count of requests in flight.
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

// Begin is called before a request is sent with the authorization, and
// [Authorization.End] after its response. A refresh ahead of expiry prefers a moment
// without requests in flight.
func (a *Authorization) Begin() {
	if a.inFlight != nil {
		a.inFlight.Add(1)
	}
}

// End is called after the response to a request for which Begin was called.
func (a *Authorization) End() {
	if a.inFlight != nil {
		a.inFlight.Add(-1)
	}
}

// Code says why there is no authorization, as the code of problem documents.
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

// Error says why there is no authorization for a connection. It contains no secret and
// may be shown to clients.
type Error struct {
	Code       Code
	Connection string // the requested name
	// ConnectionID and Version identify the credential if a person has to fix it.
	ConnectionID string
	Version      int64
	Reason       string        // of the connection's status, if it has one
	RetryAfter   time.Duration // when to try again; 0 if waiting does not help
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

// ErrSuppressed says that a 401 stands and is passed on unchanged: the credential is
// known not to be the reason, or was refreshed because of a 401 a moment ago, or is an
// API key without a replacement.
var ErrSuppressed = errors.New("no other credential for this 401")

// unavailable is the error of an operation that may be tried again in a second.
func unavailable(connection string, cause error) error {
	return &Error{Code: ServerUnavailable, Connection: connection, RetryAfter: time.Second, Err: cause}
}
