package refresh

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// CheckResult is the result of checking one part of a credential, as the command
// line and the JSON API name it.
type CheckResult string

// The results of a check.
const (
	Valid        CheckResult = "valid"
	Expired      CheckResult = "expired"       // by its known expiry; it was not checked
	Rejected     CheckResult = "rejected"      // the API or the authorization server does not know it
	OtherCompany CheckResult = "other_company" // it is valid, but for another company than the connection's
	NotChecked   CheckResult = "not_checked"   // the authorization server does not support it
	CheckFailed  CheckResult = "unknown"       // the server did not respond, or not credibly
)

// The parts of a credential.
const (
	PartAccessToken  = "access_token"
	PartRefreshToken = "refresh_token"
	PartKey          = "api_key"
	PartNextKey      = "next_api_key" // staged
)

// Finding is the result for one part of a credential.
type Finding struct {
	Part      string
	Result    CheckResult
	CompanyID string // that the part belongs to; empty if unknown
	Message   string // for people; holds no secret
}

// CredentialCheck is the result of [Checker.Check].
type CredentialCheck struct {
	Connection credstore.Connection
	Findings   []Finding // empty while there is no credential
}

// Healthy reports whether the connection is active and its credential passed the
// check. A staged key does not count, since it is not in use.
func (c CredentialCheck) Healthy() bool {
	if c.Connection.Status != credstore.Active {
		return false
	}
	for _, f := range c.Findings {
		switch f.Result {
		case Rejected, OtherCompany, CheckFailed:
			if f.Part != PartNextKey {
				return false
			}
		}
	}
	return true
}

// Checker checks credentials and changes nothing. Its method may be called by
// several goroutines, and while a Manager is running.
type Checker struct {
	Connections interface { // required
		Read(ctx context.Context, id string) (credstore.State, error)
	}
	Facts  factStore           // required; [credstore.Changes]
	API    API                 // required
	Server AuthorizationServer // nil: refresh tokens are not checked
	Now    func() time.Time    // nil: time.Now
}

// maxCheckRounds is how often a check is repeated because the credential has
// changed meanwhile: refreshes are minutes apart.
const maxCheckRounds = 3

// Check checks all parts of the connection's credential with the API and the
// authorization server. Its errors are those of reading the store; a server that
// does not respond is a finding.
func (c Checker) Check(ctx context.Context, id string) (CredentialCheck, error) {
	state, err := c.Connections.Read(ctx, id)
	for round := 1; err == nil; round++ {
		findings := c.check(ctx, state)
		checked := state.Credential.Version
		// A token that was refreshed during the check is rejected for that reason.
		state, err = c.Connections.Read(ctx, id)
		if err == nil && (state.Credential.Version == checked || round == maxCheckRounds) {
			return CredentialCheck{Connection: state.Connection, Findings: findings}, nil
		}
	}
	return CredentialCheck{}, fmt.Errorf("checking a connection: %w", err)
}

func (c Checker) check(ctx context.Context, state credstore.State) []Finding {
	var findings []Finding
	conn, cred := state.Connection, state.Credential
	if !cred.AccessToken.IsZero() {
		findings = append(findings, c.checkAccessToken(ctx, conn, cred))
	}
	if !cred.RefreshToken.IsZero() {
		findings = append(findings, c.checkRefreshToken(ctx, cred.RefreshToken))
	}
	if !cred.APIKey.IsZero() {
		findings = append(findings, c.checkWithAPI(ctx, PartKey, conn, cred))
	}
	if !cred.NextKey.IsZero() {
		findings = append(findings, c.checkWithAPI(ctx, PartNextKey, conn, credstore.Credential{APIKey: cred.NextKey}))
	}
	return findings
}

func (c Checker) checkAccessToken(ctx context.Context, conn credstore.Connection, cred credstore.Credential) Finding {
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	if !cred.ExpiresAt.IsZero() && !now().Before(cred.ExpiresAt) {
		return Finding{Part: PartAccessToken, Result: Expired, Message: "it has expired; the next request refreshes it"}
	}
	return c.checkWithAPI(ctx, PartAccessToken, conn, cred)
}

func (c Checker) checkWithAPI(ctx context.Context, part string, conn credstore.Connection, cred credstore.Credential) Finding {
	identity, err := c.API.Introspect(ctx, pleo.AuthorizationHeader(conn.Kind, cred))
	f := Finding{Part: part, Result: Valid, CompanyID: identity.CompanyID, Message: "the API accepts it"}
	switch {
	case errors.Is(err, pleo.ErrUnauthorized):
		f.Result, f.Message = Rejected, "the API rejects it"
	case err != nil:
		f.Result, f.Message = CheckFailed, fmt.Sprintf("the API could not check it: %v", err)
	case conn.CompanyID != "" && identity.CompanyID != "" && !strings.EqualFold(conn.CompanyID, identity.CompanyID):
		f.Result, f.Message = OtherCompany, fmt.Sprintf("it belongs to company %s, and the connection to %s", identity.CompanyID, conn.CompanyID)
	}
	return f
}

func (c Checker) checkRefreshToken(ctx context.Context, token credstore.Secret) Finding {
	f := Finding{Part: PartRefreshToken, Result: CheckFailed}
	if c.Server == nil {
		f.Message = "it was not checked, since oauth.client_id is not set"
		return f
	}
	introspection := &introspection{server: c.Server, facts: c.Facts}
	switch introspection.check(ctx, token) {
	case tokenActive:
		f.Result, f.Message = Valid, "the authorization server reports it as active"
	case tokenInactive:
		f.Result, f.Message = Rejected, "the authorization server reports it as inactive"
	case tokenUntrusted:
		f.Message = "the authorization server reports it as inactive, but has not shown yet that it knows refresh tokens"
	case introspectionUnsupported:
		f.Result, f.Message = NotChecked, "the authorization server does not support token introspection for this client"
	case introspectionFailed:
		f.Message = "the authorization server could not check it"
	}
	return f
}
