package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// StageKey stores the key that is next; see [credstore.Store].
func (s connections) StageKey(ctx context.Context, id string, key credstore.Secret, expiresAt time.Time) error {
	const doing = "staging a key"
	if key.IsZero() {
		return fmt.Errorf("%s: it is empty", doing)
	}
	return s.db.change(ctx, doing, id, func(tx *sql.Tx) error {
		c, err := connectionWithID(ctx, tx, id)
		if err != nil {
			return err
		}
		if !c.Kind.IsKey() || c.Version == 0 {
			return fmt.Errorf("%w: %q has no API key that another could follow", credstore.ErrSuperseded, c.Name)
		}
		sealed, err := s.db.encrypt(ctx, tx, id, columnNextKey, key)
		if err != nil {
			return err
		}
		var number int64
		err = tx.QueryRowContext(ctx, `UPDATE connections SET next_expires_at = $2 WHERE id = $1 RETURNING number`,
			id, millis(expiresAt)).Scan(&number)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE credentials SET next_key = $2 WHERE connection = $1`, number, sealed); err != nil {
			return err
		}
		return s.db.record(ctx, tx, c, credstore.Event{Type: credstore.EventKeyStaged})
	})
}

// PromoteKey puts the staged key in the place of the present one; see
// [credstore.Store].
func (s credentials) PromoteKey(ctx context.Context, l credstore.Lease, parent credstore.Parent) (credstore.Connection, error) {
	run := func(f func(*sql.Tx) error) error {
		return s.db.change(ctx, "promoting a staged key", parent.ConnectionID, f)
	}
	var promoted credstore.Connection
	err := s.db.underLease(ctx, l, parent, run, func(g leasedWrite) error {
		if err := s.db.moveNextKey(ctx, g, parent.ConnectionID); err != nil {
			return err
		}
		if err := g.acquit(ctx); err != nil {
			return err
		}
		row := g.tx.QueryRowContext(ctx, `
			UPDATE connections SET version = version + 1, expires_at = next_expires_at, next_expires_at = NULL, reminded_within = NULL
			WHERE number = $1 RETURNING `+connectionColumns, g.number)
		var err error
		if promoted, err = scanConnection(row.Scan); err != nil {
			return err
		}
		if err := s.db.record(ctx, g.tx, promoted, credstore.Event{Type: credstore.EventKeyPromoted}); err != nil {
			return err
		}
		return s.db.recordStatus(ctx, g.tx, promoted)
	})
	return promoted, err
}

// moveNextKey seals the staged key anew, since the seal is bound to the column.
func (db *database) moveNextKey(ctx context.Context, g leasedWrite, id string) error {
	var sealed []byte
	err := g.tx.QueryRowContext(ctx, `SELECT next_key FROM credentials WHERE connection = $1`, g.number).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) || err == nil && sealed == nil {
		return credstore.ErrSuperseded
	}
	if err != nil {
		return err
	}
	key, err := db.decrypt(id, columnNextKey, sealed)
	if err != nil {
		return err
	}
	if sealed, err = db.encrypt(ctx, g.tx, id, columnAPIKey, key); err != nil {
		return err
	}
	_, err = g.tx.ExecContext(ctx, `UPDATE credentials SET api_key = $2, next_key = NULL WHERE connection = $1`, g.number, sealed)
	return err
}
