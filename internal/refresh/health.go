package refresh

import (
	"context"
	"errors"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// CheckServer returns an error while the authorization server was away or ill
// the last time that a token was sent to it.
func (m *Manager) CheckServer(context.Context) error {
	if err := m.serverTrouble.Load(); err != nil {
		return *err
	}
	return nil
}

// CheckCredentials returns an error while something about credentials needs an
// operator's eye: a pair that the store has not taken, a spool without room, a
// store that can be read and not written, a restored store, the brake.
func (m *Manager) CheckCredentials(context.Context) error {
	var errs []error
	if n := m.unsaved.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("%d new token pairs wait for the store", n))
	}
	if err := m.spoolTrouble.Load(); err != nil {
		errs = append(errs, fmt.Errorf("no token is refreshed: %w", *err))
	}
	if err := m.storeTrouble.Load(); err != nil {
		errs = append(errs, fmt.Errorf("no token is refreshed: %w", *err))
	}
	if m.Restored() {
		errs = append(errs, errRolledBack)
	}
	if m.brake.Open() {
		errs = append(errs, errBreakerOpen)
	}
	return errors.Join(errs...)
}

// recordServerHealth notes how the authorization server took a refresh.
func (m *Manager) recordServerHealth(err error) {
	var answer *pleo.ResponseError
	if err == nil || errors.As(err, &answer) && answer.Class != pleo.RateLimited {
		m.serverTrouble.Store(nil)
		return
	}
	m.serverTrouble.Store(&err)
}

// recordStoreHealth notes whether the store took note of a refresh. One that does not may
// well be readable: its disk is full, or somebody else holds it.
func (m *Manager) recordStoreHealth(err error) {
	if errors.Is(err, credstore.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		m.storeTrouble.Store(&err)
		return
	}
	m.storeTrouble.Store(nil)
}
