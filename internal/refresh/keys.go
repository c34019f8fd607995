package refresh

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// keyCheckTimeout bounds a hearing: two questions to the API and what the store
// records of them.
const keyCheckTimeout = time.Minute

const codeKeyRejected = "key_rejected"

// sharedKeyCheck is one question to the API about a key that it has refused, shared by
// all who wait for the answer.
type keyCheck struct {
	startedAt time.Time
	done      chan struct{} // closed once what the answer means is in memory
}

// checkKeyShared asks the API about the connection's key, at most once in
// credentialCheckInterval, and waits for the answer that is there or under way. Whatever
// that means stands in e.current then.
func (m *Manager) checkKeyShared(ctx context.Context, e *entry) error {
	h := m.sharedKeyCheck(e)
	timer := time.NewTimer(m.Wait)
	defer timer.Stop()
	select {
	case <-h.done:
		return nil
	case <-timer.C:
		return errStillRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sharedKeyCheck returns the latest hearing of e if it is under way or young, else a
// new one.
func (m *Manager) sharedKeyCheck(e *entry) *keyCheck {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := e.hearing; h != nil && (h.underWay() || m.Now().Sub(h.startedAt) < credentialCheckInterval) {
		return h
	}
	h := &keyCheck{startedAt: m.Now(), done: make(chan struct{})}
	e.hearing = h
	if m.API == nil || !m.begin() {
		close(h.done)
		return h
	}
	go func() {
		defer m.running.Done()
		defer close(h.done)
		ctx, cancel := context.WithTimeout(m.lifetime, keyCheckTimeout)
		defer cancel()
		m.judgeKey(ctx, e)
	}()
	return h
}

func (h *keyCheck) underWay() bool {
	select {
	case <-h.done:
		return false
	default:
		return true
	}
}

// reauthorizeKey answers a 401 to a request that was sent with an API key. The
// API itself decides about the key; if that is good, the 401 stands.
func (m *Manager) reauthorizeKey(ctx context.Context, e *entry, rejected *Authorization) (*Authorization, error) {
	if a := e.current.Load().newerThan(rejected, m.Now()); a != nil {
		return a, nil
	}
	if err := m.checkKeyShared(ctx, e); ctx.Err() != nil {
		return nil, err
	}
	if a := e.current.Load().newerThan(rejected, m.Now()); a != nil {
		return a, nil
	}
	return nil, ErrSuppressed
}

// newerThan returns the authorization if it is good and not the rejected one.
func (s *snapshot) newerThan(rejected *Authorization, now time.Time) *Authorization {
	if s.conn.Version > rejected.Version && s.good(now) {
		return s.auth
	}
	return nil
}

// authorizeKey lets a connection whose key was refused try again from time to
// time: whoever mended it may have done so at Pleo's end.
func (m *Manager) authorizeKey(ctx context.Context, e *entry) (*Authorization, error) {
	if e.current.Load().conn.Reason == credstore.ReasonKeyRejected {
		if err := m.checkKeyShared(ctx, e); ctx.Err() != nil {
			return nil, err
		}
	}
	s := e.current.Load()
	if s.good(m.Now()) {
		return s.auth, nil
	}
	if err := s.refusal(); err != nil {
		return nil, err
	}
	return nil, &Error{Code: ReauthorizationRequired, Connection: s.conn.Name, ConnectionID: s.conn.ID, Version: s.conn.Version, Reason: s.conn.Reason}
}

// judgeKey asks about the key and does what the answer says. Only a 401 to
// introspection condemns; that it cannot be asked says nothing about the key.
func (m *Manager) judgeKey(ctx context.Context, e *entry) {
	s := e.current.Load()
	if s.auth == nil {
		return
	}
	_, err := m.API.Introspect(ctx, s.auth.Value)
	switch {
	case errors.Is(err, pleo.ErrUnauthorized):
		err = m.underLease(ctx, e, s.conn.Version, m.refuseKey)
	case err == nil && s.conn.Reason == credstore.ReasonKeyRejected:
		err = m.underLease(ctx, e, s.conn.Version, m.acquitKey)
	}
	if err != nil {
		m.logger(e).Warn("a key that the API has refused could not be judged; it is tried again", errField(err))
	}
}

// anyVersion is for underLease.
const anyVersion = -1

// underLease runs f on the state as read under the lease, if the credential is
// still of the version, and brings memory up to date. A credential that has
// changed meanwhile is left alone.
func (m *Manager) underLease(ctx context.Context, e *entry, version int64, f func(context.Context, credstore.Lease, credstore.State) error) error {
	lease, err := m.lease(ctx, e.id)
	if err != nil {
		return err
	}
	defer func() { _ = lease.Release() }() // it ends with the process at the latest
	state, err := m.Store.Connections.Read(ctx, e.id)
	if err != nil {
		return err
	}
	if version == anyVersion || state.Credential.Version == version {
		err = f(ctx, lease, state)
	}
	return errors.Join(err, m.reread(ctx, e))
}

// lease takes the lease as soon as nobody else holds it.
func (m *Manager) lease(ctx context.Context, id string) (credstore.Lease, error) {
	for {
		lease, err := m.Store.Credentials.Acquire(ctx, id, m.Owner)
		if !errors.Is(err, credstore.ErrBusy) {
			return lease, err
		}
		if err := pause(ctx, leasePollInterval); err != nil {
			return nil, err
		}
	}
}

// refuseKey puts the staged key in the place of the refused one if it is good
// for the same company; else only a person can help.
func (m *Manager) refuseKey(ctx context.Context, lease credstore.Lease, state credstore.State) error {
	parent, log := state.Credential.Parent(), m.Logger.With(zap.String("connection", state.Connection.Name))
	err := m.checkNextKey(ctx, state)
	if err == nil {
		_, err = m.Store.Credentials.PromoteKey(ctx, lease, parent)
		if err == nil {
			log.Info("the API refuses the key; the staged one has taken its place")
		}
		return err
	}
	if state.Connection.Status == credstore.ReauthorizationRequired {
		return nil // as before
	}
	log.Error("the connection needs a person: the API refuses its key", zap.NamedError("next_key", err))
	return m.Store.Credentials.MarkReauthorizationRequired(ctx, lease, parent, credstore.Failure{
		Code: codeKeyRejected, Message: "the API answers 401 to the key", At: m.Now(),
	}, credstore.ReasonKeyRejected, false)
}

// Why a staged key does not take the place of the one that is refused.
var (
	errNoNextKey    = errors.New("no other key is staged")
	errOtherCompany = errors.New("the staged key belongs to another company, or the connection's company is not known")
)

// checkNextKey returns nil if the staged key is good and of the connection's
// company.
func (m *Manager) checkNextKey(ctx context.Context, state credstore.State) error {
	conn, next := state.Connection, state.Credential.NextKey
	if next.IsZero() {
		return errNoNextKey
	}
	who, err := m.API.Introspect(ctx, pleo.AuthorizationHeader(conn.Kind, credstore.Credential{APIKey: next}))
	if err != nil {
		return err
	}
	// What is not known could be anybody's, and a swapped credential books one
	// company's expenses in another's ledger.
	if !conn.Company().Same(who.Company()) {
		return errOtherCompany
	}
	return nil
}

// acquitKey takes back the condemnation of a key that the API accepts again.
func (m *Manager) acquitKey(ctx context.Context, lease credstore.Lease, state credstore.State) error {
	if state.Connection.Reason != credstore.ReasonKeyRejected {
		return nil
	}
	m.Logger.Info("the API accepts the key again", zap.String("connection", state.Connection.Name))
	return m.Store.Credentials.Reinstate(ctx, lease, state.Credential.Parent())
}
