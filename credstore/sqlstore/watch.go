package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// watchInterval is how often a database without notifications is polled for changes
	// of other processes; a poll is one search in an index.
	watchInterval = 250 * time.Millisecond
	// maxWatchRetryDelay bounds the interval while the store is unavailable.
	maxWatchRetryDelay = 2 * time.Second
)

// Watch implements [credstore.Changes]. It ends with an error when the store is closed.
func (s changes) Watch(ctx context.Context, changed func([]credstore.Change)) error {
	return s.db.dialect.watch(ctx, &watcher{db: s.db, seen: s.db.opened, interval: watchInterval, changed: changed})
}

// watcher reports changes since the last poll.
type watcher struct {
	db   *database
	seen string // the position reached
	// interval is how often a database without notifications is polled.
	interval time.Duration
	// timeline is that of the server it listens to; empty before, and for SQLite.
	timeline string
	changed  func([]credstore.Change)
}

// poll reports everything that has changed. If it returns an error, it has reported a
// part.
func (w *watcher) poll(ctx context.Context) error {
	for {
		found, latest, more, err := changes{w.db}.since(ctx, w.seen)
		if err != nil {
			return err
		}
		w.seen = latest
		if len(found) > 0 {
			w.changed(found)
		}
		if !more {
			return nil
		}
	}
}

// pause returns how long to wait for the next poll: longer each time while the store is
// unavailable.
func (w *watcher) pause(ctx context.Context, last, usual time.Duration, err error) time.Duration {
	if err == nil {
		return usual
	}
	if last == usual && ctx.Err() == nil {
		w.db.log.Warn("cannot watch connections for changes; trying again", zap.Error(err))
	}
	return max(usual, min(2*last, maxWatchRetryDelay))
}

// wait returns nil when it is time to poll.
func (w *watcher) wait(ctx context.Context, wake <-chan struct{}, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.db.closed:
		return fmt.Errorf("watching connections: %w: it was closed", credstore.ErrUnavailable)
	case <-wake:
	case <-timer.C:
	}
	return nil
}

// since returns the changes after the position seen, and the position reached.
func (s changes) since(ctx context.Context, seen string) (found []credstore.Change, latest string, more bool, err error) {
	query, limit := s.db.dialect.changes()
	latest = seen
	err = s.db.each(ctx, func(rows *sql.Rows) error {
		var id sql.NullString
		var c credstore.Change
		err := rows.Scan(&latest, &id, &c.RefreshRequested, &c.DeliveriesPending)
		if c.ID = id.String; id.Valid {
			found = append(found, c)
		}
		return err
	}, query, seen)
	if err != nil {
		return nil, seen, false, s.db.failure("reading changes", err)
	}
	return found, latest, limit > 0 && len(found) == limit, nil
}

// Conditions about the connection of a row of changes.
const (
	isRequested   = `EXISTS (SELECT 1 FROM connections WHERE id = changes.connection_id AND requested_at IS NOT NULL)`
	hasDeliveries = `EXISTS (SELECT 1 FROM deliveries WHERE deliveries.connection_id = changes.connection_id)`
)
