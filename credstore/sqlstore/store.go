package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/broadcast"
)

// Config says which store to open, and how.
type Config struct {
	// Path of the SQLite database, which is created with its directory if it does not
	// exist. It must be on a local file system.
	Path string
	// DSN, if not nil, returns the connection string of a PostgreSQL database, which is
	// used instead of Path. It is called for each connection, so that a changed
	// password is used.
	DSN func() credstore.Secret
	// Memory, if not nil, is the database to use instead of Path.
	Memory *Memory
	// Keyset encrypts the secrets. It must contain the key that the store names.
	Keyset *keyset.Keyset
	// Binding must be the one that the store was first opened with; only a client id
	// may be added later.
	Binding credstore.Binding

	Logger *zap.Logger      // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
}

// Store is a store in an SQL database. Its methods, and those of its parts, may be
// called by several goroutines at once.
type Store struct {
	credstore.Store // the parts

	Keys *Keys // the keys that the store is encrypted with

	db *database
}

// The parts of a store, as package credstore defines them.
type (
	connections struct{ db *database }
	credentials struct{ db *database }
	links       struct{ db *database }
	history     struct{ db *database }
	outbox      struct{ db *database }
	changes     struct{ db *database }
)

// database is what the parts of a store share.
type database struct {
	dialect dialect
	keys    *keyset.Keyset
	log     *zap.Logger
	now     func() time.Time

	opened     string           // position in the changes when the store was opened
	changes    broadcast.Signal // of changes by this process
	closed     chan struct{}    // closed by Close
	close      func() error     // closes once
	lastPruned atomic.Int64     // when prune ran last, in Unix milliseconds
}

// Open opens the store, and creates or migrates it if necessary. What a person must fix
// is a [credstore.SetupError]: an invalid path, a file that is damaged or not a store,
// a newer schema, another binding, a keyset without the key. Nothing is written then.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Keyset == nil {
		return nil, errors.New("opening the store: Config.Keyset is missing")
	}
	db, err := openDatabase(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", c.name(), err)
	}
	if err := db.prepare(ctx, c.Binding); err != nil {
		return nil, fmt.Errorf("opening %s: %w", c.name(), errors.Join(err, db.close()))
	}
	return newStore(db), nil
}

func newStore(db *database) *Store {
	return &Store{
		Store: credstore.Store{
			Connections: connections{db}, Credentials: credentials{db}, Links: links{db},
			History: history{db}, Outbox: outbox{db}, Changes: changes{db},
		},
		Keys: &Keys{db}, db: db,
	}
}

// name returns the store for messages. The dialect adds the location of a database that
// is not at Path.
func (c Config) name() string {
	if c.DSN != nil || c.Memory != nil {
		return "the store"
	}
	return "store " + c.Path
}

func openDialect(ctx context.Context, c Config, log *zap.Logger) (dialect, error) {
	if c.Memory != nil {
		return openMemory(ctx, c.Memory)
	}
	if c.DSN != nil {
		return openPostgres(ctx, c.DSN, log)
	}
	return openSQLite(ctx, c.Path, log)
}

// openDatabase opens the database, without checking which store is in it.
func openDatabase(ctx context.Context, c Config) (*database, error) {
	log := cmp.Or(c.Logger, zap.NewNop())
	d, err := openDialect(ctx, c, log)
	if err != nil {
		return nil, err
	}
	db := &database{dialect: d, keys: c.Keyset, log: log, now: c.Now, closed: make(chan struct{})}
	if db.now == nil {
		db.now = time.Now
	}
	db.close = sync.OnceValue(func() error {
		close(db.closed)
		return db.dialect.close()
	})
	return db, nil
}

func (db *database) prepare(ctx context.Context, stamp credstore.Binding) error {
	if err := db.checkBinding(ctx, stamp); err != nil {
		return err
	}
	err := db.dialect.readers().QueryRowContext(ctx, db.dialect.position()).Scan(&db.opened)
	if err != nil {
		return db.dialect.classify(err)
	}
	db.prune(ctx)
	return nil
}

// Ping reads from the store.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.db.dialect.checkFiles(); err != nil {
		return s.db.failure("reading from the store", err)
	}
	var one int
	err := s.db.dialect.readers().QueryRowContext(ctx, `SELECT one FROM store`).Scan(&one)
	return s.db.failure("reading from the store", err)
}

// Close waits for running transactions, ends all leases and closes the store. It does
// nothing the second time.
func (s *Store) Close() error { return s.db.close() }

// write runs f in a transaction and commits it unless f returns an error.
func (db *database) write(ctx context.Context, doing string, f func(*sql.Tx) error) error {
	return db.transact(ctx, doing, "", f)
}

// transact is write about one connection: such transactions about it run one at a time.
func (db *database) transact(ctx context.Context, doing, id string, f func(*sql.Tx) error) error {
	err := db.dialect.checkFiles()
	if err == nil {
		err = db.dialect.transact(ctx, id, f)
	}
	return db.failure(doing, err)
}

// change is transact for changes that watchers hear of.
func (db *database) change(ctx context.Context, doing, id string, f func(*sql.Tx) error) error {
	err := db.transact(ctx, doing, id, func(tx *sql.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		return db.dialect.recordChange(ctx, tx, id, db.now())
	})
	if err == nil {
		db.changes.Broadcast()
		db.pruneIfDue(ctx)
	}
	return err
}

// failure adds what was done to an error, and classifies errors of the database; nil
// stays nil.
func (db *database) failure(doing string, err error) error {
	if err == nil {
		return nil
	}
	if !isStoreError(err) {
		err = db.dialect.classify(err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// isStoreError reports whether err is a decision of the store, not a failure of the
// database.
func isStoreError(err error) bool {
	for _, sentinel := range []error{
		credstore.ErrNotFound, credstore.ErrNameTaken, credstore.ErrTokenTaken, credstore.ErrCompanyBound, credstore.ErrBadQuery,
		credstore.ErrSuperseded, credstore.ErrBusy, credstore.ErrLeaseLost, credstore.ErrNotRejected, credstore.ErrUnavailable, ErrKeyInUse,
		credstore.ErrOtherCompany, credstore.ErrLinkUsed, credstore.ErrLinkExpired, credstore.ErrOtherBrowser,
	} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	var setup *credstore.SetupError
	return errors.As(err, &setup)
}

// millis returns a time as it is stored: in Unix milliseconds, NULL for the zero time.
func millis(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: !t.IsZero()}
}

// firstMilli and lastMilli are the first time that is not zero and the last one of the
// year 9999, in Unix milliseconds. Times outside cannot be formatted (RFC 3339 section
// 1), so a connection with one could not be shown or delivered. Keys without an expiry
// are given one like 9999-12-31.
const firstMilli, lastMilli = -62135596799_999, 253402300799_999

func timeOf(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMilli(min(max(n.Int64, firstMilli), lastMilli)).UTC()
}

// affected reports whether a statement has changed a row.
func affected(result sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}
