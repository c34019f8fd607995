package credstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Store keeps connections, their sealed credentials, and what processes must
// know about each other to refresh safely.
//
// All methods may be called by several goroutines and, through stores opened
// on the same data, by several processes at once. Each write is one
// transaction, durable before the method returns nil. Errors can be matched
// with errors.Is against the sentinels of this package; anything that may pass
// by itself matches [ErrUnavailable], and after it a write may or may not have
// happened.
type Store interface {
	// Create adds a connection and, where c.Credential is not nil, its first
	// credential (version 1, status active); otherwise its status is pending.
	// It returns a [ConflictError] of ErrNameTaken, ErrTokenTaken or ErrCompanyBound.
	Create(ctx context.Context, c NewConnection) (Connection, error)

	// Find returns the connection called name, or ErrNotFound. Names are
	// compared with case.
	Find(ctx context.Context, name string) (Connection, error)

	// Read returns the whole state of the connection with the id, or
	// ErrNotFound. It is one consistent snapshot.
	Read(ctx context.Context, id string) (State, error)

	// List returns connections in the order of their names, compared byte by
	// byte. Connections that stay are on exactly one page each, whatever is
	// created or removed between the pages. A limit or cursor that cannot be is
	// ErrBadQuery.
	List(ctx context.Context, q Query) (Page, error)

	// Count returns how many connections there are of each kind and status.
	Count(ctx context.Context) (map[Group]int, error)

	// Due returns up to limit connections of kind oauth that may be refreshed
	// and whose token pair was obtained before the given time, oldest first.
	// May be refreshed: active or degraded, with a refresh token that was not
	// refused, and neither RetryAt nor the intent's NextAt ahead.
	Due(ctx context.Context, obtainedBefore time.Time, limit int) ([]Connection, error)

	// Remove forgets the connection and everything secret about it, connect
	// links included; its history stays. Its id is never used again: what is
	// saved to it later is ErrSuperseded.
	Remove(ctx context.Context, id string) error

	// Disable ends the use of a connection: its status is disabled, with the
	// reason, whatever happens to its credential, until Enable. One that is
	// disabled already stays as it is.
	Disable(ctx context.Context, id, reason string) error

	// Enable takes Disable back: the connection has the status and reason that
	// it would have if it had not been disabled. It does nothing to others.
	Enable(ctx context.Context, id string) error

	// Export returns the whole state, secrets included, and disables the
	// connection with reason exported, in one transaction: whoever gets the
	// secrets owns them from then on. It returns ErrBusy while somebody holds the
	// lease, and so may be spending the very token.
	Export(ctx context.Context, id string) (State, error)

	// Replace puts a new grant or key in the place of whatever credential is
	// stored, also of none: version one higher, status active, and staged key,
	// intent, request, refusal and last error gone. A connection that is disabled
	// stays so, unless for the company of the credential before and the new one's
	// is known. All other connect links of the connection end.
	//
	// It returns ErrLeaseLost; ErrNotFound when the connection was removed; a
	// [ConflictError] of ErrTokenTaken or ErrCompanyBound; an [OtherCompanyError];
	// ErrLinkUsed or ErrLinkExpired (also for one that is not of the connection)
	// about the link. On any error the old credential stays. Replacing again by
	// the same credential with the link spent on it is no error.
	Replace(ctx context.Context, l Lease, r Replacement) (Connection, error)

	// History returns what happened to the connection, the latest first, also
	// after its removal. before is HistoryPage.Next of the page before, or empty;
	// limit is 1 to 200, 0 means 50. It returns ErrNotFound and ErrBadQuery.
	// Every write that a person might ask about adds an Event in the same
	// transaction; a failure that repeats the last one does not.
	History(ctx context.Context, id, before string, limit int) (HistoryPage, error)

	// Removed returns the id of the connection that was removed last of those with
	// the name, for as long as History tells of it; else ErrNotFound.
	Removed(ctx context.Context, name string) (id string, err error)

	// RecordEvent adds an event that comes with no other change. Of e, the type, code
	// and message count.
	RecordEvent(ctx context.Context, id string, e Event) error

	// OpenLink returns the token of a connect link, 256 bits in base64url. As
	// long as one can be used that was asked for with the same ReturnURL and
	// permissions, and that ends no sooner than r.MinRemaining and no later than r.TTL
	// from now, it is that one, expiring when it did before, unless r.ReplaceExisting is
	// set. See [MaxLinks].
	OpenLink(ctx context.Context, id string, r LinkRequest) (token Secret, l Link, err error)

	// FindLink returns the link with the token. It spends nothing. One that was
	// used, or that has expired or was ended by another, is returned with
	// ErrLinkUsed or ErrLinkExpired for some time, later it is ErrNotFound.
	FindLink(ctx context.Context, token Secret) (Link, error)

	// BeginConsent remembers an attempt to get consent; see [MaxConsents]. It
	// returns the errors of FindLink.
	BeginConsent(ctx context.Context, c Consent) error

	// TakeConsent returns the attempt with the state, once. It returns
	// ErrNotFound about one that is unknown, taken or expired, and, without
	// taking it, ErrOtherBrowser if it began in another browser. The link may be
	// used or expired meanwhile.
	TakeConsent(ctx context.Context, state Secret, browser []byte) (Consent, error)

	// Acquire takes the lease on the connection's credential for owner, which
	// names the process. It does not wait: it returns ErrBusy while anyone
	// holds the lease, a goroutine of this process included.
	Acquire(ctx context.Context, id, owner string) (Lease, error)

	// RecordIntent records the intent to present the refresh token of parent. It
	// returns ErrLeaseLost when the lease has ended and ErrSuperseded when the
	// stored credential is not the parent. An intent that the connection has
	// already for the same parent becomes the lease owner's, with one more
	// presentation.
	RecordIntent(ctx context.Context, l Lease, parent Parent, at time.Time) (Intent, error)

	// CancelIntent records that the refresh was not sent, or answered without
	// spending the token: it removes the intent, or, where earlier
	// presentations have an unknown outcome, puts it back to Unknown with one
	// presentation less. f, if not nil, becomes the connection's status degraded
	// (one that is neither active nor degraded keeps its status and reason) and
	// last error, with f.RetryAt as the time of the next try. It returns
	// ErrLeaseLost and ErrSuperseded as Intend does.
	CancelIntent(ctx context.Context, l Lease, parent Parent, f *RefreshFailure) error

	// MarkOutcomeUnknown records that the outcome of the intended refresh is unknown and
	// that the token may be presented again from f.RetryAt on. Otherwise it is
	// like Withdraw; without an intent for parent it returns ErrSuperseded.
	MarkOutcomeUnknown(ctx context.Context, l Lease, parent Parent, f RefreshFailure) error

	// Save puts s in the place of its parent, if and only if the stored
	// credential is that parent, whoever holds the lease: version parent+1,
	// status active (degraded with s.RefreshFailure), intent, request and last error
	// gone. Saving the same successor again is no error. Otherwise it returns
	// ErrSuperseded. A connection that is disabled stays so. The parent may be
	// that of a pending connection, see [State.Parent]. After a successor with
	// Consent set the connection is Unproven.
	Save(ctx context.Context, s Successor) (Connection, error)

	// MarkReauthorizationRequired records that only a person can mend the connection, if the stored
	// credential is still parent (else ErrSuperseded) and the lease still held
	// (else ErrLeaseLost): status reauthorization_required with the reason,
	// intent and request gone. The refused token stays stored, sealed and
	// unused, so that a successor of it that somebody holds can still be saved.
	// Where dropAccess is set the access token is forgotten, else it may be used
	// until it expires. A credential may be condemned again, for another reason.
	MarkReauthorizationRequired(ctx context.Context, l Lease, parent Parent, f Failure, reason string, dropAccess bool) error

	// Reinstate takes a condemnation back after the credential has proven good:
	// status active, and no reason, last error or RejectedAt any more. It returns
	// ErrLeaseLost and ErrSuperseded as Condemn does. A connection that is
	// disabled stays so.
	Reinstate(ctx context.Context, l Lease, parent Parent) error

	// StageKey stores an API key that is to take the place of the connection's
	// own once that is refused, and when it ends; zero when that is not known.
	// The version stays: what requests are sent with does not change.
	StageKey(ctx context.Context, id string, key Secret, expiresAt time.Time) error

	// PromoteKey puts the staged key in the place of parent's: version parent+1,
	// status active, last error gone. It returns ErrLeaseLost as Condemn does,
	// and ErrSuperseded also when no key is staged.
	PromoteKey(ctx context.Context, l Lease, parent Parent) (Connection, error)

	// RequestRefresh records that an operator wants the token pair refreshed;
	// whoever serves the connection hears of it through Watch and sees it in
	// State.RequestedAt. What settles a refresh ends the request: Save, Condemn,
	// Doubt, and Withdraw with a setback.
	RequestRefresh(ctx context.Context, id string, at time.Time) error

	// RetryRejected has a refused refresh token presented again: a connection of kind
	// oauth in reauthorization_required whose token is still kept becomes
	// degraded with reason retry_requested, its token counts as not refused, and
	// a refresh is requested as of at. Any other is ErrNotRejected.
	RetryRejected(ctx context.Context, id string, at time.Time) error

	// SetCompany records the company that introspection gave, and that it is not
	// Unproven any more; a zero company, where there is none yet, that nobody
	// names one. A [ConflictError] of ErrCompanyBound, and for one that is
	// Unproven an [OtherCompanyError], mean that the connection was disabled
	// instead, with reason company_conflict.
	SetCompany(ctx context.Context, id string, company Company) error

	// Unsettled returns up to limit ids of connections with an outstanding
	// intent, a time for the next try or an operator's request, the earliest
	// first.
	Unsettled(ctx context.Context, limit int) ([]string, error)

	// Fact returns what SetFact recorded under the name, or "" when nothing was.
	// Facts are about the store's whole environment, such as whether the
	// authorization server's introspection can be trusted.
	Fact(ctx context.Context, name string) (string, error)
	SetFact(ctx context.Context, name, value string) error

	// Position returns the store's id, which no other store has, and a number
	// that grows with each change. A copy that is put back has a smaller one.
	Position(ctx context.Context) (store string, change int64, err error)

	// Watch calls changed with the connections that any process, this one
	// included, has created, changed or removed since the store was opened:
	// first those of the past, then each within a second of its change, until
	// ctx ends; then it returns ctx's error. It may report a connection that did
	// not change, and does not report what changes an intent only. While the store
	// is unavailable it keeps trying, and reports what it missed afterwards.
	Watch(ctx context.Context, changed func([]Change)) error

	// Ping reads from the store.
	Ping(ctx context.Context) error

	// Close releases the store. Leases end.
	Close() error
}

// Lease is the right to change one credential.
type Lease interface {
	ConnectionID() string
	// Fence is larger than that of every earlier lease on the credential under
	// which anything was written.
	Fence() int64
	// Owner is the process that holds it.
	Owner() string
	// Remaining is how long the lease still lasts if it is not renewed: a lease
	// that ends only with its process says a large number.
	Remaining() time.Duration
	// Release gives the lease back. It does nothing the second time.
	Release() error
}

// Change tells of a connection that has changed.
type Change struct {
	ID               string
	RefreshRequested bool // an operator's request for a refresh of it is open
	// DeliveriesPending says that events about it wait to be told; see [Outbox].
	DeliveriesPending bool
}

// NewConnection is what Create makes a connection of.
type NewConnection struct {
	Name           string
	Kind           Kind
	ExternalTenant string
	Company        Company
	Scope          string
	SharedCompany  bool
	Credential     *NewCredential
}

// Validate finds what no store takes: a name or kind that cannot be, or a
// credential that is not of the kind.
func (n NewConnection) Validate() error {
	if !ValidName(n.Name) {
		return errors.New("the name must have 1 to 128 letters, digits or . _ ~ : -, the first a letter or a digit")
	}
	if _, err := ParseKind(string(n.Kind)); err != nil {
		return err
	}
	if n.Credential == nil {
		return nil
	}
	return n.Credential.Validate(n.Kind)
}

// NewCredential is the credential a connection starts with: a token pair for
// kind oauth, an API key for the others.
type NewCredential struct {
	AccessToken  Secret
	RefreshToken Secret
	ExpiresAt    time.Time // of the access token or the key; zero when it has no known expiry
	APIKey       Secret
}

// Validate finds a credential that is not of the kind.
func (c NewCredential) Validate(k Kind) error {
	hasTokens := !c.AccessToken.IsZero() || !c.RefreshToken.IsZero()
	if k.IsKey() && (c.APIKey.IsZero() || hasTokens) {
		return fmt.Errorf("a credential of kind %s is an API key and nothing else", k)
	}
	if k == OAuth && (!c.APIKey.IsZero() || !hasTokens) {
		return fmt.Errorf("a credential of kind %s is a token pair and nothing else", k)
	}
	return nil
}

// Company is what introspection says about whom a credential belongs to.
type Company struct {
	ID      string // a UUID; empty for an organisation's credential
	Name    string
	Subject string // the URN
}

// IsZero reports whether nothing is known about the company.
func (c Company) IsZero() bool { return c.ID == "" && c.Subject == "" }

// Same reports whether both are known to be the same. The case of ids does not
// matter (RFC 9562 section 4); an organisation is known by its subject only.
func (c Company) Same(other Company) bool {
	if c.ID != "" || other.ID != "" {
		return strings.EqualFold(c.ID, other.ID)
	}
	return c.Subject != "" && c.Subject == other.Subject
}

// displayName is how messages name the company.
func (c Company) displayName() string { return strconv.Quote(cmp.Or(c.Name, c.ID, c.Subject)) }

// RefreshFailure is an answered or lost refresh that did not condemn the connection.
type RefreshFailure struct {
	Failure    Failure
	Reason     string    // of status degraded
	RetryAt    time.Time // when to try again
	Unexpected bool      // an answer that no rule names
}

// Query selects a page of connections.
type Query struct {
	Limit  int    // 1 to 200; 0 means 50
	Cursor string // Page.Next of the page before; empty for the first
	Status Status // empty: any
	Kind   Kind   // empty: any
	Reason string // of the status; empty: any
	Search string // part of the name, tenant or company, without regard to case
	// KeyExpiresBefore selects the connections in use whose API key ends before it and
	// has none staged that goes on; zero: any.
	KeyExpiresBefore time.Time
}

// Page is one page of a listing.
type Page struct {
	Connections []Connection
	Next        string // the cursor of the next page; empty on the last
}

// Group is what connections are counted by.
type Group struct {
	Kind   Kind
	Status Status
}
