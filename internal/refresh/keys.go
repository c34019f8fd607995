package refresh

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// keyCheckTimeout bounds a check of a key: two requests to the API, and recording
// the result.
const keyCheckTimeout = time.Minute

// authorizeKey returns the authorization with the connection's key. A key that was
// rejected is checked again from time to time: it may have been fixed at Pleo's
// end.
func (m *Manager) authorizeKey(ctx context.Context, e *entry) (*Authorization, error) {
	if e.current.Load().conn.Reason == credstore.ReasonKeyRejected {
		m.waitKeyCheck(ctx, e)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	s := e.current.Load()
	if s.valid(m.Now()) {
		return s.auth, nil
	}
	if err := s.unusable(); err != nil {
		return nil, err
	}
	return nil, s.error(ReauthorizationRequired)
}

// reauthorizeKey returns another authorization after a 401 to a request with the
// key. A credential check decides; if the key is valid, the 401 stands.
func (m *Manager) reauthorizeKey(ctx context.Context, e *entry, rejected *Authorization) (*Authorization, error) {
	if a := e.current.Load().newerThan(rejected, m.Now()); a != nil {
		return a, nil
	}
	m.waitKeyCheck(ctx, e)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if a := e.current.Load().newerThan(rejected, m.Now()); a != nil {
		return a, nil
	}
	return nil, ErrSuppressed
}

// waitKeyCheck waits for a check of the connection's key: the one in progress, or
// a new one if the last is not recent. The result is in e.current.
func (m *Manager) waitKeyCheck(ctx context.Context, e *entry) {
	checked := m.keyChecks.DoChan(e.id, func() (any, error) {
		done := make(chan struct{})
		if m.API != nil && e.mayCheck(m.Now()) && m.life.run(func() {
			defer close(done)
			m.checkKey(m.life.ctx, e)
		}) {
			<-done
		}
		return nil, nil //nolint:nilnil // there is nothing to return
	})
	select {
	case <-checked:
	case <-time.After(m.Wait):
	case <-ctx.Done():
	}
}

// checkKey checks the key, records the result and brings memory up to date.
func (m *Manager) checkKey(ctx context.Context, e *entry) {
	ctx, cancel := context.WithTimeout(ctx, keyCheckTimeout)
	defer cancel()
	s := e.current.Load()
	if s.auth == nil {
		return
	}
	changed, err := m.keys.Recheck(ctx, s.conn, s.auth.Value)
	if changed {
		_ = m.cache.reread(ctx, e) // counted; the change notice reads again
	}
	if err != nil {
		m.cache.logger(e).Warn("checking a rejected key failed; retrying later", zap.Error(err))
	}
}
