// Package apikey checks, stages and promotes API keys.
//
// A key is never refreshed. It is in use until the API rejects it: a 401 to a
// request proves nothing about the key, a 401 to a credential check does. Then the
// staged key takes its place, if there is one that belongs to the same company;
// otherwise the connection requires reauthorization.
package apikey

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// otherEnvironmentTimeout bounds the check of a key in the other environment: its
// result only makes a message better.
const otherEnvironmentTimeout = 5 * time.Second

const codeKeyRejected = "key_rejected"

var (
	// ErrWrongEnvironment says that the key is not known to the API, but to that of
	// Pleo's other environment. It is not a [pleo.ErrUnauthorized].
	ErrWrongEnvironment = errors.New("the key belongs to Pleo's other environment")
	// ErrSameKey says that the key to be staged is the current one.
	ErrSameKey = errors.New("the connection already has this key, so it cannot be the next one")

	errNoAPI        = errors.New("there is no API to check the key with")
	errNoNextKey    = errors.New("no next key is staged")
	errOtherCompany = errors.New("the staged key belongs to another company, or the connection's company is unknown")
)

// MissingScopesError says that a valid key does not have all permissions.
type MissingScopesError struct {
	Missing []string
}

func (e *MissingScopesError) Error() string {
	return "the key lacks the permissions " + strings.Join(e.Missing, " ")
}

// Change is a new API key for a connection.
type Change struct {
	ConnectionID string
	Key          credstore.Secret
	ExpiresAt    time.Time // zero: unknown
	// Stage keeps the key beside the current one, which it replaces when the API
	// rejects that. A staged key must belong to the connection's company; no connect
	// link is used for it.
	Stage bool
	// Scopes are the permissions that the key must have. Nil: any.
	Scopes []string
	// LinkToken is the connect link to be used up. Empty: none.
	LinkToken credstore.Secret
	// AllowOtherCompany lets the connection change to another company.
	AllowOtherCompany bool
	// AllowSharedCompany lets it have the company of another connection.
	AllowSharedCompany bool
}

// Expiry returns when a key expires that is valid up to and including the day,
// such as 2031-01-31, in UTC.
func Expiry(day string) (time.Time, error) {
	last, err := time.Parse(time.DateOnly, day)
	if err != nil {
		return time.Time{}, fmt.Errorf("parsing the last day of a key: %w", err)
	}
	return last.AddDate(0, 0, 1), nil
}

// Trim returns a key that was pasted into a form without the spaces and quotation
// marks that people copy along with it.
func Trim(text string) string {
	return strings.Trim(text, " \t\r\n\"'`\u00a0\u200b\ufeff")
}

// API checks credentials, as [pleo.API] does.
type API interface {
	Introspect(ctx context.Context, authorization credstore.Secret) (pleo.Identity, error)
}

// Store is what the package needs of a credential store.
type Store interface {
	credstore.Leaser
	StageKey(ctx context.Context, id string, key credstore.Secret, expiresAt time.Time) error
	PromoteKey(ctx context.Context, l credstore.Lease, parent credstore.Parent) (credstore.Connection, error)
	MarkReauthorizationRequired(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.Failure, reason string, dropAccess bool) error
	Reinstate(ctx context.Context, l credstore.Lease, parent credstore.Parent) error
}

// Keys checks, stages and promotes the keys in a store. Its methods may be called
// by several goroutines at once.
type Keys struct {
	Store            Store
	API              API    // nil: no key can be checked
	OtherEnvironment API    // nil: a key of Pleo's other environment is only called unauthorized
	Owner            string // of leases
	Now              func() time.Time
	Logger           *zap.Logger
}

// Verify checks a new key with the API; header is the value of the Authorization
// header with the key. It returns [pleo.ErrUnauthorized] or [ErrWrongEnvironment]
// for a key that the API does not know, a [MissingScopesError] for one without the
// scopes, and other errors when the API cannot tell.
func (k *Keys) Verify(ctx context.Context, header credstore.Secret, scopes []string) (pleo.Identity, error) {
	if k.API == nil {
		return pleo.Identity{}, errNoAPI
	}
	identity, err := k.API.Introspect(ctx, header)
	if err == nil && strings.EqualFold(identity.AuthMethod, "NONE") {
		err = fmt.Errorf("introspecting a key: %w", pleo.ErrUnauthorized) // the response is about no credential
	}
	if errors.Is(err, pleo.ErrUnauthorized) && k.knownElsewhere(ctx, header) {
		err = ErrWrongEnvironment
	}
	if err != nil {
		return identity, err
	}
	if missing := pleo.MissingScopes(scopes, identity.Scope); len(missing) > 0 {
		return identity, &MissingScopesError{Missing: missing}
	}
	return identity, nil
}

func (k *Keys) knownElsewhere(ctx context.Context, header credstore.Secret) bool {
	if k.OtherEnvironment == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, otherEnvironmentTimeout)
	defer cancel()
	_, err := k.OtherEnvironment.Introspect(ctx, header)
	return err == nil
}

// Stage stages a key that belongs to the company and has been verified. It returns
// a [credstore.OtherCompanyError] if the connection has another company, and the
// errors of the store.
func (k *Keys) Stage(ctx context.Context, c Change, company credstore.Company) (credstore.Connection, error) {
	state, err := k.Store.Read(ctx, c.ConnectionID)
	if err != nil {
		return credstore.Connection{}, err
	}
	if have := state.Connection.Company(); !have.IsZero() && !have.Same(company) {
		return credstore.Connection{}, &credstore.OtherCompanyError{Have: have, Got: company}
	}
	if err := k.Store.StageKey(ctx, c.ConnectionID, c.Key, c.ExpiresAt); err != nil {
		return credstore.Connection{}, err
	}
	return state.Connection, nil
}

// Recheck checks the connection's current key, which the API has rejected or had
// rejected before, and records the result: a staged key is promoted, the
// connection requires reauthorization, or a key that is accepted again is
// reinstated. It does nothing if the credential has changed, or if the API cannot
// tell. It reports whether the stored state may have changed.
func (k *Keys) Recheck(ctx context.Context, conn credstore.Connection, header credstore.Secret) (changed bool, err error) {
	_, err = k.API.Introspect(ctx, header)
	record := k.reject
	switch {
	case errors.Is(err, pleo.ErrUnauthorized):
	case err == nil && conn.Reason == credstore.ReasonKeyRejected:
		record = k.reinstate
	default:
		return false, err
	}
	return true, credstore.UnderLease(ctx, k.Store, conn.ID, k.Owner, func(ctx context.Context, l credstore.Lease, s credstore.State) error {
		if s.Credential.Version != conn.Version {
			return nil
		}
		return record(ctx, l, s)
	})
}

// reject promotes the staged key in place of the rejected one. If it cannot, the
// connection requires reauthorization.
func (k *Keys) reject(ctx context.Context, lease credstore.Lease, state credstore.State) error {
	parent, log := state.Credential.Parent(), k.Logger.With(zap.String("connection", state.Connection.Name))
	err := k.checkNext(ctx, state)
	if err == nil {
		if _, err = k.Store.PromoteKey(ctx, lease, parent); err == nil {
			log.Info("the API rejects the key; promoted the staged key")
		}
		return err
	}
	if state.Connection.Status == credstore.ReauthorizationRequired {
		return nil // as before
	}
	log.Error("reauthorization required: the API rejects the key", zap.NamedError("next_key", err))
	return k.Store.MarkReauthorizationRequired(ctx, lease, parent, credstore.Failure{
		Code: codeKeyRejected, Message: "the API returns 401 for the key", At: k.Now(),
	}, credstore.ReasonKeyRejected, false)
}

// checkNext returns nil if the staged key is valid and belongs to the connection's
// company.
func (k *Keys) checkNext(ctx context.Context, state credstore.State) error {
	conn, next := state.Connection, state.Credential.NextKey
	if next.IsZero() {
		return errNoNextKey
	}
	identity, err := k.API.Introspect(ctx, pleo.AuthorizationHeader(conn.Kind, credstore.Credential{APIKey: next}))
	if err != nil {
		return err
	}
	// A key of an unknown company could be any company's, and a swapped credential
	// books one company's expenses in another's ledger.
	if !conn.Company().Same(identity.Company()) {
		return errOtherCompany
	}
	return nil
}

// reinstate takes back the rejection of a key that the API accepts again.
func (k *Keys) reinstate(ctx context.Context, lease credstore.Lease, state credstore.State) error {
	if state.Connection.Reason != credstore.ReasonKeyRejected {
		return nil
	}
	k.Logger.Info("the API accepts the key again", zap.String("connection", state.Connection.Name))
	return k.Store.Reinstate(ctx, lease, state.Credential.Parent())
}
