package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	pruneInterval = time.Hour
	// removalRetention is how long watchers can learn of a removal. A process that
	// watches is never interrupted for longer, and one that opens the store has nothing
	// to forget.
	removalRetention = 7 * 24 * time.Hour
)

// pruneIfDue prunes unless that was done recently.
func (db *database) pruneIfDue(ctx context.Context) {
	last, now := db.lastPruned.Load(), db.now()
	if now.Sub(time.UnixMilli(last)) >= pruneInterval && db.lastPruned.CompareAndSwap(last, now.UnixMilli()) {
		db.prune(ctx)
	}
}

// prune deletes what was kept long enough. A failure has no consequences: the next run
// deletes it.
func (db *database) prune(ctx context.Context) {
	now := db.now()
	db.lastPruned.Store(now.UnixMilli())
	for _, c := range pruneTasks() {
		if err := db.runPruneTask(ctx, c, now); err != nil {
			db.log.Warn("pruning the store failed; it is repeated later", zap.Error(err))
			return
		}
	}
}

// A task deletes a limited number of rows in a transaction, which a token pair that is
// to be saved may have to wait for, and runs a limited number of transactions; the rest
// is left to the next run.
const (
	pruneBatchSize  = 500
	maxPruneBatches = 20
)

// pruneTask is a statement that deletes what is older than $1, at most $2 rows, and
// does not find again what it has deleted.
type pruneTask struct {
	age       time.Duration
	statement string
}

func pruneTasks() []pruneTask {
	return []pruneTask{
		{credstore.RejectedTokenRetention, `
			UPDATE credentials SET refresh_token = NULL WHERE connection IN (
				SELECT number FROM connections JOIN credentials ON connection = number
				WHERE refused_at <= $1 AND refresh_token IS NOT NULL LIMIT $2)`},
		{removalRetention, `
			DELETE FROM changes WHERE seq IN (
				SELECT seq FROM changes WHERE removed = 1 AND at <= $1 AND seq < (SELECT max(seq) FROM changes) LIMIT $2)`},
		{0, `
			DELETE FROM consents WHERE state_hash IN (SELECT state_hash FROM consents WHERE expires_at <= $1 LIMIT $2)`},
		{credstore.ConsentTimeout, `
			UPDATE links SET token = NULL WHERE token_hash IN (
				SELECT token_hash FROM links WHERE expires_at <= $1 AND token IS NOT NULL LIMIT $2)`},
		{linkRetention, `
			DELETE FROM links WHERE token_hash IN (SELECT token_hash FROM links WHERE expires_at <= $1 LIMIT $2)`},
		// The oldest events have the lowest numbers.
		{credstore.EventRetention, `
			DELETE FROM events WHERE at <= $1 AND number IN (SELECT number FROM events ORDER BY number LIMIT $2)`},
	}
}

func (db *database) runPruneTask(ctx context.Context, c pruneTask, now time.Time) error {
	for range maxPruneBatches {
		var done int64
		err := db.write(ctx, "pruning the store", func(tx *sql.Tx) error {
			result, err := tx.ExecContext(ctx, c.statement, now.Add(-c.age).UnixMilli(), pruneBatchSize)
			if err != nil {
				return err
			}
			done, err = result.RowsAffected()
			return err
		})
		if err != nil || done < pruneBatchSize {
			return err
		}
	}
	return nil
}
