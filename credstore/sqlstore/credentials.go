package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// RecordIntent implements [credstore.Credentials]. Watchers do not hear of it.
func (s credentials) RecordIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, at time.Time) (credstore.Intent, error) {
	a := credstore.RecordIntent{Parent: parent, Owner: l.Owner(), Fence: l.Fence(), At: timeOf(millis(at))}
	t, err := s.applyLeased(ctx, "recording an intent", l, parent, s.db.transact, a)
	if err != nil {
		return credstore.Intent{}, err
	}
	return *t.State.Intent, nil
}

// CancelIntent implements [credstore.Credentials].
func (s credentials) CancelIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, f *credstore.RefreshFailure) error {
	a := credstore.CancelIntent{Parent: parent, Fence: l.Fence(), Failure: f}
	_, err := s.applyLeased(ctx, "cancelling an intent", l, parent, s.db.change, a)
	return err
}

// MarkOutcomeUnknown implements [credstore.Credentials].
func (s credentials) MarkOutcomeUnknown(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.RefreshFailure) error {
	a := credstore.MarkOutcomeUnknown{Parent: parent, Failure: f}
	_, err := s.applyLeased(ctx, "recording an unknown outcome", l, parent, s.db.change, a)
	return err
}

// MarkReauthorizationRequired implements [credstore.Credentials].
func (s credentials) MarkReauthorizationRequired(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.Failure, reason string, dropAccess bool) error {
	a := credstore.MarkReauthorizationRequired{Parent: parent, Failure: f, Reason: reason, DropAccessToken: dropAccess}
	_, err := s.applyLeased(ctx, "recording a rejected credential", l, parent, s.db.change, a)
	return err
}

// Reinstate implements [credstore.Credentials].
func (s credentials) Reinstate(ctx context.Context, l credstore.Lease, parent credstore.Parent) error {
	_, err := s.applyLeased(ctx, "reinstating a credential", l, parent, s.db.change, credstore.Reinstate{Parent: parent})
	return err
}

// applyLeased applies an action about the credential of parent under the lease. A
// connection that was removed has no such credential.
func (s credentials) applyLeased(ctx context.Context, doing string, l credstore.Lease, parent credstore.Parent, run runner, a credstore.Action) (t credstore.Transition, err error) {
	err = s.db.underLease(ctx, doing, l, parent.ConnectionID, run, func(tx *sql.Tx, r row) (err error) {
		t, err = s.db.apply(ctx, tx, r, a, l.Fence())
		return err
	})
	return t, supersededIfRemoved(err)
}

func supersededIfRemoved(err error) error {
	if errors.Is(err, credstore.ErrNotFound) {
		return fmt.Errorf("%w: the connection was removed", credstore.ErrSuperseded)
	}
	return err
}

// PromoteKey implements [credstore.Credentials]. The staged key is encrypted again,
// since a ciphertext is bound to its column.
func (s credentials) PromoteKey(ctx context.Context, l credstore.Lease, parent credstore.Parent) (credstore.Connection, error) {
	var t credstore.Transition
	err := s.db.underLease(ctx, "promoting a staged key", l, parent.ConnectionID, s.db.change, func(tx *sql.Tx, r row) error {
		next, err := s.db.decrypt(parent.ConnectionID, columnNextKey, r.secrets.nextKey)
		if err == nil {
			t, err = s.db.apply(ctx, tx, r, credstore.PromoteKey{Parent: parent, NextKey: next}, l.Fence())
		}
		return err
	})
	return t.State.Connection, supersededIfRemoved(err)
}

// Save implements [credstore.Credentials].
func (s credentials) Save(ctx context.Context, n credstore.Successor) (credstore.Connection, error) {
	const doing = "saving a token pair"
	if n.RefreshToken.IsZero() {
		return credstore.Connection{}, fmt.Errorf("%s: it has no refresh token; if the response had none, the parent's stays", doing)
	}
	var saved credstore.Connection
	id := n.Parent.ConnectionID
	err := s.db.change(ctx, doing, id, func(tx *sql.Tx) error {
		r, err := readRow(ctx, tx, id)
		if err != nil {
			return supersededIfRemoved(err)
		}
		t, err := s.db.apply(ctx, tx, r, credstore.Save{Successor: n}, r.fence)
		saved = t.State.Connection
		if errors.Is(err, credstore.ErrSuperseded) {
			saved, err = s.alreadySaved(r, n)
		}
		return err
	})
	return saved, err
}

// alreadySaved returns the connection if it has this very successor already, as after
// a COMMIT whose response was lost; else ErrSuperseded.
func (s credentials) alreadySaved(r row, n credstore.Successor) (credstore.Connection, error) {
	if !r.state.IsSaved(n, n.AccessToken) { // the stored token is not worth decrypting
		return credstore.Connection{}, credstore.ErrSuperseded
	}
	token, err := s.db.decrypt(r.state.Connection.ID, columnAccessToken, r.secrets.accessToken)
	if err != nil {
		return credstore.Connection{}, err
	}
	if !r.state.IsSaved(n, token) {
		return credstore.Connection{}, credstore.ErrSuperseded
	}
	return r.state.Connection, nil
}

// RequestRefresh implements [credstore.Credentials].
func (s credentials) RequestRefresh(ctx context.Context, id string, at time.Time) error {
	return s.db.applyTo(ctx, "requesting a refresh", id, credstore.RequestRefresh{At: at})
}

// RetryRejected implements [credstore.Credentials].
func (s credentials) RetryRejected(ctx context.Context, id string, at time.Time) error {
	return s.db.applyTo(ctx, "requesting a retry", id, credstore.RetryRejected{At: at})
}
