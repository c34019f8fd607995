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
	// removalRetention is how long a removal can be heard of. Nobody watches with a
	// longer break: who opens the store anew remembers nothing.
	removalRetention = 7 * 24 * time.Hour
)

// pruneIfDue tidies if that was not done lately.
func (db *database) pruneIfDue(ctx context.Context) {
	last, now := db.lastPruned.Load(), db.now()
	if now.Sub(time.UnixMilli(last)) >= pruneInterval && db.lastPruned.CompareAndSwap(last, now.UnixMilli()) {
		db.prune(ctx)
	}
}

// prune forgets what has been kept long enough. It is of no consequence when it
// fails: it is done again later.
func (db *database) prune(ctx context.Context) {
	now := db.now()
	db.lastPruned.Store(now.UnixMilli())
	for _, c := range pruneTasks() {
		if err := db.runPruneTask(ctx, c, now); err != nil {
			db.log.Warn("tidying the store failed; it is done again later", zap.Error(err))
			return
		}
	}
}

// A chore works on so many rows in a transaction, which a token pair that is to
// be saved may have to wait for, and in so many transactions at a time; what is
// left then is left to the next time.
const (
	pruneBatchSize  = 500
	maxPruneBatches = 20
)

// pruneTask is a statement that forgets what is older than $1, at most $2 rows of
// it, and does not find again what it has forgotten.
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
		// The oldest have the lowest numbers.
		{credstore.EventRetention, `
			DELETE FROM events WHERE at <= $1 AND number IN (SELECT number FROM events ORDER BY number LIMIT $2)`},
	}
}

func (db *database) runPruneTask(ctx context.Context, c pruneTask, now time.Time) error {
	for range maxPruneBatches {
		var done int64
		err := db.write(ctx, "tidying the store", func(tx *sql.Tx) error {
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
