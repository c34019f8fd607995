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

// lease is a credstore.Lease.
type lease struct {
	db     *database
	id     string // of the connection
	owner  string
	handle leaseHandle

	mu       sync.Mutex // guards what follows
	released bool
	writes   int // under way; the hold outlasts them
}

// Acquire takes the lease on the connection's credential; see [credstore.Store].
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

// ConnectionID returns the id of the connection whose credential it is about.
func (l *lease) ConnectionID() string { return l.id }

// Fence returns the lease's number; see [credstore.Lease].
func (l *lease) Fence() int64 { return l.handle.fence() }

// Owner returns the name of the process that holds the lease.
func (l *lease) Owner() string { return l.owner }

// Remaining returns how long the lease lasts if it is not renewed; 0 once it is
// released.
func (l *lease) Remaining() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return 0
	}
	return l.handle.remaining()
}

// Release gives the lease back as soon as no write under it is under way.
func (l *lease) Release() error {
	if !l.markReleased() {
		return nil
	}
	return l.releaseHandle()
}

// markReleased marks the lease as released. It reports whether the hold can go now.
func (l *lease) markReleased() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.released
	l.released = true
	return first && l.writes == 0
}

// releaseHandle releases the hold, unless the store was closed, which has ended the lease already.
func (l *lease) releaseHandle() error {
	select {
	case <-l.db.closed:
		return nil
	default:
	}
	if err := l.handle.release(); err != nil {
		return fmt.Errorf("releasing a lease: %w", err)
	}
	return nil
}

// beginWrite announces a write under the lease. It returns false when the lease has
// ended.
func (l *lease) beginWrite() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return false
	}
	l.writes++
	return true
}

// endWrite ends what enter announced.
func (l *lease) endWrite() error {
	if !l.writeEnded() {
		return nil
	}
	return l.releaseHandle()
}

// writeEnded reports whether the hold can go now.
func (l *lease) writeEnded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes--
	return l.released && l.writes == 0
}

// leasedWrite is a write under a lease about the credential that is the parent.
type leasedWrite struct {
	tx     *sql.Tx
	number int64 // of the connection
	fence  int64
}

// underLease runs f in a transaction if the lease is held and the stored
// credential is parent; else it returns ErrLeaseLost or ErrSuperseded.
func (db *database) underLease(ctx context.Context, l credstore.Lease, parent credstore.Parent, run runner, f func(leasedWrite) error) error {
	return db.withLease(ctx, l, parent.ConnectionID, run, func(tx *sql.Tx, held *lease) error {
		g := leasedWrite{tx: tx, fence: held.Fence()}
		err := tx.QueryRowContext(ctx, `
			UPDATE connections SET fence = $1
			WHERE id = $2 AND version = $3 AND refresh_hash = $4 AND fence <= $1 RETURNING number`,
			g.fence, parent.ConnectionID, parent.Version, parent.RefreshHash[:]).Scan(&g.number)
		if errors.Is(err, sql.ErrNoRows) {
			return rejectReason(ctx, tx, held)
		}
		if err != nil {
			return err
		}
		return f(g)
	})
}

// withLease runs f in a transaction if the lease is held, and is on the
// connection with the id; else it returns ErrLeaseLost.
func (db *database) withLease(ctx context.Context, l credstore.Lease, id string, run runner, f func(*sql.Tx, *lease) error) (err error) {
	held, ok := l.(*lease)
	if !ok || held.db != db || held.id != id || !held.beginWrite() {
		return db.failure("using a lease", credstore.ErrLeaseLost)
	}
	defer func() { err = errors.Join(err, held.endWrite()) }()
	return run(func(tx *sql.Tx) error {
		if err := held.handle.check(ctx, tx); err != nil {
			return err
		}
		return f(tx, held)
	})
}

// takeFence records that something is written under the lease, whatever the
// stored credential, and returns the number of the connection. It returns
// ErrLeaseLost if somebody has written after it, and ErrNotFound.
func takeFence(ctx context.Context, tx *sql.Tx, l *lease) (number int64, err error) {
	err = tx.QueryRowContext(ctx, `
		UPDATE connections SET fence = $1 WHERE id = $2 AND fence <= $1 RETURNING number`, l.Fence(), l.id).Scan(&number)
	if !errors.Is(err, sql.ErrNoRows) {
		return number, err
	}
	if _, err := connectionWithID(ctx, tx, l.id); err != nil {
		return 0, err
	}
	return 0, credstore.ErrLeaseLost
}

// runner runs a function in a transaction.
type runner func(func(*sql.Tx) error) error

// rejectReason tells a lease that somebody has written after from a credential
// that is not the parent.
func rejectReason(ctx context.Context, tx *sql.Tx, l *lease) error {
	var fence int64
	err := tx.QueryRowContext(ctx, `SELECT fence FROM connections WHERE id = $1`, l.id).Scan(&fence)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if fence > l.Fence() {
		return credstore.ErrLeaseLost
	}
	return credstore.ErrSuperseded
}
