package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	tidyEvery = time.Hour
	// removalKept is how long a removal can be heard of. Nobody watches with a
	// longer break: who opens the store anew remembers nothing.
	removalKept = 7 * 24 * time.Hour
)

// tidyAtTimes tidies if that was not done lately.
func (s *Store) tidyAtTimes(ctx context.Context) {
	last, now := s.tidied.Load(), s.now()
	if now.Sub(time.UnixMilli(last)) >= tidyEvery && s.tidied.CompareAndSwap(last, now.UnixMilli()) {
		s.tidy(ctx)
	}
}

// tidy forgets what has been kept long enough. It is of no consequence when it
// fails: it is done again later.
func (s *Store) tidy(ctx context.Context) {
	now := s.now()
	s.tidied.Store(now.UnixMilli())
	err := s.write(ctx, "tidying the store", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `
			UPDATE credentials SET refresh_token = NULL
			WHERE refresh_token IS NOT NULL AND connection IN (SELECT number FROM connections WHERE refused_at <= $1)`,
			now.Add(-credstore.RefusedTokenKept).UnixMilli())
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `
			DELETE FROM changes WHERE removed = 1 AND at <= $1 AND seq < (SELECT max(seq) FROM changes)`,
			now.Add(-removalKept).UnixMilli())
		return err
	})
	if err != nil {
		s.log.Warn("tidying the store failed; it is done again later", zap.Error(err))
	}
}
