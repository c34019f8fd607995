package credstore

import (
	"errors"
	"fmt"
)

// The errors of a store.
var (
	// ErrNotFound: the connection does not exist.
	ErrNotFound = errors.New("no such connection")
	// ErrNameTaken: another connection has the name, or one that differs only
	// by case.
	ErrNameTaken = errors.New("the name is taken")
	// ErrCompanyBound: another connection of the same kind is bound to the company.
	ErrCompanyBound = errors.New("the company is bound to another connection of this kind")
	// ErrBadQuery: the limit or cursor of a listing is invalid.
	ErrBadQuery = errors.New("no such page")
	// ErrTokenTaken: another connection has the same refresh token, or had it until its
	// last refresh. Two owners of one refresh token end the grant for both.
	ErrTokenTaken = errors.New("the refresh token belongs to another connection")
	// ErrSuperseded: another credential is stored than the one that was named. A
	// successor of the named one must be dropped.
	ErrSuperseded = errors.New("superseded by another credential")
	// ErrBusy: another process or goroutine holds the lease.
	ErrBusy = errors.New("another process is changing this credential")
	// ErrLeaseLost: the lease ended before the work did.
	ErrLeaseLost = errors.New("the lease has ended")
	// ErrNotRejected: the connection has no rejected refresh token to retry.
	ErrNotRejected = errors.New("the connection has no rejected refresh token")
	// ErrOtherCompany: the credential and the connection belong to different companies;
	// see [OtherCompanyError].
	ErrOtherCompany = errors.New("the credential belongs to another company")
	// ErrLinkUsed: the connect link has been used.
	ErrLinkUsed = errors.New("the connect link has been used")
	// ErrLinkExpired: the connect link can no longer be used.
	ErrLinkExpired = errors.New("the connect link has expired")
	// ErrOtherBrowser: the consent began in another browser.
	ErrOtherBrowser = errors.New("the consent began in another browser")
	// ErrUnavailable: the store cannot be read or written now. Whether a write happened
	// is unknown: read again.
	ErrUnavailable = errors.New("the store is unavailable")
)

// ConflictError is an ErrNameTaken, ErrTokenTaken or ErrCompanyBound with the
// connection that is the reason.
type ConflictError struct {
	Err  error  // ErrNameTaken, ErrTokenTaken or ErrCompanyBound
	With string // the name of the other connection
}

func (e *ConflictError) Error() string { return fmt.Sprintf("%v: connection %q", e.Err, e.With) }

// Unwrap returns the sentinel.
func (e *ConflictError) Unwrap() error { return e.Err }

// OtherCompanyError is an ErrOtherCompany with the companies.
type OtherCompanyError struct {
	Have Company // of the connection
	Got  Company // of the credential
}

func (e *OtherCompanyError) Error() string {
	return fmt.Sprintf("%v: to %s, and the connection to %s", ErrOtherCompany, e.Got.displayName(), e.Have.displayName())
}

// Unwrap returns ErrOtherCompany.
func (e *OtherCompanyError) Unwrap() error { return ErrOtherCompany }

// SetupError means that a store, keyset or directory cannot be used as it is: the
// keyset is another one, the schema is newer, a file is damaged. Retrying does not
// help; a person has to fix it.
type SetupError struct {
	Err  error  // what is wrong
	Hint string // what to do about it
}

func (e *SetupError) Error() string {
	if e.Hint == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + "; " + e.Hint
}

// Unwrap returns what is wrong, without the hint.
func (e *SetupError) Unwrap() error { return e.Err }
