package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.uber.org/zap"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore/sqlitefile"
)

const (
	// applicationID is in the header of the database files: "PLEO".
	applicationID = 0x504c454f
	// busyTimeout is how long a transaction waits for those of other processes.
	busyTimeout = 5 * time.Second
	// maxReaders bounds the connections for reading, and their memory.
	maxReaders = 4
)

// sqliteDialect is the dialect of SQLite.
type sqliteDialect struct {
	write *sql.DB // one connection: SQLite has one writer at a time anyway
	read  *sql.DB
	locks *sqlitefile.Locks
	files []sqlitefile.File
}

func openSQLite(ctx context.Context, path string, log *zap.Logger) (_ *sqliteDialect, err error) {
	path, err = sqlitefile.Prepare(path, log)
	if err != nil {
		return nil, err
	}
	d := new(sqliteDialect)
	if err = d.connect(ctx, path); err == nil {
		d.locks, err = sqlitefile.OpenLocks(path + ".leases")
	}
	if err == nil {
		d.files, err = sqlitefile.Remember(path, path+".leases")
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// connect opens the pools, and migrates the schema.
func (d *sqliteDialect) connect(ctx context.Context, path string) (err error) {
	// Mode rw does not create the file if it was deleted.
	d.write, err = openPool(path, url.Values{"mode": {"rw"}, "_txlock": {"immediate"}, "_synchronous": {"FULL"}}, 1)
	if err != nil {
		return err
	}
	if err := migrate(ctx, d.write, schema()); err != nil {
		return setupError(err)
	}
	d.read, err = openPool(path, url.Values{"mode": {"rw"}, "_query_only": {"1"}}, maxReaders)
	return err
}

func openPool(path string, options url.Values, size int) (*sql.DB, error) {
	options.Set("_busy_timeout", fmt.Sprint(busyTimeout.Milliseconds()))
	options.Set("_foreign_keys", "1")
	options.Set("_pragma", "secure_delete(1)") // overwrite deleted content
	options.Set("_dqs", "0")
	options.Set("_defensive", "1")
	options.Set("_error_rc", "1")
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: options.Encode()}
	connector, err := sqlite.NewConnector(dsn.String())
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(connector)
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size)
	return pool, nil
}

func (d *sqliteDialect) readers() *sql.DB { return d.read }

// transact serializes all transactions that write, in all processes, from their
// beginning.
func (d *sqliteDialect) transact(ctx context.Context, _ string, f func(*sql.Tx) error) error {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after a commit
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func (d *sqliteDialect) lockAll(context.Context, *sql.Tx) error { return nil } // transactions are serialized

func (d *sqliteDialect) shareLock() string { return "" } // transactions are serialized

func (d *sqliteDialect) acquire(ctx context.Context, id, _ string) (leaseHandle, error) {
	return acquireLock(ctx, d.read, id, d.locks.Lock)
}

// checkFiles compares the open files with those that the paths name.
func (d *sqliteDialect) checkFiles() error {
	for _, f := range d.files {
		if err := f.CheckInPlace(); err != nil {
			return err
		}
	}
	return nil
}

// close closes the lock file last, so that no lease ends before the writes under it.
func (d *sqliteDialect) close() error {
	var errs []error
	for _, pool := range []*sql.DB{d.write, d.read} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	if d.locks != nil {
		errs = append(errs, d.locks.Close())
	}
	return errors.Join(errs...)
}

// classify treats all errors of SQLite at run time as unavailability. Some are not
// temporary, like a damaged file, but a person may fix it, and a token pair that could
// not be saved must be tried again then.
func (d *sqliteDialect) classify(err error) error {
	return fmt.Errorf("%w: %w", credstore.ErrUnavailable, err)
}

// setupError adds a hint to the error about a database that cannot be opened.
func setupError(err error) error {
	if isStoreError(err) {
		return err
	}
	var hint string
	switch primaryCode(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		hint = "the file is damaged or not an SQLite database; restore it from a backup"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		hint = "the file and its directory must be writable for this user, and the disk not read-only"
	case sqlite3.SQLITE_FULL:
		hint = "the disk is full; free some space"
	default:
		return fmt.Errorf("%w: %w", credstore.ErrUnavailable, err)
	}
	return &credstore.SetupError{Err: err, Hint: hint}
}

// primaryCode returns SQLite's result code without the details; 0 for other errors.
func primaryCode(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code() & 0xff
}
