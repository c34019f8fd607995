package credstore

import (
	"errors"
	"fmt"
)

// What a store answers when it does not do what it was asked to.
var (
	// ErrNotFound: there is no such connection.
	ErrNotFound = errors.New("no such connection")
	// ErrNameTaken: another connection has the name, or one that differs only
	// by case.
	ErrNameTaken = errors.New("the name is taken")
	// ErrCompanyBound: another connection of the same kind is bound to the company.
	ErrCompanyBound = errors.New("the company is bound to another connection of this kind")
	// ErrBadQuery: a listing was asked for with a limit or cursor that no page
	// can have.
	ErrBadQuery = errors.New("no such page")
	// ErrTokenTaken: another connection has the same refresh token, or had it
	// until its last refresh. Two owners of one refresh token kill it for both.
	ErrTokenTaken = errors.New("the refresh token belongs to another connection")
	// ErrSuperseded: the stored credential is not the one that was named. What
	// came with it is of no use any more.
	ErrSuperseded = errors.New("superseded by another credential")
	// ErrBusy: another process or goroutine holds the lease.
	ErrBusy = errors.New("another process is changing this credential")
	// ErrLeaseLost: the lease ended before the work did.
	ErrLeaseLost = errors.New("the lease has ended")
	// ErrNotRejected: the connection has no refused refresh token that could be
	// presented again.
	ErrNotRejected = errors.New("there is no refused refresh token to present again")
	// ErrOtherCompany: the credential belongs to another company than the
	// connection does; see [OtherCompanyError].
	ErrOtherCompany = errors.New("the credential belongs to another company")
	// ErrLinkUsed: the connect link has been used.
	ErrLinkUsed = errors.New("the connect link has been used")
	// ErrLinkExpired: the connect link can no longer be used.
	ErrLinkExpired = errors.New("the connect link has expired")
	// ErrOtherBrowser: the consent began in another browser.
	ErrOtherBrowser = errors.New("the consent began in another browser")
	// ErrUnavailable: the store cannot be read or written now. Whether a write
	// happened is not known; read again.
	ErrUnavailable = errors.New("the store is unavailable")
)

// ConflictError is an ErrNameTaken, ErrTokenTaken or ErrCompanyBound that says which connection is
// in the way.
type ConflictError struct {
	Err  error  // ErrNameTaken, ErrTokenTaken or ErrCompanyBound
	With string // the name of the other connection
}

func (e *ConflictError) Error() string { return fmt.Sprintf("%v: connection %q", e.Err, e.With) }

// Unwrap returns the sentinel.
func (e *ConflictError) Unwrap() error { return e.Err }

// OtherCompanyError is an ErrOtherCompany that says which companies.
type OtherCompanyError struct {
	Have Company // of the connection
	Got  Company // of the credential
}

func (e *OtherCompanyError) Error() string {
	return fmt.Sprintf("%v: to %s, and the connection to %s", ErrOtherCompany, e.Got.displayName(), e.Have.displayName())
}

// Unwrap returns ErrOtherCompany.
func (e *OtherCompanyError) Unwrap() error { return ErrOtherCompany }

// SetupError is a store, keyset or directory that cannot be used as it is: the
// wrong keyset, a newer schema, another environment, a damaged file. A person
// has to mend it; trying again does not help.
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
