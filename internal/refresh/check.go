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

// Result is what is known about one part of a credential, in the words of the
// command line and the admin API.
type CheckResult string

// What can be found.
const (
	Valid        CheckResult = "good"
	Expired      CheckResult = "expired"       // by its known expiry, so that nobody was asked
	Rejected     CheckResult = "not_good"      // the API or the authorization server does not know it
	OtherCompany CheckResult = "other_company" // it is good, for another company than the connection's
	NotChecked   CheckResult = "not_asked"     // there is nobody to ask
	CheckFailed  CheckResult = "unknown"       // whoever was asked did not answer, or not credibly
)

// The parts of a credential that are asked about.
const (
	PartAccessToken  = "access_token"
	PartRefreshToken = "refresh_token"
	PartKey          = "api_key"
	PartNextKey      = "next_api_key" // staged
)

// Finding is what was found about one part of a credential.
type Finding struct {
	Part      string
	Result    CheckResult
	CompanyID string // that the part belongs to; empty when nobody said
	Message   string // for people; holds no secret
}

// CredentialCheck is what [Checker.Check] found about a connection.
type CredentialCheck struct {
	Connection credstore.Connection
	Findings   []Finding // empty while there is no credential
}

// Healthy reports whether the connection is active and nothing that requests
// depend on speaks against it. What is found about a staged key does not count,
// since nothing is sent with that yet.
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

// Checker asks about credentials without spending or changing anything. Its
// method may be called by several goroutines and beside a running Manager.
type Checker struct {
	Store  credstore.Store     // required
	API    API                 // required
	Server AuthorizationServer // nil: refresh tokens cannot be asked about
	Now    func() time.Time    // nil: time.Now
}

// checkRounds is how often a check begins anew because the credential has
// changed under it: refreshes are minutes apart.
const checkRounds = 3

// Check asks the API and the authorization server about all that the connection
// with the id has. Its errors are those of [credstore.Store.Read]; that somebody
// could not be asked is a finding.
func (c Checker) Check(ctx context.Context, id string) (CredentialCheck, error) {
	state, err := c.Store.Connections.Read(ctx, id)
	for round := 1; err == nil; round++ {
		findings := c.findings(ctx, state)
		asked := state.Credential.Version
		// A token that was refreshed while it was asked about is dead for a good
		// reason.
		state, err = c.Store.Connections.Read(ctx, id)
		if err == nil && (state.Credential.Version == asked || round == checkRounds) {
			return CredentialCheck{Connection: state.Connection, Findings: findings}, nil
		}
	}
	return CredentialCheck{}, fmt.Errorf("checking a connection: %w", err)
}

func (c Checker) findings(ctx context.Context, state credstore.State) []Finding {
	var found []Finding
	conn, cred := state.Connection, state.Credential
	if !cred.AccessToken.IsZero() {
		found = append(found, c.aboutAccess(ctx, conn, cred))
	}
	if !cred.RefreshToken.IsZero() {
		found = append(found, c.aboutRefresh(ctx, cred.RefreshToken))
	}
	if !cred.APIKey.IsZero() {
		found = append(found, c.askAPI(ctx, PartKey, conn, cred))
	}
	if !cred.NextKey.IsZero() {
		found = append(found, c.askAPI(ctx, PartNextKey, conn, credstore.Credential{APIKey: cred.NextKey}))
	}
	return found
}

func (c Checker) aboutAccess(ctx context.Context, conn credstore.Connection, cred credstore.Credential) Finding {
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	if !cred.ExpiresAt.IsZero() && !now().Before(cred.ExpiresAt) {
		return Finding{Part: PartAccessToken, Result: Expired, Message: "it has expired; the next request has it refreshed"}
	}
	return c.askAPI(ctx, PartAccessToken, conn, cred)
}

func (c Checker) askAPI(ctx context.Context, part string, conn credstore.Connection, cred credstore.Credential) Finding {
	who, err := c.API.Introspect(ctx, pleo.AuthorizationHeader(conn.Kind, cred))
	f := Finding{Part: part, Result: Valid, CompanyID: who.CompanyID, Message: "the API accepts it"}
	switch {
	case errors.Is(err, pleo.ErrUnauthorized):
		f.Result, f.Message = Rejected, "the API does not accept it"
	case err != nil:
		f.Result, f.Message = CheckFailed, fmt.Sprintf("the API could not be asked: %v", err)
	case conn.CompanyID != "" && who.CompanyID != "" && !strings.EqualFold(conn.CompanyID, who.CompanyID):
		f.Result, f.Message = OtherCompany, fmt.Sprintf("it belongs to company %s, and the connection to %s", who.CompanyID, conn.CompanyID)
	}
	return f
}

func (c Checker) aboutRefresh(ctx context.Context, token credstore.Secret) Finding {
	f := Finding{Part: PartRefreshToken, Result: CheckFailed}
	if c.Server == nil {
		f.Message = "nobody was asked, since oauth.client_id is not set"
		return f
	}
	switch newIntrospection(c.Server, c.Store).ask(ctx, token) {
	case tokenActive:
		f.Result, f.Message = Valid, "the authorization server calls it active"
	case tokenInactive:
		f.Result, f.Message = Rejected, "the authorization server calls it inactive"
	case tokenUntrusted:
		f.Message = "the authorization server calls it inactive, but has not shown yet that it knows refresh tokens"
	case introspectionUnsupported:
		f.Result, f.Message = NotChecked, "the authorization server does not tell this client about tokens"
	case introspectionFailed:
		f.Message = "the authorization server could not be asked"
	}
	return f
}
