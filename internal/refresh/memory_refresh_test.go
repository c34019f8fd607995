package refresh

import (
	"cmp"
	"context"
	"errors"
	"math"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// memoryLease dies with its process, as a kernel lock does.
type memoryLease struct {
	store *memoryStore
	id    string
	owner string
	fence int64
}

func (l *memoryLease) ConnectionID() string { return l.id }
func (l *memoryLease) Fence() int64         { return l.fence }
func (l *memoryLease) Owner() string        { return l.owner }

func (l *memoryLease) Remaining() time.Duration {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if r, ok := l.store.rows[l.id]; !ok || r.lease != l {
		return 0
	}
	return time.Duration(cmp.Or(l.store.leaseLeft.Load(), math.MaxInt64))
}

func (l *memoryLease) Release() error {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if r, ok := l.store.rows[l.id]; ok && r.lease == l {
		r.lease = nil
	}
	return nil
}

func (s *memoryStore) Acquire(_ context.Context, id, owner string) (lease credstore.Lease, err error) {
	err = s.locked("acquire", func() error {
		r, ok := s.rows[id]
		if !ok {
			return credstore.ErrNotFound
		}
		if r.lease != nil {
			return credstore.ErrBusy
		}
		r.lease = &memoryLease{store: s, id: id, owner: owner, fence: r.fence + 1}
		lease = r.lease
		return nil
	})
	return lease, err
}

// guarded runs f if the lease is held and the stored credential is parent.
func (s *memoryStore) guarded(ctx context.Context, op string, l credstore.Lease, parent credstore.Parent, f func(*row) error) error {
	held, ok := l.(*memoryLease)
	if !ok || held.store != s || held.id != parent.ConnectionID {
		return credstore.ErrLeaseLost
	}
	err := s.write(ctx, op, parent.ConnectionID, func(r *row) error {
		if r.lease != held {
			return credstore.ErrLeaseLost
		}
		if r.Parent() != parent {
			return credstore.ErrSuperseded
		}
		r.fence = l.Fence()
		return f(r)
	})
	return supersededIfGone(err)
}

// supersededIfGone: what is about a removed connection has been superseded.
func supersededIfGone(err error) error {
	if errors.Is(err, credstore.ErrNotFound) {
		return credstore.ErrSuperseded
	}
	return err
}

func (s *memoryStore) RecordIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, at time.Time) (credstore.Intent, error) {
	var written credstore.Intent
	err := s.guarded(ctx, "intend", l, parent, func(r *row) error {
		written = credstore.Intent{FirstAt: at}
		if r.Intent != nil && r.Intent.Parent == parent {
			written = *r.Intent
		}
		written.Parent, written.Owner, written.Fence, written.At = parent, l.Owner(), l.Fence(), at
		written.Outcome, written.NextAt = credstore.OutcomePending, time.Time{}
		written.Attempts++
		intent := written
		r.Intent = &intent
		return nil
	})
	return written, err
}

func (s *memoryStore) CancelIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, f *credstore.RefreshFailure) error {
	return s.guarded(ctx, "withdraw", l, parent, func(r *row) error {
		i := r.Intent
		own := i != nil && i.Fence == l.Fence() && i.Outcome == credstore.OutcomePending
		if own && i.Attempts == 1 {
			r.Intent = nil
		}
		if own && i.Attempts > 1 {
			i.Attempts--
			i.Outcome = credstore.OutcomeUnknown
			if f != nil {
				i.NextAt = f.RetryAt
			}
		}
		if f == nil {
			return nil
		}
		s.setBack(r, f, f.RetryAt)
		if own && f.Unexpected {
			r.countUnusual(f.Failure.At)
		}
		return nil
	})
}

func (s *memoryStore) setBack(r *row, f *credstore.RefreshFailure, retryAt time.Time) {
	before := r.Connection
	r.setBack(f, retryAt)
	e := credstore.Event{Type: credstore.EventRefreshFailed, Code: f.Failure.Code, Message: f.Failure.Message}
	if before.Status != r.Connection.Status {
		e.Type = credstore.EventDegraded
	}
	if e.Type == credstore.EventDegraded || before.LastError == nil || before.LastError.Code != e.Code {
		s.record(r, e)
	}
}

func (r *row) fail(f credstore.Failure) {
	f.Code, f.Message = credstore.CleanText(f.Code), credstore.CleanText(f.Message)
	r.Connection.LastError = &f
}

func (r *row) setBack(f *credstore.RefreshFailure, retryAt time.Time) {
	r.fail(f.Failure)
	if r.own.is == credstore.Active || r.own.is == credstore.Degraded {
		r.become(credstore.Degraded, f.Reason)
	}
	r.RetryAt, r.RequestedAt = retryAt, time.Time{}
}

func (r *row) countUnusual(at time.Time) {
	if r.UnexpectedResponses++; r.UnexpectedSince.IsZero() {
		r.UnexpectedSince = at
	}
}

func (s *memoryStore) MarkOutcomeUnknown(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.RefreshFailure) error {
	return s.guarded(ctx, "doubt", l, parent, func(r *row) error {
		if r.Intent == nil || r.Intent.Parent != parent {
			return credstore.ErrSuperseded
		}
		r.Intent.Outcome, r.Intent.NextAt = credstore.OutcomeUnknown, f.RetryAt
		s.setBack(r, &f, time.Time{})
		return nil
	})
}

func (s *memoryStore) Save(ctx context.Context, n credstore.Successor) (credstore.Connection, error) {
	if n.RefreshToken.IsZero() {
		return credstore.Connection{}, errors.New("a pair without a refresh token")
	}
	var conn credstore.Connection
	err := s.write(ctx, "save", n.Parent.ConnectionID, func(r *row) error {
		again := r.saved.Parent == n.Parent && r.saved.RefreshToken.Equal(n.RefreshToken) && r.saved.AccessToken.Equal(n.AccessToken)
		if r.Parent() != n.Parent && !again || r.Connection.Kind != credstore.OAuth {
			return credstore.ErrSuperseded
		}
		if !again {
			r.succeed(n)
			s.recordSaved(r, n)
		}
		conn = r.Connection
		return nil
	})
	return conn, supersededIfGone(err)
}

func (r *row) succeed(n credstore.Successor) {
	c := &r.Credential
	r.saved = n
	c.ConnectionID = r.Connection.ID
	c.Version++
	c.AccessToken, c.RefreshToken, c.ExpiresAt, c.ObtainedAt = n.AccessToken, n.RefreshToken, n.ExpiresAt, n.ObtainedAt
	c.RejectedAt, c.ForcedStreak, c.ForcedAt = time.Time{}, n.ForcedStreak, n.ForcedAt
	r.Connection.Scope = cmp.Or(n.Scope, r.Connection.Scope)
	r.Connection.CompanyUnverified = r.Connection.CompanyUnverified || n.Consent
	r.activate(n.ExpiresAt)
	if n.RefreshFailure == nil {
		return
	}
	r.setBack(n.RefreshFailure, n.RefreshFailure.RetryAt) // leaves one that is disabled so
}

func (s *memoryStore) MarkReauthorizationRequired(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.Failure, reason string, dropAccess bool) error {
	return s.guarded(ctx, "condemn", l, parent, func(r *row) error {
		c := &r.Connection
		was := status{c.Status, c.Reason}
		r.become(credstore.ReauthorizationRequired, reason)
		r.fail(f)
		r.Intent, r.RetryAt, r.RequestedAt = nil, time.Time{}, time.Time{}
		if c.Kind == credstore.OAuth {
			r.Credential.RejectedAt = f.At
		}
		if dropAccess {
			r.Credential.AccessToken, r.Credential.ExpiresAt, c.ExpiresAt = credstore.Secret{}, time.Time{}, time.Time{}
		}
		if was != (status{c.Status, c.Reason}) {
			s.recordStatus(r)
		}
		return nil
	})
}

func (s *memoryStore) Reinstate(ctx context.Context, l credstore.Lease, parent credstore.Parent) error {
	return s.guarded(ctx, "acquit", l, parent, func(r *row) error {
		r.acquit()
		s.recordStatus(r)
		return nil
	})
}

func (r *row) acquit() {
	c := &r.Connection
	r.become(credstore.Active, "")
	c.LastError, r.Credential.RejectedAt = nil, time.Time{}
}

func (s *memoryStore) StageKey(ctx context.Context, id string, key credstore.Secret, expiresAt time.Time) error {
	return s.write(ctx, "stage key", id, func(r *row) error {
		if !r.Connection.Kind.IsKey() || r.Credential.Version == 0 || key.IsZero() {
			return credstore.ErrSuperseded
		}
		r.Credential.NextKey, r.Credential.NextKeyExpiresAt = key, expiresAt
		s.record(r, credstore.Event{Type: credstore.EventKeyStaged})
		return nil
	})
}

func (s *memoryStore) PromoteKey(ctx context.Context, l credstore.Lease, parent credstore.Parent) (conn credstore.Connection, err error) {
	err = s.guarded(ctx, "promote key", l, parent, func(r *row) error {
		if r.Credential.NextKey.IsZero() {
			return credstore.ErrSuperseded
		}
		r.acquit()
		c := &r.Credential
		r.Connection.ExpiresAt = c.NextKeyExpiresAt
		c.APIKey, c.NextKey, c.NextKeyExpiresAt = c.NextKey, credstore.Secret{}, time.Time{}
		c.Version++
		r.Connection.Version++
		s.record(r, credstore.Event{Type: credstore.EventKeyPromoted})
		s.recordStatus(r)
		conn = r.Connection
		return nil
	})
	return conn, err
}

func (s *memoryStore) RequestRefresh(ctx context.Context, id string, at time.Time) error {
	return s.write(ctx, "request refresh", id, func(r *row) error {
		r.RequestedAt = at
		s.record(r, credstore.Event{Type: credstore.EventRefreshRequested})
		return nil
	})
}

func (s *memoryStore) RetryRejected(ctx context.Context, id string, at time.Time) error {
	return s.write(ctx, "retry", id, func(r *row) error {
		c := &r.Connection
		if c.Kind != credstore.OAuth || c.Status != credstore.ReauthorizationRequired || r.Credential.RefreshToken.IsZero() {
			return credstore.ErrNotRejected
		}
		r.become(credstore.Degraded, credstore.ReasonRetryRequested)
		r.Credential.RejectedAt, r.RequestedAt = time.Time{}, at
		s.record(r, credstore.Event{Type: credstore.EventRetryRequested})
		return nil
	})
}
