package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// maxTransactionAttempts bounds the attempts of a transaction that conflicts with
	// others.
	maxTransactionAttempts = 5
	// outcomeTimeout bounds the search for the outcome of a COMMIT.
	outcomeTimeout      = 2 * time.Second
	outcomePollInterval = 50 * time.Millisecond
)

// beginStatement is the first statement of a transaction that writes. It makes the
// commit durable whatever the default of the server is; ends the transaction of a
// process that is paused or cut off, for which others would wait; returns the
// transaction id, for the search of the outcome; and locks the connection.
const beginStatement = `
	SELECT pg_current_xact_id()::text,
		set_config('synchronous_commit', CASE current_setting('synchronous_commit')
			WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true),
		set_config('idle_in_transaction_session_timeout', '5s', true),
		(SELECT number FROM connections WHERE id = $1 FOR NO KEY UPDATE)`

// transact runs f under READ COMMITTED with the row of the connection locked: each
// statement sees what the previous holder of the lock has committed.
func (d *postgresDialect) transact(ctx context.Context, id string, f func(*sql.Tx) error) error {
	for try := 1; ; try++ {
		err := d.try(ctx, id, f)
		if try == maxTransactionAttempts || !isConflict(err) {
			return err
		}
	}
}

// isConflict reports whether the transaction conflicted with others. The next attempt
// sees what they did, such as a name that is taken now.
func isConflict(err error) bool {
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		return false
	}
	switch said.Code {
	case "40001", // serialization_failure
		"40P01", // deadlock_detected
		"23505": // unique_violation
		return true
	}
	return false
}

func (d *postgresDialect) try(ctx context.Context, id string, f func(*sql.Tx) error) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after a commit
	var xact, set, timeout string
	var number sql.NullInt64
	if err := tx.QueryRowContext(ctx, beginStatement, id).Scan(&xact, &set, &timeout, &number); err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return err
	}
	err = tx.Commit()
	if err == nil || ctx.Err() != nil || errors.Is(err, pgx.ErrTxCommitRollback) {
		return err
	}
	return commitOutcome(ctx, d.db, xact, err)
}

// commitOutcome queries the outcome of a COMMIT whose response was lost. It returns nil
// if the transaction was committed, and lost if it was not or the outcome cannot be
// found out.
func commitOutcome(ctx context.Context, db *sql.DB, xact string, lost error) error {
	ctx, cancel := context.WithTimeout(ctx, outcomeTimeout)
	defer cancel()
	for {
		var status sql.NullString
		err := db.QueryRowContext(ctx, `SELECT pg_xact_status($1::xid8)`, xact).Scan(&status)
		if err == nil && status.String == "committed" {
			return nil
		}
		if err == nil && status.String != "in progress" {
			return lost
		}
		timer := time.NewTimer(outcomePollInterval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return lost
		case <-timer.C:
		}
	}
}

// lockAll holds a lock of the store until the transaction ends.
func (d *postgresDialect) lockAll(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, d.channel)
	return err
}
