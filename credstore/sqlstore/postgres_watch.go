package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// pollInterval is how often changes are polled without a connection to listen on.
	pollInterval = time.Second
	// listenRetryDelay is when listening behind a pooler is tried again.
	listenRetryDelay = 5 * time.Minute
	// checkpointInterval is how often a listener checks its connection and records its
	// position. A hundred idle replicas do so twice per second.
	checkpointInterval = time.Minute
	// checkpointTimeout bounds a query on the connection that is listened on.
	checkpointTimeout = 10 * time.Second
)

// recordChange writes the change, and a notification that is sent with the commit.
func (d *postgresDialect) recordChange(ctx context.Context, tx *sql.Tx, id string, at time.Time) error {
	_, err := tx.ExecContext(ctx, `
		WITH noted AS (
			INSERT INTO changes (connection_id, at, removed)
			SELECT $1, $2, CASE WHEN EXISTS (SELECT 1 FROM connections WHERE id = $1) THEN 0 ELSE 1 END
			ON CONFLICT (connection_id) DO UPDATE
				SET seq = excluded.seq, at = excluded.at, removed = excluded.removed, xact = excluded.xact
			RETURNING connection_id, `+isRequested+` AS requested, `+hasDeliveries+` AS deliveries
		)
		SELECT pg_notify($3, connection_id
			|| CASE WHEN requested THEN '`+requestedMark+`' ELSE '' END
			|| CASE WHEN deliveries THEN '`+deliveriesMark+`' ELSE '' END)
		FROM noted`, id, at.UnixMilli(), d.channel)
	return err
}

// Suffixes of the id in a notification.
const (
	requestedMark  = " requested"
	deliveriesMark = " deliveries"
)

func parseNotice(payload string) credstore.Change {
	id, deliveries := strings.CutSuffix(payload, deliveriesMark)
	id, requested := strings.CutSuffix(id, requestedMark)
	return credstore.Change{ID: id, RefreshRequested: requested, DeliveriesPending: deliveries}
}

// position is a snapshot: the set of transactions that had committed.
func (d *postgresDialect) position() string { return `SELECT pg_current_snapshot()::text` }

// changes returns the rows of transactions that the snapshot does not include, and of
// none in the future: rows that were restored from another server may have any
// transaction id. There is at least one row, with the new position.
func (d *postgresDialect) changes() (query string, limit int) {
	return `
		SELECT now.position::text, c.connection_id, coalesce(c.requested, false), coalesce(c.deliveries, false)
		FROM (SELECT pg_current_snapshot() AS position) AS now LEFT JOIN LATERAL (
			SELECT seq, connection_id, ` + isRequested + ` AS requested, ` + hasDeliveries + ` AS deliveries
			FROM changes
			WHERE xact >= pg_snapshot_xmin($1::pg_snapshot) AND xact < pg_snapshot_xmax(now.position)
				AND NOT pg_visible_in_snapshot(xact, $1::pg_snapshot)
		) AS c ON true ORDER BY c.seq`, 0
}

// errPooled: a pooler shares the connection between clients, and notifications would go
// to any of them.
var errPooled = errors.New("the database is behind a pooler")

// watch listens, and polls each second while it cannot. Notifications are complete
// while they come; when listening begins or was interrupted, a poll finds the rest.
func (d *postgresDialect) watch(ctx context.Context, w *watcher) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(d.closing, cancel)
	defer stop()
	for {
		err := d.listen(ctx, w)
		if errors.Is(err, errPooled) {
			w.db.log.Warn("polling for changes each second: the database is behind a pooler; for immediate notifications give store.dsn a direct connection")
			err = pollFor(ctx, w, listenRetryDelay)
		} else if err != nil && ctx.Err() == nil {
			w.db.log.Warn("cannot listen for changes; trying again", zap.Error(err))
			err = pollFor(ctx, w, pollInterval)
		}
		if err != nil {
			return err
		}
	}
}

// pollFor polls each second for the period.
func pollFor(ctx context.Context, w *watcher, period time.Duration) error {
	for end := time.Now().Add(period); ; {
		_ = w.poll(ctx) // nothing is lost: the next poll begins at the same position
		if err := w.wait(ctx, nil, pollInterval); err != nil {
			return err
		}
		if !time.Now().Before(end) {
			return nil
		}
	}
}

// listen reports notifications until the connection or the context ends. Its error is
// errPooled, or why the connection cannot be used any more.
func (d *postgresDialect) listen(ctx context.Context, w *watcher) (err error) {
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	// The connection must not return to the pool, where it would keep listening.
	defer func() { err = errors.Join(err, discard(conn)) }()
	if err := d.detectNewTimeline(ctx, conn, w); err != nil {
		return err
	}
	if err := subscribe(ctx, conn, d.channel); err != nil {
		return err
	}
	// Report what was committed before the first notification.
	if err := w.poll(ctx); err != nil {
		return err
	}
	for mark := w.seen; ; {
		err := forwardNotifications(ctx, conn, w)
		if err != nil && !pgconn.Timeout(err) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		// The notifications of changes before the previous checkpoint have arrived by
		// now. Those before the new one may be in flight.
		w.seen = mark
		if mark, err = d.checkpoint(ctx, conn); err != nil {
			return err
		}
	}
}

// subscribe starts to listen on the connection.
func subscribe(ctx context.Context, conn *sql.Conn, channel string) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	var process uint32
	if err := conn.QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&process); err != nil {
		return fmt.Errorf("querying the server process: %w", err)
	}
	err := withPgx(conn, func(c *pgx.Conn) error {
		if c.PgConn().PID() != process { // a pooler reports process ids of its own
			return errPooled
		}
		_, err := c.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize())
		return err
	})
	if err != nil {
		return fmt.Errorf("starting to listen: %w", err)
	}
	return nil
}

// detectNewTimeline makes the watcher report everything again if the server has another
// timeline than before: it may lack what its predecessor had confirmed.
func (d *postgresDialect) detectNewTimeline(ctx context.Context, conn *sql.Conn, w *watcher) error {
	if w.timeline == "" {
		w.timeline = d.timeline
	}
	if w.timeline == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	now, err := queryTimeline(ctx, conn)
	if err != nil {
		return fmt.Errorf("querying the timeline: %w", err)
	}
	if now != w.timeline {
		w.timeline, w.seen = now, "1:1:"
	}
	return nil
}

// forwardNotifications reports notifications for checkpointInterval. Then its error is
// a timeout.
func forwardNotifications(ctx context.Context, conn *sql.Conn, w *watcher) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointInterval)
	defer cancel()
	return withPgx(conn, func(c *pgx.Conn) error {
		for {
			n, err := c.WaitForNotification(ctx)
			if err != nil {
				return err
			}
			w.changed([]credstore.Change{parseNotice(n.Payload)})
		}
	})
}

// checkpoint returns the current position.
func (d *postgresDialect) checkpoint(ctx context.Context, conn *sql.Conn) (position string, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	if err := conn.QueryRowContext(ctx, d.position()).Scan(&position); err != nil {
		return "", fmt.Errorf("checking the connection: %w", err)
	}
	return position, nil
}

// withPgx runs f on the underlying connection.
func withPgx(conn *sql.Conn, f func(*pgx.Conn) error) error {
	return conn.Raw(func(raw any) error {
		c, ok := raw.(cleanConn)
		if !ok {
			return errors.New("unexpected type of connection")
		}
		return f(c.Conn.Conn())
	})
}

// discard closes the connection and removes it from its pool.
func discard(conn *sql.Conn) error {
	err := conn.Raw(func(any) error { return driver.ErrBadConn })
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) {
		return nil
	}
	return err
}
