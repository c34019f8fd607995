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

// Kind is the kind of credential that a connection has.
type Kind string

// The kinds of credential that Pleo knows.
const (
	OAuth         Kind = "oauth"
	IntegratedKey Kind = "integrated_key"
	StandaloneKey Kind = "standalone_key"
)

// Kinds returns all kinds.
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

// Status says whether a connection can be used.
type Status string

// The statuses. A connection is Degraded while its refreshes fail but it may recover by
// itself; in ReauthorizationRequired only a person can fix it. [Apply] decides on them.
const (
	Pending                 Status = "pending"
	Active                  Status = "active"
	Degraded                Status = "degraded"
	ReauthorizationRequired Status = "reauthorization_required"
	Disabled                Status = "disabled"
)

// Statuses returns all statuses.
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

// Connection is a named link between one Pleo company and one tenant of the external
// system. It holds nothing secret. Zero times and empty strings mean unknown or none.
type Connection struct {
	ID   string // immutable, and unlike the name never used again
	Name string // a label: what clients call the connection
	Kind Kind

	Status    Status
	Reason    string
	LastError *Failure // of the latest attempt to get or use a credential; nil if it succeeded

	CompanyID     string // a UUID; empty until it is learned
	CompanyName   string
	Subject       string // the URN that introspection returned, such as urn:pleo:company:UUID
	SharedCompany bool   // the company may be bound to other connections of this kind too
	// CompanyUnverified: the credential comes from a consent, and whether the
	// connection may have its company is unknown. It must not be sent before
	// [Connections.SetCompany] has verified the company.
	CompanyUnverified bool
	ExternalTenant    string
	Scope             string // as granted, space-separated

	Version     int64     // of the credential; 0 if there is none
	ExpiresAt   time.Time // of the access token, or of the key if known
	RefreshedAt time.Time // when the stored token pair was obtained
	CreatedAt   time.Time
}

// Company returns what is known about the company of the connection.
func (c Connection) Company() Company {
	return Company{ID: c.CompanyID, Name: c.CompanyName, Subject: c.Subject}
}

// Failure is an error for operators. It holds nothing secret. Both texts are stored as
// [CleanText] returns them.
type Failure struct {
	Code    string
	Message string
	At      time.Time
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~:-]{0,127}$`)

// ValidName reports whether name can be the name of a connection: 1 to 128 letters,
// digits and . _ ~ : -, the first a letter or a digit.
func ValidName(name string) bool { return namePattern.MatchString(name) }

const maxTenantLength = 256 // bytes of an external tenant

// ValidateTenant returns an error if tenant cannot be the external tenant of a
// connection. It may be empty, and has at most 256 bytes, no control characters and no
// invalid UTF-8. U+FFFD is rejected too: it is what different invalid texts become.
func ValidateTenant(tenant string) error {
	if len(tenant) > maxTenantLength || strings.ContainsFunc(tenant, unicode.IsControl) {
		return fmt.Errorf("the external tenant must have at most %d bytes and no control characters", maxTenantLength)
	}
	if strings.ContainsRune(tenant, utf8.RuneError) { // also what invalid UTF-8 is read as
		return errors.New("the external tenant must not have invalid UTF-8 or the replacement character U+FFFD")
	}
	return nil
}
