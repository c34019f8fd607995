package refresh

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

const codeUninstalled = "uninstalled"

// Authorize returns the authorization to send a request of the connection called
// name with. It never returns one that is known to have expired. If there is none
// it waits for a refresh, for at most Config.Wait and until ctx ends. Errors are
// *[Error], or ctx's.
func (m *Manager) Authorize(ctx context.Context, name string) (*Authorization, error) {
	e, err := m.cache.find(ctx, name)
	if err != nil {
		return nil, err
	}
	s := e.current.Load()
	if f := e.flight.Load(); f != nil && f.sent.Load() && s.valid(m.Now()) {
		if err := f.wait(ctx, refreshWaitTimeout); err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s = e.current.Load()
	}
	if s.valid(m.Now()) {
		m.scheduler.used(e, s)
		return s.auth, nil
	}
	if err := s.unusable(); err != nil {
		if s.conn.Kind.IsKey() {
			return m.authorizeKey(ctx, e)
		}
		return nil, err
	}
	return m.await(ctx, e, purpose{s.conn.Version, reasonExpired})
}

// Reauthorize is called after the API has returned 401 for a request sent with
// rejected. It returns the authorization to send the request again with: a newer
// one, after a refresh if needed. The error [ErrSuppressed] means that the 401
// stands; others are as for Authorize.
func (m *Manager) Reauthorize(ctx context.Context, rejected *Authorization) (*Authorization, error) {
	e, err := m.cache.find(ctx, rejected.Connection)
	if err != nil {
		return nil, err
	}
	if e.id != rejected.ConnectionID {
		return nil, ErrSuppressed
	}
	if rejected.Kind.IsKey() {
		return m.reauthorizeKey(ctx, e, rejected)
	}
	s := e.current.Load()
	if a := s.newerThan(rejected, m.Now()); a != nil {
		return a, nil
	}
	if e.no401Refresh.Load() == rejected.Version && s.valid(m.Now()) && !m.rejectedByCheck(ctx, e, rejected) {
		return nil, ErrSuppressed
	}
	if err := s.unusable(); err != nil {
		e.dropAccessToken(rejected.Version)
		return nil, err
	}
	return m.await(ctx, e, purpose{rejected.Version, reasonRejected})
}

// ReplayRejected is called when the API has returned 401 for a replay too. Then
// the token is not the reason: no 401 leads to a refresh of this version any more,
// unless a credential check rejects it as well.
func (m *Manager) ReplayRejected(a *Authorization) {
	if e := m.cache.get(a.ConnectionID); e != nil {
		e.no401Refresh.Store(a.Version)
	}
}

// await waits for a refresh that replaces p.version, and returns its result. A
// refresh that was in progress may be of an older version, or its token may expire
// before all waiters have woken: then they wait for the next one, until Config.Wait
// is over.
func (m *Manager) await(ctx context.Context, e *entry, p purpose) (*Authorization, error) {
	for start := m.Now(); ; {
		s := e.current.Load()
		if err := m.tooEarly(e, s, p); err != nil {
			return nil, err
		}
		f, joined := m.scheduler.start(e, p)
		err := f.wait(ctx, m.Wait-m.Now().Sub(start))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s = e.current.Load()
		if s.valid(m.Now()) && (p.reason != reasonRejected || s.conn.Version > p.version) {
			m.scheduler.used(e, s)
			return s.auth, nil
		}
		if err := s.unusable(); err != nil {
			return nil, err
		}
		switch {
		case errors.Is(err, errInProgress):
			return nil, unavailable(s.conn.Name, err)
		case err != nil:
			return nil, err
		case !joined: // there was nothing to do, or the token has expired already
			return nil, unavailable(s.conn.Name, nil)
		case s.conn.Version > p.version:
			p = purpose{s.conn.Version, reasonExpired}
		}
	}
}

// tooEarly returns an error at once, without a flight, if the next refresh may not
// be tried yet.
func (m *Manager) tooEarly(e *entry, s *snapshot, p purpose) error {
	if e.flight.Load() != nil || s.conn.Version > p.version {
		return nil
	}
	if left := s.retryAt.Sub(m.Now()); left > 0 {
		return e.retryLater(left, nil)
	}
	return nil
}

// rejectedByCheck checks a token that a replay has shown to be fresh and that is
// rejected all the same, at most once in 30 seconds.
func (m *Manager) rejectedByCheck(ctx context.Context, e *entry, a *Authorization) bool {
	if m.API == nil || !e.mayCheck(m.Now()) {
		return false
	}
	_, err := m.API.Introspect(ctx, a.Value)
	return errors.Is(err, pleo.ErrUnauthorized)
}

// Uninstalled is called after the API has confirmed, for a request sent with a,
// that the integration is uninstalled. The grant has ended: from now on nothing is
// sent with it and nothing refreshed. It returns at once; the store is updated in
// the background.
func (m *Manager) Uninstalled(ctx context.Context, a *Authorization) {
	e := m.cache.get(a.ConnectionID)
	if e == nil || a.Kind != credstore.OAuth {
		return
	}
	at := m.Now()
	e.end(a.Version)
	if !m.life.run(func() { m.endGrant(m.life.ctx, e, at) }) {
		m.endGrant(ctx, e, at) // the process drains, but this request is not done yet
	}
}

// endGrant marks what the store holds of the grant that ended at the time: the
// version that was used, or what a refresh in progress made of it. What was
// obtained later comes from a new consent.
func (m *Manager) endGrant(ctx context.Context, e *entry, at time.Time) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	err := credstore.UnderLease(ctx, m.Store, e.id, m.Owner, func(ctx context.Context, lease credstore.Lease, state credstore.State) error {
		if state.Credential.ObtainedAt.After(at) {
			return nil
		}
		e.end(state.Credential.Version)
		return m.Store.MarkReauthorizationRequired(ctx, lease, state.Credential.Parent(), credstore.Failure{
			Code: codeUninstalled, Message: "the integration was uninstalled by a request through this proxy", At: at,
		}, credstore.ReasonUninstalled, true)
	})
	_ = m.cache.reread(ctx, e) // counted; the change notice reads again
	if err != nil && !errors.Is(err, credstore.ErrSuperseded) {
		m.cache.logger(e).Error("recording that the integration was uninstalled", zap.Error(err))
		return
	}
	m.cache.logger(e).Info("the integration was uninstalled; the connection has ended", zap.String("reason", credstore.ReasonUninstalled))
}
