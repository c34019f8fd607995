package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// lease implements credstore.Lease.
type lease struct {
	db     *database
	id     string // of the connection
	owner  string
	handle leaseHandle

	mu       sync.Mutex // guards what follows
	released bool
	writes   int  // in progress; the handle outlasts them
	ended    bool // the handle is released
}

// Acquire implements [credstore.Credentials].
func (s credentials) Acquire(ctx context.Context, id, owner string) (credstore.Lease, error) {
	return s.db.acquire(ctx, id, owner)
}

func (db *database) acquire(ctx context.Context, id, owner string) (credstore.Lease, error) {
	const doing = "acquiring a lease"
	if err := db.dialect.checkFiles(); err != nil {
		return nil, db.failure(doing, err)
	}
	h, err := db.dialect.acquire(ctx, id, owner)
	if err != nil {
		return nil, db.failure(doing, err)
	}
	return &lease{db: db, id: id, owner: owner, handle: h}, nil
}

func orNotFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return credstore.ErrNotFound
	}
	return err
}

// ConnectionID implements [credstore.Lease].
func (l *lease) ConnectionID() string { return l.id }

// Fence implements [credstore.Lease].
func (l *lease) Fence() int64 { return l.handle.fence() }

// Owner implements [credstore.Lease].
func (l *lease) Owner() string { return l.owner }

// Remaining implements [credstore.Lease]. It is 0 after Release.
func (l *lease) Remaining() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return 0
	}
	return l.handle.remaining()
}

// Release implements [credstore.Lease]. The lease ends once no write under it is in
// progress.
func (l *lease) Release() error { return l.update(func() { l.released = true }) }

// endWrite ends a write that beginWrite has allowed.
func (l *lease) endWrite() error { return l.update(func() { l.writes-- }) }

// update makes a change, after which it releases the handle if it is not used any more.
func (l *lease) update(change func()) error {
	l.mu.Lock()
	change()
	unused := l.released && l.writes == 0 && !l.ended
	l.ended = l.ended || unused
	l.mu.Unlock()
	if !unused {
		return nil
	}
	select {
	case <-l.db.closed: // which has ended all leases
		return nil
	default:
	}
	if err := l.handle.release(); err != nil {
		return fmt.Errorf("releasing a lease: %w", err)
	}
	return nil
}

// beginWrite reports false if the lease has ended; otherwise the handle is kept until
// endWrite.
func (l *lease) beginWrite() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return false
	}
	l.writes++
	return true
}

// runner runs f in a transaction, as transact and change do.
type runner func(ctx context.Context, doing, id string, f func(*sql.Tx) error) error

// underLease runs f in a transaction in which the lease is held on the connection
// with the id; else it returns ErrLeaseLost. The fence is checked in the same
// transaction: a process that was paused until its lease ended, and did not notice,
// finds the fence of its successor.
func (db *database) underLease(ctx context.Context, doing string, l credstore.Lease, id string, run runner, f func(*sql.Tx, row) error) (err error) {
	held, ok := l.(*lease)
	if !ok || held.db != db || held.id != id || !held.beginWrite() {
		return db.failure(doing, credstore.ErrLeaseLost)
	}
	defer func() { err = errors.Join(err, held.endWrite()) }()
	return run(ctx, doing, id, func(tx *sql.Tx) error {
		if err := held.handle.check(ctx, tx); err != nil {
			return err
		}
		r, err := readRow(ctx, tx, id)
		if err != nil {
			return err
		}
		if r.fence > held.Fence() {
			return credstore.ErrLeaseLost
		}
		return f(tx, r)
	})
}
