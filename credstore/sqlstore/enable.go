package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// becomes is what an UPDATE of connections sets for a credential that gives its
// connection the status and reason, two SQL expressions. own_status and
// own_reason follow the credential always, and status and reason do unless the
// connection is disabled.
func becomes(status, reason string) string {
	return fmt.Sprintf(`
		own_status = %[1]s, own_reason = %[2]s,
		status = CASE WHEN status = 'disabled' THEN status ELSE %[1]s END,
		reason = CASE WHEN status = 'disabled' THEN reason ELSE %[2]s END`, status, reason)
}

// Disable ends the use of a connection; see [credstore.Store].
func (s connections) Disable(ctx context.Context, id, reason string) error {
	return s.db.change(ctx, "disabling a connection", id, func(tx *sql.Tx) error {
		c, err := connectionWithID(ctx, tx, id)
		if err != nil || c.Status == credstore.Disabled {
			return err
		}
		return s.db.disable(ctx, tx, id, reason, credstore.Event{Type: credstore.EventDisabled})
	})
}

// disable gives the connection the reason even if it is disabled already, and
// records the event.
func (db *database) disable(ctx context.Context, tx *sql.Tx, id, reason string, e credstore.Event) error {
	row := tx.QueryRowContext(ctx, `
		UPDATE connections SET status = 'disabled', reason = $2 WHERE id = $1 RETURNING `+connectionColumns, id, reason)
	c, err := scanConnection(row.Scan)
	if err != nil {
		return orNotFound(err)
	}
	return db.record(ctx, tx, c, e)
}

// Enable takes Disable back; see [credstore.Store].
func (s connections) Enable(ctx context.Context, id string) error {
	return s.db.change(ctx, "enabling a connection", id, func(tx *sql.Tx) error {
		row := tx.QueryRowContext(ctx, `
			UPDATE connections SET status = own_status, reason = own_reason
			WHERE id = $1 AND status = 'disabled' RETURNING `+connectionColumns, id)
		c, err := scanConnection(row.Scan)
		if errors.Is(err, sql.ErrNoRows) {
			_, err := connectionWithID(ctx, tx, id)
			return err
		}
		if err != nil {
			return err
		}
		if err := s.db.record(ctx, tx, c, credstore.Event{Type: credstore.EventEnabled}); err != nil {
			return err
		}
		return s.db.recordStatus(ctx, tx, c)
	})
}

// Export gives the secrets away; see [credstore.Store].
func (s connections) Export(ctx context.Context, id string) (state credstore.State, err error) {
	l, err := s.db.acquire(ctx, id, "export")
	if err != nil {
		return state, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	run := func(f func(*sql.Tx) error) error { return s.db.change(ctx, "exporting a connection", id, f) }
	err = s.db.withLease(ctx, l, id, run, func(tx *sql.Tx, held *lease) error {
		if _, err := takeFence(ctx, tx, held); err != nil {
			return err
		}
		err := s.db.disable(ctx, tx, id, credstore.ReasonExported, credstore.Event{Type: credstore.EventExported})
		if err != nil {
			return err
		}
		state, err = s.db.readDecrypted(ctx, tx, id)
		return err
	})
	return state, err
}
