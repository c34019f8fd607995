package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// watchEvery is how often the changes of other processes are looked for; the
	// look is one search in an index.
	watchEvery = 250 * time.Millisecond
	// watchAtMost is how long a watcher waits at most while the store is away.
	watchAtMost = 2 * time.Second
	// watchBatch is how many changes are reported at once.
	watchBatch = 500
)

// noteChange gives the change of a connection the next number.
func (s *Store) noteChange(ctx context.Context, tx *sql.Tx, id string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM changes WHERE connection_id = $1`, id)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO changes (connection_id, at, removed)
		SELECT $1, $2, NOT EXISTS (SELECT 1 FROM connections WHERE id = $1)`, id, s.now().UnixMilli())
	return err
}

// Watch reports changes; see [credstore.Store]. It ends with an error when the
// store is closed.
func (s *Store) Watch(ctx context.Context, changed func(ids []string)) error {
	seen, wait := s.opened, watchEvery
	for {
		own := s.changes.next() // before the look, so that nothing falls in between
		ids, latest, err := s.changesSince(ctx, seen)
		wait = s.watchPause(ctx, wait, err)
		if len(ids) > 0 {
			seen = latest
			changed(ids)
		}
		if len(ids) == watchBatch {
			continue
		}
		if err := s.awaitChange(ctx, own, wait); err != nil {
			return err
		}
	}
}

// watchPause is how long to wait for the next look: longer each time while the
// store is unavailable.
func (s *Store) watchPause(ctx context.Context, last time.Duration, err error) time.Duration {
	if err == nil {
		return watchEvery
	}
	if last == watchEvery && ctx.Err() == nil {
		s.log.Warn("changes to connections cannot be watched; trying again", zap.Error(err))
	}
	return min(2*last, watchAtMost)
}

// awaitChange returns nil when it is time to look again.
func (s *Store) awaitChange(ctx context.Context, own <-chan struct{}, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return fmt.Errorf("watching connections: %w: it was closed", credstore.ErrUnavailable)
	case <-own:
	case <-timer.C:
	}
	return nil
}

func (s *Store) changesSince(ctx context.Context, seen int64) (ids []string, latest int64, err error) {
	err = s.each(ctx, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&latest, &id)
		ids = append(ids, id)
		return err
	}, `SELECT seq, connection_id FROM changes WHERE seq > $1 ORDER BY seq LIMIT $2`, seen, watchBatch)
	if err != nil {
		return nil, seen, s.failure("looking for changes", err)
	}
	return ids, latest, nil
}

// broadcast wakes all who wait. The zero broadcast is ready.
type broadcast struct {
	mu   sync.Mutex    // guards wake
	wake chan struct{} // closed by send; nil while nobody waits
}

// next returns a channel that the next send closes.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wake == nil {
		b.wake = make(chan struct{})
	}
	return b.wake
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wake != nil {
		close(b.wake)
		b.wake = nil
	}
}
