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

// keyCheck is one check of a connection's key, shared by all who wait for its
// result.
type keyCheck struct {
	startedAt time.Time
	done      chan struct{} // closed when the result is in memory
}

func (k *keyCheck) inProgress() bool {
	select {
	case <-k.done:
		return false
	default:
		return true
	}
}

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
	if s.valid(m.config.Now()) {
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
	if a := e.current.Load().newerThan(rejected, m.config.Now()); a != nil {
		return a, nil
	}
	m.waitKeyCheck(ctx, e)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if a := e.current.Load().newerThan(rejected, m.config.Now()); a != nil {
		return a, nil
	}
	return nil, ErrSuppressed
}

// waitKeyCheck waits for a check of the connection's key, which is made at most
// once in credentialCheckInterval. The result is in e.current.
func (m *Manager) waitKeyCheck(ctx context.Context, e *entry) {
	check := m.startKeyCheck(e)
	select {
	case <-check.done:
	case <-time.After(m.config.Wait):
	case <-ctx.Done():
	}
}

// startKeyCheck returns the latest check of the entry if it is in progress or
// recent, otherwise a new one.
func (m *Manager) startKeyCheck(e *entry) *keyCheck {
	e.mu.Lock()
	defer e.mu.Unlock()
	if k := e.keyCheck; k != nil && (k.inProgress() || m.config.Now().Sub(k.startedAt) < credentialCheckInterval) {
		return k
	}
	k := &keyCheck{startedAt: m.config.Now(), done: make(chan struct{})}
	e.keyCheck = k
	started := m.config.API != nil && m.life.run(func() {
		defer close(k.done)
		ctx, cancel := context.WithTimeout(m.life.ctx, keyCheckTimeout)
		defer cancel()
		m.checkKey(ctx, e)
	})
	if !started {
		close(k.done)
	}
	return k
}

// checkKey checks the key, records the result and brings memory up to date.
func (m *Manager) checkKey(ctx context.Context, e *entry) {
	s := e.current.Load()
	if s.auth == nil {
		return
	}
	changed, err := m.keys.Recheck(ctx, s.conn, s.auth.Value)
	if changed {
		_ = m.conns.reread(ctx, e) // counted; the change notice reads again
	}
	if err != nil {
		m.conns.logger(e).Warn("checking a rejected key failed; retrying later", zap.Error(err))
	}
}
