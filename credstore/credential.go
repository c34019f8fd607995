package credstore

import "time"

// Credential is the secret state of one connection: an OAuth token pair, or an
// API key.
type Credential struct {
	ConnectionID string
	Version      int64 // counts the saved changes, from 1; 0 means that there is none

	AccessToken  Secret
	RefreshToken Secret
	ExpiresAt    time.Time // of the access token; zero when it has no known expiry
	ObtainedAt   time.Time // when the token request was sent

	// A key is used until the API refuses it: when it is said to end, which is
	// Connection.ExpiresAt for APIKey, decides nothing.
	APIKey           Secret
	NextKey          Secret    // staged: takes APIKey's place once that is refused
	NextKeyExpiresAt time.Time // zero when it has no known end

	// ForcedAt and ForcedStreak pace the refreshes that a 401 asked for, across
	// processes: when the last one was made, and how many came in quick
	// succession.
	ForcedAt     time.Time
	ForcedStreak int

	// RejectedAt is when the authorization server refused RefreshToken; zero
	// while it has not. The refused token is kept for an operator's retry and
	// forgotten after [RejectedTokenRetention].
	RejectedAt time.Time
}

// RejectedTokenRetention is how long a store keeps a refused refresh token, sealed.
const RejectedTokenRetention = 7 * 24 * time.Hour

// Parent names this credential as the one that a successor is obtained from.
func (c Credential) Parent() Parent {
	return Parent{ConnectionID: c.ConnectionID, Version: c.Version, RefreshHash: c.RefreshToken.Hash()}
}

// Parent names the credential that a new pair was obtained from. Two parents
// are the same credential exactly when they are ==.
type Parent struct {
	ConnectionID string
	Version      int64
	RefreshHash  Hash
}

// Successor is the outcome of a refresh, or of a consent that was cut short: what
// takes the place of its parent.
type Successor struct {
	Parent       Parent
	AccessToken  Secret // empty when only the refresh token could be read from a broken answer
	RefreshToken Secret // the parent's own, when the answer had none
	ExpiresAt    time.Time
	ObtainedAt   time.Time
	Scope        string // empty: as before

	// Consent says that it is no refresh that brought it, but a new consent
	// that may be of another company.
	Consent bool

	// ForcedAt and ForcedStreak are stored beside the pair, see [Credential].
	ForcedAt     time.Time
	ForcedStreak int

	// Setback, if not nil, says that the pair is of no use yet: the status
	// becomes degraded instead of active. Unusual in it has no meaning.
	RefreshFailure *RefreshFailure
}

// Outcome says what is known about a refresh that an intent announced.
type Outcome string

// An intent is Sending from before its refresh token leaves until its outcome
// is recorded; an intent found Sending whose owner is gone was left by a crash.
// It is Unknown once the answer is known to be lost.
const (
	OutcomePending Outcome = "sending"
	OutcomeUnknown Outcome = "unknown"
)

// Intent is the durable note "I am about to spend this refresh token", written
// before the token is sent. A connection has at most one.
type Intent struct {
	Parent  Parent
	Owner   string    // the process that wrote it
	Fence   int64     // of the lease it was written under
	At      time.Time // when the latest presentation was announced
	FirstAt time.Time // when the first one was
	Outcome Outcome

	// Attempts counts how often the token has been announced; above 1 only
	// after unknown outcomes.
	Attempts int
	// NextAt is when the token may be presented again, once Outcome is Unknown.
	NextAt time.Time
}

// State is all that a refresher decides on: one connection with its credential
// and intent, read in one transaction.
type State struct {
	Connection Connection
	Credential Credential // zero while there is none
	Intent     *Intent    // nil when none is outstanding

	// RetryAt is when a refresh may be tried again after an answered failure;
	// zero when nothing stands in the way.
	RetryAt time.Time
	// RequestedAt is when an operator asked for a refresh that has not been
	// settled yet; zero when nobody has.
	RequestedAt time.Time
	// UnexpectedResponses counts the answers in a row that no rule names, and UnexpectedSince
	// is when the first of them came.
	UnexpectedResponses int
	UnexpectedSince     time.Time
}

// Parent names the stored credential, as version 0 where there is none yet.
func (s State) Parent() Parent {
	p := s.Credential.Parent()
	p.ConnectionID = s.Connection.ID
	return p
}
