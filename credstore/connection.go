package credstore

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Kind says what sort of credential a connection has.
type Kind string

// The kinds of credential that Pleo knows.
const (
	OAuth         Kind = "oauth"
	IntegratedKey Kind = "integrated_key"
	StandaloneKey Kind = "standalone_key"
)

// Kinds lists every kind.
func Kinds() []Kind { return []Kind{OAuth, IntegratedKey, StandaloneKey} }

// IsKey reports whether credentials of the kind are API keys.
func (k Kind) IsKey() bool { return k == IntegratedKey || k == StandaloneKey }

// ParseKind returns the kind called s.
func ParseKind(s string) (Kind, error) {
	for _, k := range Kinds() {
		if string(k) == s {
			return k, nil
		}
	}
	return "", fmt.Errorf("unknown kind %q: use oauth, integrated_key or standalone_key", s)
}

// Status says whether a connection can be used, and if not, who can help.
type Status string

// The statuses. A connection is Degraded while its refreshes fail and it may
// still recover by itself; in ReauthorizationRequired only a person can mend it.
const (
	Pending                 Status = "pending"
	Active                  Status = "active"
	Degraded                Status = "degraded"
	ReauthorizationRequired Status = "reauthorization_required"
	Disabled                Status = "disabled"
)

// Statuses lists every status.
func Statuses() []Status {
	return []Status{Pending, Active, Degraded, ReauthorizationRequired, Disabled}
}

// Reasons for a status, as users see them.
const (
	ReasonNoCredential         = "no_credential"           // pending
	ReasonRefreshTokenRejected = "refresh_token_rejected"  // the authorization server rejected the refresh token
	ReasonUnknownOutcome       = "refresh_outcome_unknown" // rejected after an earlier attempt with an unknown outcome
	ReasonRefreshTokenInactive = "refresh_token_inactive"  // according to token introspection
	ReasonUnexpectedResponse   = "unexpected_response"     // repeated responses that no rule covers
	ReasonUnavailable          = "refresh_unavailable"     // degraded: the authorization server is unavailable or busy
	ReasonClientRejected       = "oauth_client_rejected"   // degraded: the client id or secret is wrong
	ReasonKeyRejected          = "key_rejected"            // the API rejected the key
	ReasonRetryRequested       = "retry_requested"         // degraded: an operator has a rejected refresh token sent again
	ReasonAccessTokenMissing   = "access_token_missing"    // degraded: a refresh returned a refresh token but no access token
	ReasonCircuitBreakerOpen   = "circuit_breaker_open"    // degraded: rejected while many connections were
	ReasonUninstalled          = "uninstalled"             // DELETE /v1/installations/me succeeded
	ReasonCompanyConflict      = "company_conflict"        // the credential belongs to another company
	ReasonOperator             = "operator"                // disabled by an operator
	ReasonExported             = "exported"                // disabled: its secrets were exported
)

// Connection is a named link between one Pleo company and one tenant of the
// external system. It holds nothing secret. Zero times and empty strings mean
// that there is nothing to say.
type Connection struct {
	ID   string // immutable; never used again, even when the name is
	Name string // a label: what clients call the connection
	Kind Kind

	Status    Status
	Reason    string
	LastError *Failure // the latest failure to get or use a credential; nil after a success

	CompanyID     string // of Pleo, a UUID; empty until it is learned
	CompanyName   string
	Subject       string // the URN that introspection gave, e.g. urn:pleo:company:UUID
	SharedCompany bool   // the company may be bound to other connections of this kind too
	// Unproven: the credential comes from a consent of which is not known whether
	// the connection may have its company. It must not be sent before Identify has
	// settled that.
	CompanyUnverified bool
	ExternalTenant    string
	Scope             string // as granted, space-separated

	Version     int64     // of the credential; 0 while there is none
	ExpiresAt   time.Time // of the access token, or of the key where that is known
	RefreshedAt time.Time // when the stored token pair was obtained
	CreatedAt   time.Time
}

// Company returns what is known of the company that the connection is linked to.
func (c Connection) Company() Company {
	return Company{ID: c.CompanyID, Name: c.CompanyName, Subject: c.Subject}
}

// Failure is the latest thing that went wrong with a connection, for people.
// Message never holds a secret. Both texts are kept as [CleanText] gives them.
type Failure struct {
	Code    string
	Message string
	At      time.Time
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~:-]{0,127}$`)

// ValidName reports whether name can be the name of a connection: 1 to 128
// letters, digits and . _ ~ : -, the first a letter or a digit.
func ValidName(name string) bool { return namePattern.MatchString(name) }

const maxTenantLength = 256 // bytes of an external tenant

// ValidateTenant says what is wrong with the external tenant of a connection: it
// has at most 256 bytes and no control characters, and may be empty. Nor has it
// U+FFFD, or what is read as that: of two such tenants nobody knows whether they
// were one.
func ValidateTenant(tenant string) error {
	if len(tenant) > maxTenantLength || strings.ContainsFunc(tenant, unicode.IsControl) {
		return fmt.Errorf("the external tenant is not usable: it takes up to %d bytes without control characters", maxTenantLength)
	}
	if strings.ContainsRune(tenant, utf8.RuneError) { // also where it is no UTF-8
		return errors.New("the external tenant is not usable: it holds half a character, or U+FFFD, which stands for a lost one")
	}
	return nil
}
