package sqlstore

import (
	"context"
	"database/sql"
	"time"
)

// dialect is what the databases do differently.
type dialect interface {
	// readers returns the pool for everything but transact.
	readers() *sql.DB
	// transact runs f in a transaction, and commits it durably unless f returns an
	// error. Transactions about the same connection, named by its id, run one at a
	// time; an empty id stands for none. f may be called again after its effects were
	// rolled back, so it must not depend on what an earlier call has left outside of
	// the transaction.
	transact(ctx context.Context, id string, f func(*sql.Tx) error) error
	// lockAll makes the transaction wait for all others that have called lockAll. They
	// depend on more than one connection, such as on which one has a name.
	lockAll(ctx context.Context, tx *sql.Tx) error
	// shareLock ends a SELECT whose rows must not change until the transaction ends.
	shareLock() string
	// classify maps an error of the database to the errors of package credstore.
	classify(err error) error

	// acquire takes the database's part of a lease. It returns credstore.ErrBusy while
	// another process or goroutine has it.
	acquire(ctx context.Context, id, owner string) (leaseHandle, error)

	// recordChange gives the change of a connection the next number.
	recordChange(ctx context.Context, tx *sql.Tx, id string, at time.Time) error
	// position is a query for the current position in the sequence of changes, at which
	// watchers begin.
	position() string
	// changes is a query for the changes after position $1: a later position, the id of
	// a connection or NULL, whether a refresh of it is requested, and whether
	// deliveries about it are pending. It returns at most limit rows; 0: all.
	changes() (query string, limit int)
	// watch keeps the watcher polling until ctx ends or the store is closed, and
	// returns the reason.
	watch(ctx context.Context, w *watcher) error
	// storeName is an SQL expression for the store's id in Position.
	storeName() string
	// lastChange is an SQL expression for the highest number that a change has ever
	// had, even if its row was deleted.
	lastChange() string

	// checkFiles returns an error if the database is no longer where other processes
	// would find it: what is written then is lost with this process.
	checkFiles() error
	// close ends all leases and closes the pools.
	close() error
}

// leaseHandle is a database's part of a lease.
type leaseHandle interface {
	// fence is larger than that of every earlier handle under which anything was
	// written.
	fence() int64
	// remaining is how long the handle lasts if it is not renewed.
	remaining() time.Duration
	// check returns credstore.ErrLeaseLost if the handle has ended; otherwise no other
	// process can acquire the lease before the transaction ends.
	check(ctx context.Context, tx *sql.Tx) error
	// release ends the handle.
	release() error
}
