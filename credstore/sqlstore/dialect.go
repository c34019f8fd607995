package sqlstore

import (
	"context"
	"database/sql"
	"time"
)

// dialect is what databases do each in their own way.
type dialect interface {
	// writer returns the pool for transactions that write.
	writer() *sql.DB
	// readers returns the pool for everything else.
	readers() *sql.DB
	// transact runs f in a transaction, and commits it durably unless f returns
	// an error. Beside a transaction about a connection, named by its id, no
	// other runs that is about the same one; an empty id stands for none. f may be
	// called again after what it did was undone, so it must not add to what an
	// earlier call has left outside the transaction.
	transact(ctx context.Context, id string, f func(*sql.Tx) error) error
	// lockAll makes the transaction wait for all others that have called alone: they
	// decide on more than one connection, such as which of them has a name.
	lockAll(ctx context.Context, tx *sql.Tx) error
	// shareLock ends a SELECT whose rows must stay as they are until the transaction
	// ends.
	shareLock() string
	// classify says what an error of the database means, in the words of
	// package credstore.
	classify(err error) error

	// acquire takes what is behind the lease on the connection's credential. It
	// returns credstore.ErrBusy while anyone holds it.
	acquire(ctx context.Context, id, owner string) (leaseHandle, error)

	// recordChange gives the change of a connection the next number.
	recordChange(ctx context.Context, tx *sql.Tx, id string, at time.Time) error
	// position is a query for where the changes have come to, which watchers
	// begin from.
	position() string
	// changes is a query for what has changed since position $1, in rows of a
	// later position, a connection's id, NULL where there is none, and whether a
	// refresh of it is requested and deliveries about it wait. It gives no more rows
	// than limit; 0: all.
	changes() (query string, limit int)
	// watch keeps the watcher looking until ctx ends or the store is closed, and
	// returns why it ended.
	watch(ctx context.Context, w *watcher) error
	// storeName is an SQL expression for what Position names the store by.
	storeName() string
	// lastChange is an SQL expression for the largest number that a change has
	// ever had, also when its row is gone.
	lastChange() string

	// checkInPlace returns an error if the data are no longer where others would find
	// them: what is written then is lost with this process.
	checkFiles() error
	// close ends all leases and closes the pools.
	close() error
}

// handle is a database's part of a lease.
type leaseHandle interface {
	// fence is larger than that of every hold before under which anything was
	// written.
	fence() int64
	// remaining is how long it lasts if nothing is done about it.
	remaining() time.Duration
	// check returns credstore.ErrLeaseLost if it has ended; else nobody else gets
	// it before the transaction ends.
	check(ctx context.Context, tx *sql.Tx) error
	// release gives it back.
	release() error
}
