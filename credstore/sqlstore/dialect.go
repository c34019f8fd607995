package sqlstore

import "database/sql"

// dialect is what databases do each in their own way.
type dialect interface {
	// writer returns the pool for transactions that write. They are serialised
	// against each other, in this process and in others, from their beginning.
	writer() *sql.DB
	// readers returns the pool for everything else.
	readers() *sql.DB
	// classify says what an error of the database means, in the words of
	// package credstore.
	classify(err error) error
	// lock takes the lock behind the lease on the connection with the number,
	// which ends with the process at the latest. It returns credstore.ErrBusy
	// while anyone holds it.
	lock(number int64) (unlock func() error, err error)
	// lastChange is an SQL expression for the largest number that a change has
	// ever had, also when its row is gone.
	lastChange() string
	// present returns an error if the data are no longer where others would find
	// them: what is written then is lost with this process.
	present() error
	// close ends all locks and closes the pools.
	close() error
}
