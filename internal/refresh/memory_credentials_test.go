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

// applyLeased applies an action if the lease is held.
func (s *memoryStore) applyLeased(ctx context.Context, op string, l credstore.Lease, id string, a credstore.Action) (changed row, err error) {
	held, ok := l.(*memoryLease)
	if !ok || held.store != s || held.id != id {
		return changed, credstore.ErrLeaseLost
	}
	err = s.write(ctx, op, id, func(r *row) error {
		if r.lease != held {
			return credstore.ErrLeaseLost
		}
		if err := s.apply(r, a); err != nil {
			return err
		}
		r.fence = held.fence
		changed = *r
		return nil
	})
	return changed, supersededIfRemoved(err)
}

// supersededIfRemoved returns ErrSuperseded for a connection that was removed.
func supersededIfRemoved(err error) error {
	if errors.Is(err, credstore.ErrNotFound) {
		return credstore.ErrSuperseded
	}
	return err
}

func (s *memoryStore) RecordIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, at time.Time) (credstore.Intent, error) {
	r, err := s.applyLeased(ctx, "record intent", l, parent.ConnectionID, credstore.RecordIntent{Parent: parent, Owner: l.Owner(), Fence: l.Fence(), At: at})
	if err != nil {
		return credstore.Intent{}, err
	}
	return *r.Intent, nil
}

func (s *memoryStore) CancelIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, f *credstore.RefreshFailure) error {
	_, err := s.applyLeased(ctx, "cancel intent", l, parent.ConnectionID, credstore.CancelIntent{Parent: parent, Fence: l.Fence(), Failure: f})
	return err
}

func (s *memoryStore) MarkOutcomeUnknown(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.RefreshFailure) error {
	_, err := s.applyLeased(ctx, "mark outcome unknown", l, parent.ConnectionID, credstore.MarkOutcomeUnknown{Parent: parent, Failure: f})
	return err
}

func (s *memoryStore) MarkReauthorizationRequired(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.Failure, reason string, dropAccess bool) error {
	_, err := s.applyLeased(ctx, "require reauthorization", l, parent.ConnectionID, credstore.MarkReauthorizationRequired{
		Parent: parent, Failure: f, Reason: reason, DropAccessToken: dropAccess,
	})
	return err
}

func (s *memoryStore) Reinstate(ctx context.Context, l credstore.Lease, parent credstore.Parent) error {
	_, err := s.applyLeased(ctx, "reinstate", l, parent.ConnectionID, credstore.Reinstate{Parent: parent})
	return err
}

func (s *memoryStore) PromoteKey(ctx context.Context, l credstore.Lease, parent credstore.Parent) (credstore.Connection, error) {
	r, err := s.applyLeased(ctx, "promote key", l, parent.ConnectionID, credstore.PromoteKey{Parent: parent})
	return r.Connection, err
}

func (s *memoryStore) Save(ctx context.Context, n credstore.Successor) (saved credstore.Connection, err error) {
	if n.RefreshToken.IsZero() {
		return credstore.Connection{}, errors.New("a pair without a refresh token")
	}
	err = s.write(ctx, "save", n.Parent.ConnectionID, func(r *row) error {
		err := s.apply(r, credstore.Save{Successor: n})
		if errors.Is(err, credstore.ErrSuperseded) && r.IsSaved(n, r.Credential.AccessToken) {
			err = nil
		}
		if err == nil {
			saved = r.Connection
		}
		return err
	})
	return saved, supersededIfRemoved(err)
}

func (s *memoryStore) RequestRefresh(ctx context.Context, id string, at time.Time) error {
	return s.applyTo(ctx, "request refresh", id, credstore.RequestRefresh{At: at})
}

func (s *memoryStore) RetryRejected(ctx context.Context, id string, at time.Time) error {
	return s.applyTo(ctx, "retry", id, credstore.RetryRejected{At: at})
}
