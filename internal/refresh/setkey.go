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

// KeyChange is an API key that somebody has given, and what is to be done with it.
type KeyChange struct {
	ConnectionID string
	Key          credstore.Secret
	ExpiresAt    time.Time // when the key ends; zero: not known
	// Stage stages the key: it takes the place of the present one once that is
	// refused.
	Stage bool
	// Scopes are what the key must allow. Nil: whatever it does.
	Scopes []string
	// LinkToken, AllowOtherCompany and AllowSharedCompany are as in [ConsentGrant].
	// A staged key spends no link and is of the same company.
	LinkToken          credstore.Secret
	AllowOtherCompany  bool
	AllowSharedCompany bool
}

// KeyExpiry returns when a key ends whose last day is given, such as 2031-01-31: with
// that day, in UTC.
func KeyExpiry(day string) (time.Time, error) {
	last, err := time.Parse(time.DateOnly, day)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the last day of a key: %w", err)
	}
	return last.AddDate(0, 0, 1), nil
}

// TrimKey returns a key that was pasted into a form without what people copy along
// with one: spaces and quotation marks around it.
func TrimKey(text string) string {
	return strings.Trim(text, " \t\r\n\"'`\u00a0\u200b\ufeff")
}

// ErrWrongEnvironment says that a key is not known to the API, but to that of Pleo's
// other environment. It is not a [pleo.ErrUnauthorized].
var ErrWrongEnvironment = errors.New("the key belongs to Pleo's other environment")

// ErrSameKey says that a key cannot follow the present one, since it is that.
var ErrSameKey = errors.New("the connection has this key already, and the next one has to be another")

// MissingScopesError is a good key that does not allow enough.
type MissingScopesError struct {
	Missing []string
}

func (e *MissingScopesError) Error() string {
	return "the key lacks the permissions " + strings.Join(e.Missing, " ")
}

var errNobodyToAsk = errors.New("there is no API to ask")

var errNotKey = errors.New("the connection is not of a kind that has an API key")

// SetKey asks the API about the key, and puts it in the place of whatever
// credential the connection has, or stages it. It returns the connection, and
// works detached from ctx once the API has answered.
//
// A key that the API does not know is [pleo.ErrUnauthorized] or [ErrWrongEnvironment],
// one that does not allow enough a [MissingScopesError], one that might be anybody's
// [ErrCompanyUnknown], and one of another company as for [Manager.Consent]. One
// that would follow itself is [ErrSameKey]. Where the API cannot be asked the
// key is not stored, and the error says why. After an error the connection has the
// credential that it had before.
func (m *Manager) SetKey(ctx context.Context, g KeyChange) (credstore.Connection, error) {
	state, err := m.Store.Connections.Read(ctx, g.ConnectionID)
	if err != nil {
		return credstore.Connection{}, m.grantStoreError("", err)
	}
	conn := state.Connection
	if !conn.Kind.IsKey() {
		return credstore.Connection{}, errNotKey
	}
	if g.Stage && g.Key.Equal(state.Credential.APIKey) {
		return credstore.Connection{}, ErrSameKey
	}
	value := pleo.AuthorizationHeader(conn.Kind, credstore.Credential{APIKey: g.Key})
	who, err := m.checkKey(ctx, value, g.Scopes)
	if err != nil {
		return credstore.Connection{}, err
	}
	found, err := m.ownerOf(ctx, conn, value, credstore.Secret{}, who, nil)
	if err != nil {
		return credstore.Connection{}, err
	}
	return m.detached(ctx, func(ctx context.Context) (credstore.Connection, error) {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		if g.Stage {
			return m.stageKey(ctx, g, found.company)
		}
		return m.replaceKey(ctx, g, credstore.Replacement{
			Credential: credstore.NewCredential{APIKey: g.Key, ExpiresAt: g.ExpiresAt},
			Scope:      who.Scope, Company: found.company, LinkToken: g.LinkToken,
			AllowOtherCompany: g.AllowOtherCompany, AllowSharedCompany: g.AllowSharedCompany,
		})
	})
}

// checkKey asks the API about the key, and where that does not know it, the one
// of the other environment.
func (m *Manager) checkKey(ctx context.Context, value credstore.Secret, scopes []string) (pleo.Identity, error) {
	if m.API == nil {
		return pleo.Identity{}, errNobodyToAsk
	}
	who, err := m.API.Introspect(ctx, value)
	if err == nil && strings.EqualFold(who.AuthMethod, "NONE") {
		err = fmt.Errorf("introspecting a key: %w", pleo.ErrUnauthorized) // an answer about nobody
	}
	if errors.Is(err, pleo.ErrUnauthorized) && m.knownElsewhere(ctx, value) {
		err = ErrWrongEnvironment
	}
	if err != nil {
		return who, err
	}
	if lacking := pleo.MissingScopes(scopes, who.Scope); len(lacking) > 0 {
		return who, &MissingScopesError{Missing: lacking}
	}
	return who, nil
}

// otherEnvironmentTimeout bounds the question to the other environment: its answer only
// makes a message better.
const otherEnvironmentTimeout = 5 * time.Second

func (m *Manager) knownElsewhere(ctx context.Context, value credstore.Secret) bool {
	if m.OtherEnvironment == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, otherEnvironmentTimeout)
	defer cancel()
	_, err := m.OtherEnvironment.Introspect(ctx, value)
	return err == nil
}

func (m *Manager) replaceKey(ctx context.Context, g KeyChange, r credstore.Replacement) (credstore.Connection, error) {
	lease, err := m.lease(ctx, g.ConnectionID)
	if err != nil {
		return credstore.Connection{}, m.grantStoreError("", err)
	}
	defer func() { _ = lease.Release() }() // it ends with the process at the latest
	conn, err := m.replace(ctx, g.ConnectionID, &lease, r)
	if err != nil {
		return conn, taken(r.Company, err)
	}
	m.replaced(conn, r)
	return conn, nil
}

// stageKey stages a key of the connection's own company.
func (m *Manager) stageKey(ctx context.Context, g KeyChange, company credstore.Company) (credstore.Connection, error) {
	state, err := m.Store.Connections.Read(ctx, g.ConnectionID)
	if err != nil {
		return credstore.Connection{}, m.grantStoreError("", err)
	}
	if have := state.Connection.Company(); !have.IsZero() && !have.Same(company) {
		return credstore.Connection{}, &credstore.OtherCompanyError{Have: have, Got: company}
	}
	if err := m.Store.Connections.StageKey(ctx, g.ConnectionID, g.Key, g.ExpiresAt); err != nil {
		return credstore.Connection{}, m.grantStoreError(state.Connection.Name, err)
	}
	return state.Connection, nil
}
