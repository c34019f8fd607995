package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// RequestRefresh records an operator's request; see [credstore.Store].
func (s credentials) RequestRefresh(ctx context.Context, id string, at time.Time) error {
	return s.db.change(ctx, "requesting a refresh", id, func(tx *sql.Tx) error {
		row := tx.QueryRowContext(ctx, `UPDATE connections SET requested_at = $2 WHERE id = $1 RETURNING `+connectionColumns, id, at.UnixMilli())
		c, err := scanConnection(row.Scan)
		if err != nil {
			return orNotFound(err)
		}
		return s.db.record(ctx, tx, c, credstore.Event{Type: credstore.EventRefreshRequested})
	})
}

// RetryRejected has a refused token presented again; see [credstore.Store].
func (s credentials) RetryRejected(ctx context.Context, id string, at time.Time) error {
	return s.db.change(ctx, "requesting a retry", id, func(tx *sql.Tx) error {
		if _, err := connectionWithID(ctx, tx, id); err != nil {
			return err
		}
		row := tx.QueryRowContext(ctx, `
			UPDATE connections SET `+becomes(`'degraded'`, `$3`)+`, refused_at = NULL, requested_at = $2
			WHERE id = $1 AND kind = 'oauth' AND status = 'reauthorization_required'
				AND EXISTS (SELECT 1 FROM credentials WHERE connection = number AND refresh_token IS NOT NULL)
			RETURNING `+connectionColumns, id, at.UnixMilli(), credstore.ReasonRetryRequested)
		c, err := scanConnection(row.Scan)
		if errors.Is(err, sql.ErrNoRows) {
			return credstore.ErrNotRejected
		}
		if err != nil {
			return err
		}
		return s.db.record(ctx, tx, c, credstore.Event{Type: credstore.EventRetryRequested})
	})
}

// changedOne returns ErrNotFound if a statement that is about one connection
// has changed none.
func changedOne(result sql.Result, err error) error {
	changed, err := affected(result, err)
	if err == nil && !changed {
		err = credstore.ErrNotFound
	}
	return err
}

// affected reports whether a statement has changed a row.
func affected(result sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}
