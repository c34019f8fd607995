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

// Store is a store in its parts. It keeps connections, their encrypted credentials,
// and what processes must know about each other to refresh safely.
//
// All methods may be called by several goroutines and, through stores opened on the
// same data, by several processes at once. Each write is one transaction, durable
// before the method returns nil. Errors match, by [errors.Is], the sentinels of this
// package; an error that may be temporary matches [ErrUnavailable], after which a
// write may or may not have happened.
type Store struct {
	Connections Connections
	Credentials Credentials
	Links       Links
	History     History
	Outbox      Outbox
	Changes     Changes
}

// Connections creates, finds and changes connections.
type Connections interface {
	// Create adds a connection and, if c.Credential is not nil, its first
	// credential (version 1, status active); otherwise its status is pending. It
	// returns a [ConflictError] of ErrNameTaken, ErrTokenTaken or ErrCompanyBound.
	Create(ctx context.Context, c NewConnection) (Connection, error)

	// Find returns the connection called name, or ErrNotFound. Names are
	// case-sensitive.
	Find(ctx context.Context, name string) (Connection, error)

	// Read returns the whole state of the connection with the id, or ErrNotFound,
	// as one consistent snapshot.
	Read(ctx context.Context, id string) (State, error)

	// List returns connections ordered by name, byte by byte. A connection that
	// exists throughout is on exactly one page, whatever is created or removed
	// between the pages. An invalid limit or cursor is ErrBadQuery.
	List(ctx context.Context, q Query) (Page, error)

	// Count returns how many connections there are of each kind and status.
	Count(ctx context.Context) (map[Group]int, error)

	// Remove deletes the connection, its secrets and its connect links; its history
	// stays. Its id is never used again: saving to it later is ErrSuperseded.
	Remove(ctx context.Context, id string) error

	// Disable ends the use of a connection: its status is disabled, with the
	// reason, whatever happens to its credential, until Enable. It does nothing to
	// a connection that is disabled already.
	Disable(ctx context.Context, id, reason string) error

	// Enable reverts Disable: the connection has the status and reason that it
	// would have if it had not been disabled. It does nothing to other connections.
	Enable(ctx context.Context, id string) error

	// Export returns the whole state, secrets included, and disables the connection
	// with reason exported, in one transaction: from then on the secrets belong to
	// the caller. It returns ErrBusy while the lease is held, since its holder may
	// be sending the refresh token.
	Export(ctx context.Context, id string) (State, error)

	// Replace stores a new grant or key in place of any credential, or of none:
	// version one higher, status active, and staged key, intent, request, rejection
	// and last error cleared. A disabled connection stays disabled, unless because
	// of the company of its earlier credential when the new one's is known. All
	// other connect links of the connection end.
	//
	// It returns ErrLeaseLost; ErrNotFound if the connection was removed; a
	// [ConflictError] of ErrTokenTaken or ErrCompanyBound; an [OtherCompanyError];
	// and about the link ErrLinkUsed or ErrLinkExpired, also for a link of another
	// connection. On any error the old credential stays. Replacing again by the
	// same credential with the link spent on it is no error.
	Replace(ctx context.Context, l Lease, r Replacement) (Connection, error)

	// SetCompany records the company that introspection returned, and that it is
	// verified; a zero company means that there is none. A [ConflictError] of
	// ErrCompanyBound and, while CompanyUnverified is set, an [OtherCompanyError]
	// mean that the connection was disabled instead, with reason company_conflict.
	SetCompany(ctx context.Context, id string, company Company) error

	// StageKey stores an API key that is to replace the connection's key once that
	// is rejected, and its expiry, zero if unknown. The version stays, since
	// requests are sent with the same key as before.
	StageKey(ctx context.Context, id string, key Secret, expiresAt time.Time) error
}

// Credentials changes credentials, mostly under a [Lease].
type Credentials interface {
	// Acquire takes the lease on the connection's credential for owner, which
	// names the process. It does not wait: it returns ErrBusy while any process or
	// goroutine holds the lease.
	Acquire(ctx context.Context, id, owner string) (Lease, error)

	// RecordIntent records the intent to send the refresh token of parent. It
	// returns ErrLeaseLost if the lease has ended and ErrSuperseded if the stored
	// credential is not the parent. An existing intent for the same parent passes
	// to the lease's owner, with one more attempt.
	RecordIntent(ctx context.Context, l Lease, parent Parent, at time.Time) (Intent, error)

	// CancelIntent records that the refresh token was not sent, or not exchanged
	// according to the response: it removes the intent or, if earlier attempts have
	// an unknown outcome, returns it to OutcomeUnknown with one attempt less. f, if
	// not nil, becomes the last error, with f.RetryAt as the time of the next try,
	// and the status becomes degraded, if it was active. It returns ErrLeaseLost
	// and ErrSuperseded like RecordIntent.
	CancelIntent(ctx context.Context, l Lease, parent Parent, f *RefreshFailure) error

	// MarkOutcomeUnknown records that the outcome of the intended refresh is unknown
	// and that the token may be sent again from f.RetryAt on. Otherwise it is like
	// CancelIntent; without an intent for parent it returns ErrSuperseded.
	MarkOutcomeUnknown(ctx context.Context, l Lease, parent Parent, f RefreshFailure) error

	// Save stores s in place of its parent, if and only if the stored credential is
	// that parent, regardless of the lease: version parent+1, status active
	// (degraded with s.RefreshFailure), intent, request and last error cleared. A
	// disabled connection stays disabled. Saving the same successor again is no
	// error; otherwise it returns ErrSuperseded. The parent may be that of a pending
	// connection, see [State.Parent]. After a successor with Consent set the
	// connection is CompanyUnverified.
	Save(ctx context.Context, s Successor) (Connection, error)

	// MarkReauthorizationRequired records that only a person can fix the connection,
	// if the stored credential is still parent (else ErrSuperseded) and the lease
	// still held (else ErrLeaseLost): status reauthorization_required with the
	// reason, intent and request cleared. The rejected token stays stored, encrypted
	// and unused, so that a successor held elsewhere can still be saved. With
	// dropAccess the access token is deleted; otherwise it may be used until it
	// expires. It may be called again with another reason.
	MarkReauthorizationRequired(ctx context.Context, l Lease, parent Parent, f Failure, reason string, dropAccess bool) error

	// Reinstate reverts MarkReauthorizationRequired after the credential has proved
	// valid: status active; reason, last error and RejectedAt cleared. It returns
	// ErrLeaseLost and ErrSuperseded like MarkReauthorizationRequired. A disabled
	// connection stays disabled.
	Reinstate(ctx context.Context, l Lease, parent Parent) error

	// PromoteKey stores the staged key in place of parent's: version parent+1,
	// status active, last error cleared. It returns ErrLeaseLost like
	// MarkReauthorizationRequired, and ErrSuperseded also if no key is staged.
	PromoteKey(ctx context.Context, l Lease, parent Parent) (Connection, error)

	// RequestRefresh records an operator's request to refresh the token pair. The
	// processes that serve the connection learn of it through Watch and
	// State.RequestedAt. Save, MarkReauthorizationRequired, MarkOutcomeUnknown, and
	// CancelIntent with a failure end the request.
	RequestRefresh(ctx context.Context, id string, at time.Time) error

	// RetryRejected has a rejected refresh token sent again: a connection of kind
	// oauth in reauthorization_required whose token is still stored becomes degraded
	// with reason retry_requested, its token counts as not rejected, and a refresh is
	// requested as of at. For any other connection it returns ErrNotRejected.
	RetryRejected(ctx context.Context, id string, at time.Time) error

	// Due returns up to limit connections of kind oauth that may be refreshed and
	// whose token pair was obtained before the given time, oldest first. A connection
	// may be refreshed if it is active or degraded, its refresh token is stored and
	// not rejected, and neither RetryAt nor the intent's NextAt is in the future.
	Due(ctx context.Context, obtainedBefore time.Time, limit int) ([]Connection, error)

	// Unsettled returns up to limit ids of connections with an outstanding intent, a
	// time of the next try or an operator's request, the earliest first.
	Unsettled(ctx context.Context, limit int) ([]string, error)
}

// Links keeps connect links, and the attempts to give consent that begin at them.
type Links interface {
	// OpenLink returns the token of a connect link, 256 bits in base64url. It returns
	// an existing link, with the expiry that it has, if one can be used that has the
	// same ReturnURL and permissions and expires no sooner than r.MinRemaining and no
	// later than r.TTL from now, unless r.ReplaceExisting is set. See [MaxLinks].
	OpenLink(ctx context.Context, id string, r LinkRequest) (token Secret, l Link, err error)

	// FindLink returns the link with the token, without spending it. A link that was
	// used, has expired or was ended by another is returned with ErrLinkUsed or
	// ErrLinkExpired for some time; later it is ErrNotFound.
	FindLink(ctx context.Context, token Secret) (Link, error)

	// BeginConsent stores an attempt to give consent; see [MaxConsents]. It returns
	// the errors of FindLink.
	BeginConsent(ctx context.Context, c Consent) error

	// TakeConsent returns the attempt with the state, once. It returns ErrNotFound if
	// the attempt is unknown, taken or expired, and ErrOtherBrowser, without taking
	// it, if it began in another browser. The link may be used or expired by then.
	TakeConsent(ctx context.Context, state Secret, browser []byte) (Consent, error)
}

// History keeps what happened to connections. Every write that changes what an
// operator sees adds an [Event] in the same transaction; a failure that repeats the
// previous one does not.
type History interface {
	// Events returns the events of the connection, the latest first, also after its
	// removal. before is HistoryPage.Next of the previous page, or empty; limit is 1
	// to 200, 0 means 50. It returns ErrNotFound and ErrBadQuery.
	Events(ctx context.Context, id, before string, limit int) (HistoryPage, error)

	// Removed returns the id of the connection with the name that was removed last,
	// as long as its history is kept; else ErrNotFound.
	Removed(ctx context.Context, name string) (id string, err error)

	// RecordEvent adds an event that comes with no other change. Of e, only the type,
	// code and message are used.
	RecordEvent(ctx context.Context, id string, e Event) error
}

// Changes reports changes, and keeps facts about the whole store.
type Changes interface {
	// Watch calls changed with the connections that any process, this one included,
	// has created, changed or removed since the store was opened: first the past
	// ones, then each within a second of its change, until ctx ends; then it returns
	// ctx's error. It may report a connection that did not change, and does not
	// report changes of an intent alone. While the store is unavailable it keeps
	// trying, and reports afterwards what it missed.
	Watch(ctx context.Context, changed func([]Change)) error

	// Position returns the store's id, which no other store has, and a number that
	// grows with each change. A copy restored from a backup has a smaller number.
	Position(ctx context.Context) (store string, change int64, err error)

	// Fact returns what SetFact recorded under the name, or "". Facts are about the
	// store's whole environment, such as whether the authorization server's
	// introspection can be trusted.
	Fact(ctx context.Context, name string) (string, error)
	SetFact(ctx context.Context, name, value string) error
}

// Lease is the right to change one credential.
type Lease interface {
	ConnectionID() string
	// Fence is larger than that of every earlier lease on the credential under which
	// anything was written.
	Fence() int64
	// Owner names the process that holds the lease.
	Owner() string
	// Remaining is how long the lease lasts if it is not renewed: a large number for a
	// lease that ends only with its process.
	Remaining() time.Duration
	// Release ends the lease. It does nothing the second time.
	Release() error
}

// Change reports that a connection has changed.
type Change struct {
	ID                string
	RefreshRequested  bool // an operator's request for a refresh is open
	DeliveriesPending bool // the Outbox has deliveries about it
}

// NewConnection describes a connection to create.
type NewConnection struct {
	Name           string
	Kind           Kind
	ExternalTenant string
	Company        Company
	Scope          string
	SharedCompany  bool
	Credential     *NewCredential
}

// Validate returns an error about an invalid name or kind, or a credential that is not
// of the kind.
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

// NewCredential is a credential from outside of the store: a token pair for kind
// oauth, an API key for the others.
type NewCredential struct {
	AccessToken  Secret
	RefreshToken Secret
	ExpiresAt    time.Time // of the access token or the key; zero if unknown
	APIKey       Secret
}

// Validate returns an error if the credential is not of the kind.
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

// Company is the owner of a credential, according to introspection.
type Company struct {
	ID      string // a UUID; empty for an organisation's credential
	Name    string
	Subject string // the URN
}

// IsZero reports whether nothing is known about the company.
func (c Company) IsZero() bool { return c.ID == "" && c.Subject == "" }

// Same reports whether both are known to be the same. The case of ids is ignored
// (RFC 9562 section 4); an organisation is identified by its subject only.
func (c Company) Same(other Company) bool {
	if c.ID != "" || other.ID != "" {
		return strings.EqualFold(c.ID, other.ID)
	}
	return c.Subject != "" && c.Subject == other.Subject
}

// displayName returns the company for messages.
func (c Company) displayName() string { return strconv.Quote(cmp.Or(c.Name, c.ID, c.Subject)) }

// Query selects a page of connections.
type Query struct {
	Limit  int    // 1 to 200; 0 means 50
	Cursor string // Page.Next of the previous page; empty for the first
	Status Status // empty: any
	Kind   Kind   // empty: any
	Reason string // of the status; empty: any
	Search string // part of the name, tenant or company, case-insensitive
	// KeyExpiresBefore selects the connections in use whose API key expires before it,
	// without a staged key that expires later; zero: any.
	KeyExpiresBefore time.Time
}

// Page is one page of a listing.
type Page struct {
	Connections []Connection
	Next        string // the cursor of the next page; empty on the last
}

// Group is a set of connections that are counted together.
type Group struct {
	Kind   Kind
	Status Status
}
