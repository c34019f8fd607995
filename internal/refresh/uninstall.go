package refresh

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const codeUninstalled = "uninstalled"

// Uninstalled is called after the API has confirmed, to a request sent with a,
// that the integration is not installed at the company any more. The grant has
// ended: from here on nothing is sent with it and nothing refreshed. It returns
// at once; what the store is to record of it follows.
func (m *Manager) Uninstalled(ctx context.Context, a *Authorization) {
	found, ok := m.byID.Load(a.ConnectionID)
	if !ok || a.Kind != credstore.OAuth {
		return
	}
	e, at := found.(*entry), m.Now()
	e.end(a.Version)
	if !m.begin() { // the process drains, but this request is not done yet
		m.uninstall(ctx, e, at)
		return
	}
	go func() {
		defer m.running.Done()
		m.uninstall(m.lifetime, e, at)
	}()
}

// uninstall condemns whatever the store holds of the grant that ended at the
// time: the version that was used, or what a refresh under way has made of it.
// What was obtained later comes from a new consent.
func (m *Manager) uninstall(ctx context.Context, e *entry, at time.Time) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	err := m.underLease(ctx, e, anyVersion, func(ctx context.Context, lease credstore.Lease, state credstore.State) error {
		if state.Credential.ObtainedAt.After(at) {
			return nil
		}
		e.end(state.Credential.Version)
		return m.Store.Credentials.MarkReauthorizationRequired(ctx, lease, state.Credential.Parent(), credstore.Failure{
			Code: codeUninstalled, Message: "the integration was uninstalled by a request through this proxy", At: at,
		}, credstore.ReasonUninstalled, true)
	})
	if err != nil && !errors.Is(err, credstore.ErrSuperseded) {
		m.logger(e).Error("recording that the integration was uninstalled", errField(err))
		return
	}
	m.logger(e).Info("the integration was uninstalled: the connection has ended", zap.String("reason", credstore.ReasonUninstalled))
}

// end makes the version unusable in memory, whatever the store says of it.
func (e *entry) end(version int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = version
	s := *e.current.Load()
	e.current.Store(e.asEnded(&s))
}

// asEnded returns the snapshot as it is if it is of a grant that has ended. The
// caller holds e.mu.
func (e *entry) asEnded(s *snapshot) *snapshot {
	if e.ended == 0 || s.conn.Version != e.ended {
		return s
	}
	s.auth = nil
	if s.conn.Status != credstore.Disabled {
		s.conn.Status, s.conn.Reason = credstore.ReauthorizationRequired, credstore.ReasonUninstalled
	}
	return s
}
