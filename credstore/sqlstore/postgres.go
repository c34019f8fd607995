package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// maxConnections bounds the connections of one process, not counting the one that
	// it listens on.
	maxConnections = 10
	// maxIdleConnections are kept for the next query, for connectionIdleTimeout.
	maxIdleConnections    = 2
	connectionIdleTimeout = 5 * time.Minute
	// versionTimeout bounds the first query to a server.
	versionTimeout = 10 * time.Second
	// maxConnectionLifetime ends connections to a server that a change of the cluster
	// has demoted.
	maxConnectionLifetime = time.Hour
)

// postgresDialect is the dialect of PostgreSQL, 15 or later. All state is in the
// database, so that it also works behind a pooler that gives each transaction another
// connection; only listening needs a connection of its own.
type postgresDialect struct {
	db            *sql.DB
	log           *zap.Logger
	channel       string // of the notifications of changes
	identity      string // SQL expression for the store's id in Position
	timeline      string // when the store was opened; empty if the server does not report it
	process       string // begins the names of this store's leases
	leaseDuration time.Duration

	closing context.Context // ends when the dialect is closed
	stop    context.CancelFunc

	mu      sync.Mutex // guards handles
	handles map[*rowHandle]struct{}
}

func openPostgres(ctx context.Context, dsn func() credstore.Secret, log *zap.Logger) (_ *postgresDialect, err error) {
	config, err := parseDSN(dsn())
	if err != nil {
		return nil, err
	}
	warnUnverifiedTLS(config, log)
	d := newPostgres(config, dsn, log)
	if err := d.prepare(ctx); err != nil {
		return nil, errors.Join(postgresError(err, config), d.close())
	}
	return d, nil
}

// newPostgres does not connect yet.
func newPostgres(config *pgx.ConnConfig, dsn func() credstore.Secret, log *zap.Logger) *postgresDialect {
	d := &postgresDialect{
		db: sql.OpenDB(newConnector(config, dsn)), log: log,
		process: rand.Text(), leaseDuration: leaseDuration, handles: make(map[*rowHandle]struct{}),
	}
	d.closing, d.stop = context.WithCancel(context.Background())
	d.db.SetMaxOpenConns(maxConnections + 1)
	d.db.SetMaxIdleConns(maxIdleConnections)
	d.db.SetConnMaxIdleTime(connectionIdleTimeout)
	d.db.SetConnMaxLifetime(maxConnectionLifetime)
	return d
}

// prepare checks the server, and migrates the schema.
func (d *postgresDialect) prepare(ctx context.Context) error {
	if err := checkServer(ctx, d.db); err != nil {
		return err
	}
	if err := migratePostgres(ctx, d.db, postgresSchema()); err != nil {
		return err
	}
	if err := checkRights(ctx, d.db); err != nil {
		return err
	}
	return d.nameStore(ctx)
}

// checkServer rejects a release that lacks what the store relies on.
func checkServer(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	var number int
	var name string
	err := db.QueryRowContext(ctx, `
		SELECT current_setting('server_version_num')::bigint, current_setting('server_version')`).Scan(&number, &name)
	if err != nil {
		return fmt.Errorf("querying the server's version: %w", err)
	}
	if number < minServerVersion*10000 {
		return &credstore.SetupError{
			Err:  fmt.Errorf("the server is PostgreSQL %s", name),
			Hint: fmt.Sprintf("use PostgreSQL %d or later", minServerVersion),
		}
	}
	return nil
}

// nameStore sets what depends on the schema of the tables. Stores in one database have
// a schema and a channel each.
func (d *postgresDialect) nameStore(ctx context.Context) error {
	err := d.db.QueryRowContext(ctx, `SELECT 'pleo_auth_proxy_' || md5(current_schema())`).Scan(&d.channel)
	if err != nil {
		return fmt.Errorf("querying the name of the schema: %w", err)
	}
	d.identity = `id || '/' || ` + timeline
	if d.timeline, err = queryTimeline(ctx, d.db); err != nil {
		d.log.Debug("the server does not report its timeline", zap.Error(err))
		d.identity = `id`
	}
	return nil
}

// timeline identifies the history of the server. A server that was promoted, or
// recovered to a point in time, has begun another: it may lack what its predecessor had
// confirmed.
const timeline = `substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)`

func queryTimeline(ctx context.Context, q querier) (name string, err error) {
	err = q.QueryRowContext(ctx, `SELECT `+timeline).Scan(&name)
	return name, err
}

func (d *postgresDialect) readers() *sql.DB { return d.db }

func (d *postgresDialect) shareLock() string { return ` FOR SHARE` }

func (d *postgresDialect) storeName() string { return d.identity }

// lastChange reads the rows, not the sequence: a sequence is written ahead, so a server
// that has lost changes may still have it right.
func (d *postgresDialect) lastChange() string { return `(SELECT coalesce(max(seq), 0) FROM changes)` }

// classify treats all errors of the server and the network at run time as
// unavailability: a person may fix even what is not temporary, and a token pair that
// could not be saved must be tried again then.
func (d *postgresDialect) classify(err error) error {
	return fmt.Errorf("%w: %w", credstore.ErrUnavailable, err)
}

func (d *postgresDialect) checkFiles() error { return nil }

// close ends the leases first, since that takes the pool.
func (d *postgresDialect) close() error {
	d.stop()
	return errors.Join(d.releaseAll(), d.db.Close())
}
