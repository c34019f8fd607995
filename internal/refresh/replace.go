package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// storeTimeout is how long a person waits for the store to save what they have
// entered.
const storeTimeout = 20 * time.Second

// CompanyTakenError says that the credential belongs to a company that another
// connection has. It matches [credstore.ErrCompanyBound].
type CompanyTakenError struct {
	Company credstore.Company // of the credential
	Err     error             // names the other connection
}

func (e *CompanyTakenError) Error() string {
	return fmt.Sprintf("the credential belongs to company %q: %v", e.Company.ID, e.Err)
}

// Unwrap returns the store's error.
func (e *CompanyTakenError) Unwrap() error { return e.Err }

var errNotKey = errors.New("the connection is not of a kind that has an API key")

// replacer replaces the credential of a connection by one that a person has given.
type replacer struct {
	*core
	scheduler *scheduler
}

// replace repeats the replacement until the store has responded or ctx ends. It
// acquires a new lease where the old one has ended, and returns the lease to be
// released.
func (r *replacer) replace(ctx context.Context, lease credstore.Lease, n credstore.Replacement) (credstore.Connection, credstore.Lease, error) {
	for delay := minSaveRetryDelay; ; delay = min(2*delay, maxSaveRetryDelay) {
		conn, err := r.Store.Replace(ctx, lease, n)
		if err == nil {
			r.install(conn, n)
			return conn, lease, nil
		}
		if errors.Is(err, credstore.ErrCompanyBound) {
			err = &CompanyTakenError{Company: n.Company, Err: err}
		}
		if !transient(err) {
			return conn, lease, err
		}
		id := lease.ConnectionID()
		r.metrics.storeErrors.Inc()
		r.Logger.Error("saving a credential from a customer failed; retrying", zap.String("connection_id", id), zap.Error(err))
		if pause(ctx, delay) != nil {
			return conn, lease, &Error{Code: StoreUnavailable, RetryAfter: time.Second, Err: err}
		}
		if errors.Is(err, credstore.ErrLeaseLost) {
			if again, err := credstore.AcquireWait(ctx, r.Store, id, r.Owner); err == nil {
				lease = again
			}
		}
	}
}

// transient reports whether an error of the store may go away by itself.
func transient(err error) bool {
	return errors.Is(err, credstore.ErrUnavailable) || errors.Is(err, credstore.ErrLeaseLost) || errors.Is(err, context.DeadlineExceeded)
}

// install brings memory up to date with the credential that the store has saved.
func (r *replacer) install(conn credstore.Connection, n credstore.Replacement) {
	e := r.cache.add(credstore.State{
		Connection: conn,
		Credential: credstore.Credential{
			ConnectionID: conn.ID, Version: conn.Version,
			AccessToken: n.Credential.AccessToken, RefreshToken: n.Credential.RefreshToken, APIKey: n.Credential.APIKey,
			ExpiresAt: conn.ExpiresAt, ObtainedAt: n.ObtainedAt,
		},
	})
	e.proven.Store(conn.Version)
	r.scheduler.arm(e, nil)
	if conn.CompanyUnverified {
		r.scheduler.start(e, purpose{conn.Version, reasonAhead}) // verifies the company
	}
}

// storeError keeps the error of an unknown connection as it is; others become an
// *[Error].
func (r *replacer) storeError(name string, err error) error {
	if errors.Is(err, credstore.ErrNotFound) {
		return err
	}
	return r.cache.storeError(name, err)
}

// SetKey verifies an API key, and replaces the connection's credential by it or
// stages it. It returns the connection. It is detached from ctx once the API has
// responded.
//
// Errors are those of [apikey.Keys.Verify] and [apikey.Keys.Stage],
// [apikey.ErrSameKey], [ErrCompanyUnknown] for a key that could be any company's,
// and those of [Manager.Consent] for one of another company. After an error the
// connection has the credential that it had before.
func (m *Manager) SetKey(ctx context.Context, c apikey.Change) (credstore.Connection, error) {
	state, err := m.Store.Read(ctx, c.ConnectionID)
	if err != nil {
		return credstore.Connection{}, m.replacer.storeError("", err)
	}
	conn := state.Connection
	if !conn.Kind.IsKey() {
		return credstore.Connection{}, errNotKey
	}
	if c.Stage && c.Key.Equal(state.Credential.APIKey) {
		return credstore.Connection{}, apikey.ErrSameKey
	}
	header := pleo.AuthorizationHeader(conn.Kind, credstore.Credential{APIKey: c.Key})
	identity, err := m.keys.Verify(ctx, header, c.Scopes)
	if err != nil {
		return credstore.Connection{}, err
	}
	found, err := m.companies.complete(ctx, conn, header, credstore.Secret{}, identity, nil)
	if err != nil {
		return credstore.Connection{}, err
	}
	return detached(ctx, m.life, func(ctx context.Context) (credstore.Connection, error) {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		if c.Stage {
			return m.stageKey(ctx, c, found.company)
		}
		return m.replacer.replaceKey(ctx, c, identity.Scope, found.company)
	})
}

func (m *Manager) stageKey(ctx context.Context, c apikey.Change, company credstore.Company) (credstore.Connection, error) {
	conn, err := m.keys.Stage(ctx, c, company)
	var other *credstore.OtherCompanyError
	if err != nil && !errors.As(err, &other) {
		err = m.replacer.storeError(conn.Name, err)
	}
	return conn, err
}

func (r *replacer) replaceKey(ctx context.Context, c apikey.Change, scope string, company credstore.Company) (credstore.Connection, error) {
	lease, err := credstore.AcquireWait(ctx, r.Store, c.ConnectionID, r.Owner)
	if err != nil {
		return credstore.Connection{}, r.storeError("", err)
	}
	conn, lease, err := r.replace(ctx, lease, credstore.Replacement{
		Credential: credstore.NewCredential{APIKey: c.Key, ExpiresAt: c.ExpiresAt},
		Scope:      scope, Company: company, LinkToken: c.LinkToken,
		AllowOtherCompany: c.AllowOtherCompany, AllowSharedCompany: c.AllowSharedCompany,
	})
	_ = lease.Release() // it ends with the process at the latest
	return conn, err
}
