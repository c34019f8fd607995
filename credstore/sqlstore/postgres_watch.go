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
	// pollInterval is how often changes are looked for without a connection to listen
	// on.
	pollInterval = time.Second
	// listenRetryDelay is when listening is tried again that was of no use.
	listenRetryDelay = 5 * time.Minute
	// checkpointInterval is how often a listener makes sure of its connection, and notes how
	// far it has come. A hundred idle replicas do so twice in a second.
	checkpointInterval = time.Minute
	// checkpointTimeout bounds a question on the connection that is listened on.
	checkpointTimeout = 10 * time.Second
)

// recordChange writes the change and sends its notice, which leaves with the commit.
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

// What follows the id in a notice.
const (
	requestedMark  = " requested"
	deliveriesMark = " deliveries"
)

func parseNotice(payload string) credstore.Change {
	id, deliveries := strings.CutSuffix(payload, deliveriesMark)
	id, requested := strings.CutSuffix(id, requestedMark)
	return credstore.Change{ID: id, RefreshRequested: requested, DeliveriesPending: deliveries}
}

// position is a snapshot: which transactions had committed at that moment.
func (d *postgresDialect) position() string { return `SELECT pg_current_snapshot()::text` }

// changes asks for the rows of transactions that the snapshot could not see, and
// of none that lies ahead: rows that were restored from another server may bear
// any number. There is one row at least, for the new position.
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

// errPooled: the connection is shared with others between transactions, and
// notices would come to anyone.
var errPooled = errors.New("a pooler stands before the database")

// watch listens, and looks each second while it cannot. Notices say all there is
// to know while they come; when they begin to, or have been missed, the table
// does.
func (d *postgresDialect) watch(ctx context.Context, w *watcher) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(d.closing, cancel)
	defer stop()
	for {
		err := d.listen(ctx, w)
		if errors.Is(err, errPooled) {
			w.db.log.Warn("changes are looked for each second: a pooler stands before the database; to hear of them at once, give store.dsn a direct connection")
			err = d.poll(ctx, w, listenRetryDelay)
		} else if err != nil && ctx.Err() == nil {
			w.db.log.Warn("listening for changes; trying again", zap.Error(err))
			err = d.poll(ctx, w, pollInterval)
		}
		if err != nil {
			return err
		}
	}
}

// poll looks each second for the time given.
func (d *postgresDialect) poll(ctx context.Context, w *watcher, period time.Duration) error {
	for end := time.Now().Add(period); ; {
		_ = w.poll(ctx) // nothing is lost: the next look begins where this one did
		if err := w.wait(ctx, nil, pollInterval); err != nil {
			return err
		}
		if !time.Now().Before(end) {
			return nil
		}
	}
}

// listen passes notices on until the connection ends or the context does. Its
// error is errPooled, or why the connection is of no use any more.
func (d *postgresDialect) listen(ctx context.Context, w *watcher) (err error) {
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	// It is not to go back to the pool, where it would go on listening.
	defer func() { err = errors.Join(err, discard(conn)) }()
	if err := d.detectNewTimeline(ctx, conn, w); err != nil {
		return err
	}
	if err := d.subscribe(ctx, conn); err != nil {
		return err
	}
	// What was committed before the first notice.
	if err := w.poll(ctx); err != nil {
		return err
	}
	for mark := w.seen; ; {
		err := d.forwardNotifications(ctx, conn, w)
		if err != nil && !pgconn.Timeout(err) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		// The notices of what the mark before had seen have come by now. Those of
		// the new one may be on their way.
		w.seen = mark
		if mark, err = d.checkpoint(ctx, conn); err != nil {
			return err
		}
	}
}

// subscribe begins to listen on the connection.
func (d *postgresDialect) subscribe(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	var process uint32
	if err := conn.QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&process); err != nil {
		return fmt.Errorf("asking for the server process: %w", err)
	}
	err := withPgx(conn, func(c *pgx.Conn) error {
		if c.PgConn().PID() != process { // a pooler gives numbers of its own
			return errPooled
		}
		_, err := c.Exec(ctx, "LISTEN "+pgx.Identifier{d.channel}.Sanitize())
		return err
	})
	if err != nil {
		return fmt.Errorf("beginning to listen: %w", err)
	}
	return nil
}

// detectNewTimeline makes the watcher begin at the beginning where the server is another
// than the one before, which may have confirmed what this one has never seen.
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
		return fmt.Errorf("asking for the timeline: %w", err)
	}
	if now != w.timeline {
		w.timeline, w.seen = now, "1:1:"
	}
	return nil
}

// reencryptionPass passes notices on for checkpointInterval. Its error then is a timeout.
func (d *postgresDialect) forwardNotifications(ctx context.Context, conn *sql.Conn, w *watcher) error {
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

// checkpoint returns the position of this moment.
func (d *postgresDialect) checkpoint(ctx context.Context, conn *sql.Conn) (position string, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	if err := conn.QueryRowContext(ctx, d.position()).Scan(&position); err != nil {
		return "", fmt.Errorf("making sure of the connection: %w", err)
	}
	return position, nil
}

// withPgx runs f on the connection itself.
func withPgx(conn *sql.Conn, f func(*pgx.Conn) error) error {
	return conn.Raw(func(raw any) error {
		c, ok := raw.(cleanConn)
		if !ok {
			return errors.New("the connection is not one of ours")
		}
		return f(c.Conn.Conn())
	})
}

// discard closes the connection and takes it from its pool.
func discard(conn *sql.Conn) error {
	err := conn.Raw(func(any) error { return driver.ErrBadConn })
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) {
		return nil
	}
	return err
}
