package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

// ConsentGrant is the grant of a customer's consent.
type ConsentGrant struct {
	ConnectionID string
	// Exchange exchanges the grant for tokens. It is called once, when they can be
	// saved, with a context that the caller does not end. Its errors are those of
	// [pleo.AuthorizationServer.Exchange].
	Exchange func(context.Context) (pleo.Tokens, error)
	// LinkToken is the connect link to be used up. Empty: none.
	LinkToken credstore.Secret
	// AllowOtherCompany lets the connection change to another company.
	AllowOtherCompany bool
	// AllowSharedCompany lets it have the company of another connection.
	AllowSharedCompany bool
}

// ErrTokensMissing says that the response of the authorization server lacks an
// access token or a refresh token.
var ErrTokensMissing = errors.New("the authorization server returned no readable access token and refresh token")

var errNotOAuth = errors.New("the connection is not of kind oauth")

// Consent replaces the connection's credential by the grant's, and returns the
// connection. It waits for a refresh in progress, so that the newer grant wins,
// and is then detached from ctx: the tokens are saved even if the caller leaves.
//
// Errors are those of Exchange, [ErrCompanyUnknown], a
// [credstore.OtherCompanyError], a [CompanyTakenError], those of Replace about the
// link, *[Error], and why Pleo could not say which company the grant belongs to. A
// connection that has no company yet does not fail for the last reason: it is
// marked as unverified, and not used before its company is known. After an error
// the connection has the credential that it had before, unless the store was
// unavailable: then the pair waits in the spool.
func (m *Manager) Consent(ctx context.Context, g ConsentGrant) (credstore.Connection, error) {
	if m.Server == nil {
		return credstore.Connection{}, errNotConfigured
	}
	return detached(ctx, m.life, func(ctx context.Context) (credstore.Connection, error) {
		return m.consents.run(ctx, g)
	})
}

// consents exchanges the grants of consents and saves their tokens.
type consents struct {
	refresher *refresher
	replacer  *replacer
}

// run is the sequence of one consent.
func (c *consents) run(ctx context.Context, g ConsentGrant) (credstore.Connection, error) {
	lease, err := c.acquireLease(ctx, g.ConnectionID)
	if err != nil {
		return credstore.Connection{}, err
	}
	defer func() { _ = lease.Release() }() // the latest one; it ends with the process at the latest
	state, err := c.loadState(ctx, g.ConnectionID)
	if err != nil {
		return credstore.Connection{}, err
	}
	name := state.Connection.Name
	record, err := c.refresher.Spool.Reserve(state.Parent())
	if err != nil {
		c.refresher.metrics.storeErrors.Inc()
		return credstore.Connection{}, unavailable(name, fmt.Errorf("reserving a spool record: %w", err))
	}
	defer record.Remove() // does nothing if the record was released to the next process

	tokens, err := c.exchange(ctx, g, state, record)
	if err != nil {
		return credstore.Connection{}, err
	}
	replacement, err := c.replacement(ctx, g, state.Connection, tokens)
	if err != nil {
		return credstore.Connection{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	conn, lease, err := c.replacer.replace(ctx, lease, replacement) //nolint:govet // the deferred release is of the latest lease
	var undecided *Error
	if errors.As(err, &undecided) && undecided.Code == StoreUnavailable {
		record.Release()
	}
	if err == nil {
		c.refresher.introspection.calibrate(tokens.RefreshToken)
	}
	return conn, err
}

// acquireLease acquires the lease when no process refreshes the pair that is about
// to be replaced.
func (c *consents) acquireLease(ctx context.Context, id string) (credstore.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	if err := c.refresher.recovered(ctx); err != nil {
		return nil, unavailable("", err)
	}
	lease, err := credstore.AcquireWait(ctx, c.refresher.Store, id, c.refresher.Owner)
	if err != nil {
		return nil, c.replacer.storeError("", err)
	}
	return lease, nil
}

func (c *consents) loadState(ctx context.Context, id string) (credstore.State, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	state, err := c.refresher.Store.Read(ctx, id)
	if err != nil {
		return state, c.replacer.storeError("", err)
	}
	if state.Connection.Kind != credstore.OAuth {
		return state, errNotOAuth
	}
	return state, nil
}

// exchange obtains the tokens and spools them at once: what follows may take long.
func (c *consents) exchange(ctx context.Context, g ConsentGrant, state credstore.State, record spool.Record) (pleo.Tokens, error) {
	ctx, cancel := context.WithTimeout(ctx, responseTimeout)
	defer cancel()
	tokens, err := g.Exchange(ctx)
	c.refresher.health.recordServer(err)
	if err != nil {
		return tokens, err
	}
	if tokens.AccessToken.IsZero() || tokens.RefreshToken.IsZero() {
		return tokens, &pleo.UnknownOutcomeError{Err: ErrTokensMissing}
	}
	err = record.Write(credstore.Successor{
		Parent: state.Parent(), Consent: true,
		AccessToken: tokens.AccessToken, RefreshToken: tokens.RefreshToken,
		ExpiresAt: expiryOf(tokens), ObtainedAt: tokens.SentAt, Scope: tokens.Scope,
	})
	if err != nil {
		c.refresher.Logger.Error("a new token pair is in memory only: the spool could not be written",
			zap.String("connection", state.Connection.Name), zap.Error(err))
	}
	return tokens, nil
}

// replacement is the credential that the tokens make, with its company.
func (c *consents) replacement(ctx context.Context, g ConsentGrant, conn credstore.Connection, t pleo.Tokens) (credstore.Replacement, error) {
	found, err := c.refresher.companies.find(ctx, conn, credstore.Credential{AccessToken: t.AccessToken})
	if err != nil && !conn.Company().IsZero() {
		// It might be another company's, so it is not used.
		return credstore.Replacement{}, fmt.Errorf("finding the company of a consent: %w", err)
	}
	return credstore.Replacement{
		Credential: credstore.NewCredential{AccessToken: t.AccessToken, RefreshToken: t.RefreshToken, ExpiresAt: expiryOf(t)},
		ObtainedAt: t.SentAt, Scope: cmp.Or(found.scope, t.Scope),
		Company:            found.company,
		CompanyUnverified:  err != nil,
		LinkToken:          g.LinkToken,
		AllowOtherCompany:  g.AllowOtherCompany,
		AllowSharedCompany: g.AllowSharedCompany,
	}, nil
}
