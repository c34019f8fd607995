package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// RequestRefresh records an operator's request; see [credstore.Store].
func (s *Store) RequestRefresh(ctx context.Context, id string, at time.Time) error {
	return s.change(ctx, "requesting a refresh", id, func(tx *sql.Tx) error {
		return changedOne(tx.ExecContext(ctx, `UPDATE connections SET requested_at = $2 WHERE id = $1`, id, at.UnixMilli()))
	})
}

// Retry has a refused token presented again; see [credstore.Store].
func (s *Store) Retry(ctx context.Context, id string, at time.Time) error {
	return s.change(ctx, "requesting a retry", id, func(tx *sql.Tx) error {
		if _, err := connectionWithID(ctx, tx, id); err != nil {
			return err
		}
		err := changedOne(tx.ExecContext(ctx, `
			UPDATE connections SET status = 'degraded', reason = $3, refused_at = NULL, requested_at = $2
			WHERE id = $1 AND kind = 'oauth' AND status = 'reauthorization_required'
				AND EXISTS (SELECT 1 FROM credentials WHERE connection = number AND refresh_token IS NOT NULL)`,
			id, at.UnixMilli(), credstore.ReasonRetry))
		if err == credstore.ErrNotFound { //nolint:errorlint // changedOne has just made it
			return credstore.ErrNotRefused
		}
		return err
	})
}

// changedOne returns ErrNotFound if a statement that is about one connection
// has changed none.
func changedOne(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		err = credstore.ErrNotFound
	}
	return err
}
