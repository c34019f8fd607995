package credstore

import "time"

// Credential is the secret state of one connection: an OAuth token pair or an API key.
type Credential struct {
	ConnectionID string
	Version      int64 // counts the saved changes, from 1; 0 if there is no credential

	AccessToken  Secret
	RefreshToken Secret
	ExpiresAt    time.Time // of the access token; zero if unknown
	ObtainedAt   time.Time // when the token request was sent

	// A key is used until the API rejects it. Its announced expiry, which is
	// Connection.ExpiresAt, decides nothing.
	APIKey           Secret
	NextKey          Secret    // staged: replaces APIKey once that is rejected
	NextKeyExpiresAt time.Time // zero if unknown

	// ForcedAt and ForcedStreak limit the rate of refreshes forced by a 401, across
	// processes: when the last one was sent, and how many came in quick succession.
	ForcedAt     time.Time
	ForcedStreak int

	// RejectedAt is when the authorization server rejected RefreshToken; zero if it
	// has not. A rejected token is kept for an operator's retry, and deleted after
	// [RejectedTokenRetention].
	RejectedAt time.Time
}

// RejectedTokenRetention is how long a store keeps a rejected refresh token, encrypted.
const RejectedTokenRetention = 7 * 24 * time.Hour

// Parent returns this credential as the parent of its successor.
func (c Credential) Parent() Parent {
	return Parent{ConnectionID: c.ConnectionID, Version: c.Version, RefreshHash: c.RefreshToken.Hash()}
}

// Parent identifies the credential that a new pair was obtained from. Two parents are
// the same credential exactly if they are ==.
type Parent struct {
	ConnectionID string
	Version      int64
	RefreshHash  Hash
}

// Successor is the result of a refresh, or of a consent that was interrupted: what
// replaces its parent.
type Successor struct {
	Parent       Parent
	AccessToken  Secret // empty if a truncated response had a readable refresh token only
	RefreshToken Secret // the parent's own if the response had none
	ExpiresAt    time.Time
	ObtainedAt   time.Time
	Scope        string // empty: unchanged

	// Consent is set if the pair comes from a new consent, possibly for another
	// company, and not from a refresh.
	Consent bool

	// ForcedAt and ForcedStreak are stored with the pair, see [Credential].
	ForcedAt     time.Time
	ForcedStreak int

	// RefreshFailure, if not nil, is why the pair cannot be used yet: the status
	// becomes degraded instead of active. Unexpected in it has no meaning.
	RefreshFailure *RefreshFailure
}

// RefreshFailure is a refresh that failed without the credential being rejected.
type RefreshFailure struct {
	Failure    Failure
	Reason     string    // for status degraded
	RetryAt    time.Time // when to try again
	Unexpected bool      // the response is one that no rule covers
}

// Outcome says what is known about an intended refresh.
type Outcome string

// An intent is OutcomePending from before its refresh token is sent until its outcome
// is recorded: a pending intent without an owner was left by a crash. It is
// OutcomeUnknown once the response is known to be lost.
const (
	OutcomePending Outcome = "sending"
	OutcomeUnknown Outcome = "unknown"
)

// Intent is the durable record "this refresh token is about to be sent", written
// before the token is sent. A connection has at most one.
type Intent struct {
	Parent   Parent
	Owner    string    // the process that wrote it
	Fence    int64     // of the lease it was written under
	At       time.Time // of the latest attempt
	FirstAt  time.Time // of the first one
	Outcome  Outcome
	Attempts int       // above 1 only after unknown outcomes
	NextAt   time.Time // when the token may be sent again, once Outcome is OutcomeUnknown
}

// State is one connection with its credential and intent, read in one transaction:
// everything that a refresh depends on.
type State struct {
	Connection Connection
	Credential Credential // zero if there is none
	Intent     *Intent    // nil if none is outstanding

	// RetryAt is when a refresh may be tried again after a response that was a
	// failure; zero: now.
	RetryAt time.Time
	// RequestedAt is when an operator requested a refresh that has not completed; zero
	// if there is no such request.
	RequestedAt time.Time
	// UnexpectedResponses counts the consecutive responses that no rule covers, from
	// the one received at UnexpectedSince.
	UnexpectedResponses int
	UnexpectedSince     time.Time
}

// Parent returns the stored credential as a parent, with version 0 if there is none.
func (s State) Parent() Parent {
	p := s.Credential.Parent()
	p.ConnectionID = s.Connection.ID
	return p
}
