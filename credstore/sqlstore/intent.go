package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// readIntent returns nil if none is outstanding.
func readIntent(ctx context.Context, q querier, id string, number int64) (*credstore.Intent, error) {
	i := credstore.Intent{Parent: credstore.Parent{ConnectionID: id}}
	var hash []byte
	var at, firstAt, nextAt sql.NullInt64
	err := q.QueryRowContext(ctx, `
		SELECT parent_version, parent_hash, owner, fence, at, first_at, outcome, presentations, next_at
		FROM intents WHERE connection = $1`, number).
		Scan(&i.Parent.Version, &hash, &i.Owner, &i.Fence, &at, &firstAt, &i.Outcome, &i.Attempts, &nextAt)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	copy(i.Parent.RefreshHash[:], hash)
	i.At, i.FirstAt, i.NextAt = timeOf(at), timeOf(firstAt), timeOf(nextAt)
	return &i, err
}

// RecordIntent records an intent; see [credstore.Store].
func (s credentials) RecordIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, at time.Time) (credstore.Intent, error) {
	run := func(f func(*sql.Tx) error) error {
		return s.db.transact(ctx, "recording an intent", parent.ConnectionID, f)
	}
	var intent credstore.Intent
	err := s.db.underLease(ctx, l, parent, run, func(g leasedWrite) error {
		if err := g.announce(ctx, parent, l.Owner(), at); err != nil {
			return err
		}
		stored, err := readIntent(ctx, g.tx, parent.ConnectionID, g.number)
		if err != nil {
			return err
		}
		intent = *stored
		return nil
	})
	return intent, err
}

// announce writes the intent. One that is there for the same parent is taken
// over and counts on; one for an earlier parent is replaced.
func (g leasedWrite) announce(ctx context.Context, parent credstore.Parent, owner string, at time.Time) error {
	_, err := g.tx.ExecContext(ctx, `DELETE FROM intents WHERE connection = $1 AND (parent_version <> $2 OR parent_hash <> $3)`,
		g.number, parent.Version, parent.RefreshHash[:])
	if err != nil {
		return err
	}
	_, err = g.tx.ExecContext(ctx, `
		INSERT INTO intents (connection, parent_version, parent_hash, owner, fence, at, first_at, outcome, presentations)
		VALUES ($1, $2, $3, $4, $5, $6, $6, $7, 1)
		ON CONFLICT (connection) DO UPDATE SET owner = excluded.owner, fence = excluded.fence, at = excluded.at,
			outcome = excluded.outcome, presentations = intents.presentations + 1, next_at = NULL`,
		g.number, parent.Version, parent.RefreshHash[:], owner, g.fence, at.UnixMilli(), credstore.OutcomePending)
	return err
}

// CancelIntent takes an intent back; see [credstore.Store]. Withdrawing again, as one
// does after ErrUnavailable, changes nothing more.
func (s credentials) CancelIntent(ctx context.Context, l credstore.Lease, parent credstore.Parent, f *credstore.RefreshFailure) error {
	run := func(f func(*sql.Tx) error) error {
		return s.db.change(ctx, "withdrawing an intent", parent.ConnectionID, f)
	}
	return s.db.underLease(ctx, l, parent, run, func(g leasedWrite) error {
		withdrawn, err := g.withdraw(ctx, f)
		if err != nil || f == nil {
			return err
		}
		return s.db.setback(ctx, g, *f, f.RetryAt, withdrawn)
	})
}

// withdraw reports whether there was an intent to withdraw. Only what this very
// lease has announced is: the intent of a dead owner says that its token may be
// on the way, whoever comes after.
func (g leasedWrite) withdraw(ctx context.Context, f *credstore.RefreshFailure) (bool, error) {
	gone, err := g.affected(ctx, `
		DELETE FROM intents WHERE connection = $1 AND fence = $2 AND outcome = $3 AND presentations = 1`,
		g.number, g.fence, credstore.OutcomePending)
	if err != nil || gone {
		return gone, err
	}
	var next sql.NullInt64
	if f != nil {
		next = millis(f.RetryAt)
	}
	return g.affected(ctx, `
		UPDATE intents SET outcome = $4, presentations = presentations - 1, next_at = $5
		WHERE connection = $1 AND fence = $2 AND outcome = $3`,
		g.number, g.fence, credstore.OutcomePending, credstore.OutcomeUnknown, next)
}

// MarkOutcomeUnknown records an unknown outcome; see [credstore.Store].
func (s credentials) MarkOutcomeUnknown(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.RefreshFailure) error {
	run := func(f func(*sql.Tx) error) error {
		return s.db.change(ctx, "recording an unknown outcome", parent.ConnectionID, f)
	}
	return s.db.underLease(ctx, l, parent, run, func(g leasedWrite) error {
		found, err := g.affected(ctx, `
			UPDATE intents SET outcome = $2, next_at = $3 WHERE connection = $1 AND parent_version = $4`,
			g.number, credstore.OutcomeUnknown, millis(f.RetryAt), parent.Version)
		if err != nil {
			return err
		}
		if !found {
			return credstore.ErrSuperseded
		}
		return s.db.setback(ctx, g, f, time.Time{}, false)
	})
}

// setback records what went wrong. Whoever is neither active nor degraded stays
// what he is: it takes more than a failed refresh to change that.
func (db *database) setback(ctx context.Context, g leasedWrite, f credstore.RefreshFailure, retryAt time.Time, counts bool) error {
	before, err := connectionWithNumber(ctx, g.tx, g.number)
	if err != nil {
		return err
	}
	row := g.tx.QueryRowContext(ctx, `
		UPDATE connections SET
			`+becomes(`CASE WHEN own_status = 'active' THEN 'degraded' ELSE own_status END`,
		`CASE WHEN own_status IN ('active', 'degraded') THEN $2 ELSE own_reason END`)+`,
			error_code = $3, error_message = $4, error_at = $5, retry_at = $6, requested_at = NULL,
			unusual = unusual + $7,
			unusual_since = CASE WHEN $7 = 1 AND unusual_since IS NULL THEN $5 ELSE unusual_since END
		WHERE number = $1 RETURNING `+connectionColumns,
		g.number, f.Reason, credstore.CleanText(f.Failure.Code), credstore.CleanText(f.Failure.Message), millis(f.Failure.At), millis(retryAt), asInt(counts && f.Unexpected))
	after, err := scanConnection(row.Scan)
	if err != nil {
		return err
	}
	return db.recordFailure(ctx, g.tx, before, after)
}

// affected runs a statement and reports whether it changed a row.
func (g leasedWrite) affected(ctx context.Context, statement string, args ...any) (bool, error) {
	return affected(g.tx.ExecContext(ctx, statement, args...))
}
