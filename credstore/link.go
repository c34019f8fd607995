package credstore

import "time"

// MaxLinkTTL is the maximum lifetime of a connect link: an unused link should not stay
// valid in a mailbox for years.
const MaxLinkTTL = 90 * 24 * time.Hour

// LinkRequest describes the connect link to open.
type LinkRequest struct {
	TTL       time.Duration // of a new link; above 0, at most MaxLinkTTL
	ReturnURL string        // where the browser goes at the end; empty: nowhere
	// MinRemaining is how long an existing link must be valid to be returned.
	MinRemaining time.Duration
	// ReplaceExisting creates a new link, and ends all others of the connection.
	ReplaceExisting bool
	// AllowOtherCompany and AllowSharedCompany apply to the credential that comes by
	// the link; see [Replacement].
	AllowOtherCompany  bool
	AllowSharedCompany bool
}

// Link is a connect link without its token.
type Link struct {
	ConnectionID string
	CreatedAt    time.Time
	ExpiresAt    time.Time
	UsedAt       time.Time // zero if it is not used

	ReturnURL          string
	AllowOtherCompany  bool
	AllowSharedCompany bool
}

// ConsentTimeout is how long a person has to give consent. A consent that began in time
// may spend a connect link that long after the link has expired.
const ConsentTimeout = 10 * time.Minute

// A connection has at most MaxLinks connect links, used and expired ones included, and
// MaxConsents attempts to give consent; the oldest are deleted.
const (
	MaxLinks    = 20
	MaxConsents = 20
)

// Consent is what the callback must know about an attempt to give consent, in any
// process.
type Consent struct {
	ConnectionID string // set by TakeConsent; BeginConsent takes it from Link
	State        Secret // of the authorization request
	Link         Secret // the token of the connect link
	Verifier     Secret // of PKCE
	Browser      []byte // a hash of a secret that only the browser holds
	RedirectURI  string
	ExpiresAt    time.Time // zero, or later than ConsentTimeout from now: then
}

// Replacement is a new grant or key that replaces any credential of a connection.
type Replacement struct {
	Credential NewCredential // of the connection's kind
	ObtainedAt time.Time     // when the token request was sent; zero for a key
	Scope      string        // empty: unchanged
	// Company is the owner of the credential. Zero: it is unknown, and a connection
	// with a known company becomes CompanyUnverified.
	Company Company
	// CompanyUnverified makes the connection CompanyUnverified in any case.
	CompanyUnverified bool
	LinkToken         Secret // of the link to spend; empty: none
	// AllowOtherCompany lets the connection move to another company.
	AllowOtherCompany bool
	// AllowSharedCompany lets it have a company that is bound to another connection of
	// its kind.
	AllowSharedCompany bool
}

// Summary describes for the history what the link permits, and until when.
func (l Link) Summary() string {
	text := "valid until " + l.ExpiresAt.Format(time.RFC3339)
	if l.AllowOtherCompany {
		text += ", also for another company"
	}
	if l.AllowSharedCompany {
		text += ", also for a company of another connection"
	}
	return text
}
