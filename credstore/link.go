package credstore

import "time"

// MaxLinkTTL is how long a connect link can be used at most: one that is never
// used should not lie in a mailbox for years.
const MaxLinkTTL = 90 * 24 * time.Hour

// LinkRequest is what a connect link is made of.
type LinkRequest struct {
	TTL       time.Duration // how long it can be used; above 0, at most MaxLinkTTL
	ReturnURL string        // where the browser goes at the end; empty: nowhere
	// MinRemaining is how long a link that is there has to last for not making another.
	MinRemaining time.Duration
	// ReplaceExisting has a new link made, and ends all others of the connection.
	ReplaceExisting bool
	// AllowOtherCompany and AllowSharedCompany are passed on to what is done
	// with the link; see [Replacement].
	AllowOtherCompany  bool
	AllowSharedCompany bool
}

// Link is what a store knows of a connect link, but for its token.
type Link struct {
	ConnectionID string
	CreatedAt    time.Time
	ExpiresAt    time.Time
	UsedAt       time.Time // zero while it is not used

	ReturnURL          string
	AllowOtherCompany  bool
	AllowSharedCompany bool
}

// ConsentTimeout is how long a person has at most to give consent. A connect link
// may be spent for as long after it has expired by itself.
const ConsentTimeout = 10 * time.Minute

// A connection has at most MaxLinks connect links, those that cannot be used
// any more included, and MaxConsents attempts to get consent; the oldest go.
const (
	MaxLinks    = 20
	MaxConsents = 20
)

// Consent is what the callback has to know of an attempt to get consent, in
// whichever process it lands.
type Consent struct {
	ConnectionID string // given by TakeConsent; BeginConsent takes it from Link
	State        Secret // of the authorization request
	Link         Secret // the token of the connect link
	Verifier     Secret // of PKCE
	Browser      []byte // a hash of what only the browser that began it holds
	RedirectURI  string
	ExpiresAt    time.Time // zero, or later than ConsentTimeout from now: that
}

// Replacement is a new grant, or a new key, that takes the place of whatever
// credential a connection has.
type Replacement struct {
	Credential NewCredential // of the connection's kind
	ObtainedAt time.Time     // when the token request was sent; zero for a key
	Scope      string        // empty: as before
	// Company is whom the credential belongs to. Zero: that is not known, and a
	// connection whose company was known is Unproven then.
	Company Company
	// CompanyUnverified has the connection be so: nobody could be asked.
	CompanyUnverified bool
	LinkToken         Secret // spent with it; empty: no link is
	// AllowOtherCompany lets the connection move to another company than it
	// belonged to.
	AllowOtherCompany bool
	// AllowSharedCompany lets it have a company that is bound to another
	// connection of its kind.
	AllowSharedCompany bool
}

// Summary says for the history what can be done with the link, and until when.
func (l Link) Summary() string {
	text := "it can be used until " + l.ExpiresAt.Format(time.RFC3339)
	if l.AllowOtherCompany {
		text += ", also for another company than before"
	}
	if l.AllowSharedCompany {
		text += ", also for a company that another connection has"
	}
	return text
}
