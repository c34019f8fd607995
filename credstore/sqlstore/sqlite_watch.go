package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// watchBatch is how many changes are reported at once.
const watchBatch = 500

// recordChange replaces the row, so that it gets the next number.
func (d *sqliteDialect) recordChange(ctx context.Context, tx *sql.Tx, id string, at time.Time) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM changes WHERE connection_id = $1`, id)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO changes (connection_id, at, removed)
		SELECT $1, $2, NOT EXISTS (SELECT 1 FROM connections WHERE id = $1)`, id, at.UnixMilli())
	return err
}

func (d *sqliteDialect) position() string { return `SELECT coalesce(max(seq), 0) FROM changes` }

func (d *sqliteDialect) changes() (query string, limit int) {
	return fmt.Sprintf(`
		SELECT seq, connection_id,
			`+isRequested+`, `+hasDeliveries+`
		FROM changes WHERE seq > CAST($1 AS INTEGER) ORDER BY seq LIMIT %d`, watchBatch), watchBatch
}

func (d *sqliteDialect) storeName() string { return `id` }

func (d *sqliteDialect) lastChange() string {
	return `coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0)`
}

// watch polls, since SQLite has no notifications.
func (d *sqliteDialect) watch(ctx context.Context, w *watcher) error {
	for wait := w.interval; ; {
		own := w.db.changes.Wait() // before the poll, so that no change is missed
		err := w.poll(ctx)
		wait = w.pause(ctx, wait, w.interval, err)
		if err := w.wait(ctx, own, wait); err != nil {
			return err
		}
	}
}
