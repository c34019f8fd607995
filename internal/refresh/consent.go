package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

const (
	// storeTimeout is how long a person waits for the store to take what they
	// have given.
	storeTimeout = 20 * time.Second
)

// ConsentGrant is a consent that a customer has given, and what is to be done
// with it.
type ConsentGrant struct {
	ConnectionID string
	// Exchange gets the tokens for it. It is called once, when they can be kept,
	// with a context that nobody's patience ends. Its errors are those of
	// [pleo.AuthorizationServer.Exchange].
	Exchange func(context.Context) (pleo.Tokens, error)
	// LinkToken is the connect link that is spent with it. Empty: none is.
	LinkToken credstore.Secret
	// AllowOtherCompany lets the connection move to another company.
	AllowOtherCompany bool
	// AllowSharedCompany lets it have one that another connection has.
	AllowSharedCompany bool
}

// CompanyTakenError is a credential of a company that is bound to another
// connection. It unwraps to [credstore.ErrCompanyBound].
type CompanyTakenError struct {
	Company credstore.Company // of the credential
	Err     error             // says which connection
}

func (e *CompanyTakenError) Error() string {
	return fmt.Sprintf("the credential belongs to company %q: %v", e.Company.ID, e.Err)
}

// Unwrap returns what the store said.
func (e *CompanyTakenError) Unwrap() error { return e.Err }

// ErrTokensMissing says that the authorization server has answered, without what a
// connection needs.
var ErrTokensMissing = errors.New("the authorization server gave no access token and refresh token that can be read")

var errNotOAuth = errors.New("the connection is not of kind oauth")

// Consent puts the grant in the place of whatever credential the connection has,
// and returns the connection. It waits for a refresh under way, so that the newer
// grant wins, and then works detached from ctx: what the authorization server has
// given is kept although nobody waits for it any more.
//
// Errors are those of Exchange, [ErrCompanyUnknown], a [credstore.OtherCompanyError],
// a [CompanyTakenError], those of [credstore.Store.Replace] about the link, *[Error],
// and why Pleo could not be asked whose the grant is; where there is no other
// company's to be mixed up with, that leaves the connection Unproven instead. After an error the connection has the credential that it had before.
// That is not certain where the store could not be reached in time: then the pair
// waits in the spool.
func (m *Manager) Consent(ctx context.Context, g ConsentGrant) (credstore.Connection, error) {
	if m.Server == nil {
		return credstore.Connection{}, errNotConfigured
	}
	return m.detached(ctx, func(ctx context.Context) (credstore.Connection, error) {
		c := &consent{m: m, grant: g}
		defer c.finish()
		return c.run(ctx)
	})
}

// detached runs the work so that it goes on when ctx ends, and is waited for
// before the process does. It returns what the work has brought, or ctx's error.
func (m *Manager) detached(ctx context.Context, work func(context.Context) (credstore.Connection, error)) (credstore.Connection, error) {
	if !m.begin() {
		return credstore.Connection{}, &Error{Code: ShuttingDown, RetryAfter: time.Second}
	}
	type result struct {
		conn credstore.Connection
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer m.running.Done()
		conn, err := work(context.WithoutCancel(ctx)) // who does it is still in there
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done():
		return credstore.Connection{}, ctx.Err()
	}
}

// consent is one grant on its way into the store.
type consent struct {
	m     *Manager
	grant ConsentGrant

	lease credstore.Lease // nil until it is held
	slot  spool.Record    // reserved in the spool; nil until then
	state credstore.State // as read under the lease
}

func (c *consent) run(ctx context.Context) (credstore.Connection, error) {
	if err := c.own(ctx); err != nil {
		return credstore.Connection{}, err
	}
	slot, err := c.m.Spool.Reserve(c.state.Parent())
	if err != nil {
		c.m.metrics.storeErrors.Inc()
		return credstore.Connection{}, c.unavailable(fmt.Errorf("reserving a spool record: %w", err))
	}
	c.slot = slot
	tokens, err := c.exchange(ctx)
	if err != nil {
		return credstore.Connection{}, err
	}
	return c.keep(ctx, tokens)
}

// acquireLease takes the lease, once nobody is refreshing the token pair that is about to
// be replaced, and reads what there is.
func (c *consent) own(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	if err := c.m.recovered(ctx); err != nil {
		return c.unavailable(err)
	}
	var err error
	if c.lease, err = c.m.lease(ctx, c.grant.ConnectionID); err != nil {
		return c.storeError(err)
	}
	if c.state, err = c.m.Store.Connections.Read(ctx, c.grant.ConnectionID); err != nil {
		return c.storeError(err)
	}
	if c.state.Connection.Kind != credstore.OAuth {
		return errNotOAuth
	}
	return nil
}

// exchange gets the tokens and seals a copy of them at once: what follows may
// take its time.
func (c *consent) exchange(ctx context.Context) (pleo.Tokens, error) {
	ctx, cancel := context.WithTimeout(ctx, responseTimeout)
	defer cancel()
	tokens, err := c.grant.Exchange(ctx)
	c.m.health.recordServer(err)
	if err != nil {
		return tokens, err
	}
	if tokens.AccessToken.IsZero() || tokens.RefreshToken.IsZero() {
		return tokens, &pleo.UnknownOutcomeError{Err: ErrTokensMissing}
	}
	if err := c.slot.Write(c.successor(tokens)); err != nil {
		c.m.Logger.Error("a new token pair is in memory only: the spool has not taken it", zap.String("connection", c.name()), errField(err))
	}
	return tokens, nil
}

func (c *consent) successor(t pleo.Tokens) credstore.Successor {
	return credstore.Successor{
		Parent: c.state.Parent(), Consent: true,
		AccessToken: t.AccessToken, RefreshToken: t.RefreshToken,
		ExpiresAt: expiryOf(t), ObtainedAt: t.SentAt, Scope: t.Scope,
	}
}

// expiryOf returns when the access token ends, or zero when that is not known.
func expiryOf(t pleo.Tokens) time.Time {
	if t.Lifetime <= 0 {
		return time.Time{}
	}
	return t.SentAt.Add(t.Lifetime)
}

// complete puts the tokens into the store, if they are of a company that they may be
// of.
func (c *consent) keep(ctx context.Context, t pleo.Tokens) (credstore.Connection, error) {
	who, err := c.m.companyOfCredential(ctx, c.state.Connection, credstore.Credential{AccessToken: t.AccessToken})
	if err != nil && !c.state.Connection.Company().IsZero() {
		// It might be another company's, so it is not used.
		return credstore.Connection{}, fmt.Errorf("learning whose consent it is: %w", err)
	}
	r := credstore.Replacement{
		Credential: credstore.NewCredential{AccessToken: t.AccessToken, RefreshToken: t.RefreshToken, ExpiresAt: expiryOf(t)},
		ObtainedAt: t.SentAt, Scope: cmp.Or(who.scope, t.Scope),
		Company:            who.company,
		CompanyUnverified:  err != nil,
		LinkToken:          c.grant.LinkToken,
		AllowOtherCompany:  c.grant.AllowOtherCompany,
		AllowSharedCompany: c.grant.AllowSharedCompany,
	}
	conn, err := c.replace(ctx, r)
	if err != nil {
		return conn, taken(r.Company, err)
	}
	e := c.m.replaced(conn, r)
	if conn.CompanyUnverified {
		c.m.start(e, purpose{version: conn.Version, ahead: true}) // which asks until it is told
	}
	c.m.oracle.calibrate(t.RefreshToken)
	return conn, nil
}

// taken adds to an error of Replace which company it is about.
func taken(company credstore.Company, err error) error {
	if errors.Is(err, credstore.ErrCompanyBound) {
		return &CompanyTakenError{Company: company, Err: err}
	}
	return err
}

// replace tries until the store has taken the pair or refused it, or the person
// has waited long enough: then the pair is left to the spool.
func (c *consent) replace(ctx context.Context, r credstore.Replacement) (credstore.Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	conn, err := c.m.replace(ctx, c.grant.ConnectionID, &c.lease, r)
	var mine *Error
	if errors.As(err, &mine) && mine.Code == StoreUnavailable {
		c.slot.Release()
		c.slot = nil
	}
	return conn, err
}

// replace tries until the store has taken what is given or refused it, or ctx
// ends, with a new lease where the old one has ended meanwhile.
func (m *Manager) replace(ctx context.Context, id string, lease *credstore.Lease, r credstore.Replacement) (credstore.Connection, error) {
	for wait := minSaveRetryDelay; ; wait = min(2*wait, maxSaveRetryDelay) {
		conn, err := m.Store.Connections.Replace(ctx, *lease, r)
		if !passing(err) {
			return conn, err
		}
		m.metrics.storeErrors.Inc()
		m.Logger.Error("saving what a customer has given; it is tried again", zap.String("connection_id", id), errField(err))
		if pause(ctx, wait) != nil {
			return conn, &Error{Code: StoreUnavailable, RetryAfter: time.Second, Err: err}
		}
		if errors.Is(err, credstore.ErrLeaseLost) {
			if again, err := m.lease(ctx, id); err == nil {
				*lease = again
			}
		}
	}
}

// passing reports whether an error of the store may pass by itself.
func passing(err error) bool {
	return errors.Is(err, credstore.ErrUnavailable) || errors.Is(err, credstore.ErrLeaseLost) || errors.Is(err, context.DeadlineExceeded)
}

// replaced brings memory up to date with what the store has taken.
func (m *Manager) replaced(conn credstore.Connection, r credstore.Replacement) *entry {
	e := m.admit(credstore.State{
		Connection: conn,
		Credential: credstore.Credential{
			ConnectionID: conn.ID, Version: conn.Version,
			AccessToken: r.Credential.AccessToken, RefreshToken: r.Credential.RefreshToken, APIKey: r.Credential.APIKey,
			ExpiresAt: conn.ExpiresAt, ObtainedAt: r.ObtainedAt,
		},
	})
	e.proven.Store(conn.Version)
	m.arm(e, nil)
	return e
}

// release gives back what the consent holds. What is in the spool goes: the store
// has it, or refuses it, unless the slot was kept.
func (c *consent) finish() {
	if c.slot != nil {
		c.slot.Remove()
	}
	if c.lease == nil {
		return
	}
	if err := c.lease.Release(); err != nil {
		c.m.Logger.Warn("releasing a lease", zap.String("connection", c.name()), errField(err))
	}
}

func (c *consent) name() string { return c.state.Connection.Name }

func (c *consent) unavailable(err error) error {
	return &Error{Code: ServerUnavailable, Connection: c.name(), RetryAfter: time.Second, Err: err}
}

func (c *consent) storeError(err error) error { return c.m.grantStoreError(c.name(), err) }

// grantStoreError keeps the errors that a person can be told about, and turns
// the others into one of an unavailable store.
func (m *Manager) grantStoreError(name string, err error) error {
	if errors.Is(err, credstore.ErrNotFound) {
		return err
	}
	return m.storeError(name, err)
}
