package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	// leaseDuration is how long a lease lasts without renewal: how long other processes
	// wait to continue the work of a process that has died.
	leaseDuration = 12 * time.Second
	// renewalsPerLease is how often a lease is renewed within its duration.
	renewalsPerLease = 3
	// releaseTimeout bounds a release. A lease that is not released ends by itself.
	releaseTimeout = 2 * time.Second
)

// rowHandle is a row of the table leases. The lease is held while the row has the name
// of the handle and its end is in the future by the clock of the database. It is
// renewed until it is released.
type rowHandle struct {
	dialect *postgresDialect
	number  int64 // of the connection
	name    string
	fenced  int64
	ends    atomic.Int64 // when it ends, on this process's monotonic clock since begin
	begin   time.Time

	ended   sync.Once
	stopped chan struct{} // closed when renewal ends
}

// acquireStatement takes the row if no lease is held, and returns a NULL fence
// otherwise. The row stays when a lease ends, so that the fence continues from it. A
// held lease is mostly found without a lock, which its holder would wait for.
const acquireStatement = `
	WITH wanted AS (
		SELECT number, fence FROM connections WHERE id = $1
	), taken AS (
		INSERT INTO leases AS l (connection, name, owner, fence, ends)
		SELECT number, $2, $3, fence + 1, clock_timestamp() + make_interval(secs => $4) FROM wanted
		WHERE NOT EXISTS (SELECT 1 FROM leases WHERE connection = number AND ends > clock_timestamp())
		ON CONFLICT (connection) DO UPDATE
			SET name = excluded.name, owner = excluded.owner, fence = greatest(l.fence + 1, excluded.fence), ends = excluded.ends
			WHERE l.ends <= clock_timestamp()
		RETURNING fence
	)
	SELECT number, (SELECT fence FROM taken) FROM wanted`

func (d *postgresDialect) acquire(ctx context.Context, id, owner string) (leaseHandle, error) {
	h := &rowHandle{dialect: d, name: d.process + "/" + rand.Text(), begin: time.Now(), stopped: make(chan struct{})}
	var fence sql.NullInt64
	err := d.db.QueryRowContext(ctx, acquireStatement, id, h.name, owner, d.leaseDuration.Seconds()).Scan(&h.number, &fence)
	var said *pgconn.PgError
	if errors.As(err, &said) && said.Code == "23503" { // the connection was removed concurrently
		return nil, credstore.ErrNotFound
	}
	if err != nil {
		return nil, orNotFound(err)
	}
	if !fence.Valid {
		return nil, credstore.ErrBusy
	}
	h.fenced = fence.Int64
	h.ends.Store(int64(d.leaseDuration)) // counted from before the query: the end cannot be earlier
	d.addHandle(h)
	go h.renew()
	return h, nil
}

func (d *postgresDialect) addHandle(h *rowHandle) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.handles[h] = struct{}{}
}

func (d *postgresDialect) removeHandle(h *rowHandle) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.handles, h)
}

// releaseAll releases all handles.
func (d *postgresDialect) releaseAll() error {
	d.mu.Lock()
	held := make([]*rowHandle, 0, len(d.handles))
	for h := range d.handles {
		held = append(held, h)
	}
	d.mu.Unlock()
	var errs []error
	for _, h := range held {
		errs = append(errs, h.release())
	}
	return errors.Join(errs...)
}

func (h *rowHandle) fence() int64 { return h.fenced }

func (h *rowHandle) remaining() time.Duration {
	return time.Duration(h.ends.Load()) - time.Since(h.begin)
}

// check locks the row, so that the next holder of the lease finds everything that was
// written under this one. For a removed connection the row is missing; the caller
// reports that.
func (h *rowHandle) check(ctx context.Context, tx *sql.Tx) error {
	var held bool
	err := tx.QueryRowContext(ctx, `
		SELECT name = $2 AND ends > clock_timestamp() FROM leases WHERE connection = $1 FOR SHARE`,
		h.number, h.name).Scan(&held)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil && !held {
		return credstore.ErrLeaseLost
	}
	return err
}

// renew extends the lease until it is released or has ended.
func (h *rowHandle) renew() {
	ticker := time.NewTicker(h.dialect.leaseDuration / renewalsPerLease)
	defer ticker.Stop()
	for h.remaining() > 0 {
		select {
		case <-h.stopped:
			return
		case <-ticker.C:
			h.renewOnce()
		}
	}
}

// renewOnce leaves the end as it is if it fails. It never revives a lease that has
// ended, even if no other process has taken it: its holder may have acted on the end.
func (h *rowHandle) renewOnce() {
	asked := time.Since(h.begin)
	ctx, cancel := context.WithTimeout(h.dialect.closing, h.dialect.leaseDuration/renewalsPerLease)
	defer cancel()
	result, err := h.dialect.db.ExecContext(ctx, `
		UPDATE leases SET ends = clock_timestamp() + make_interval(secs => $3)
		WHERE connection = $1 AND name = $2 AND ends > clock_timestamp()`, h.number, h.name, h.dialect.leaseDuration.Seconds())
	if err != nil {
		return
	}
	if n, err := result.RowsAffected(); err == nil && n == 1 {
		h.ends.Store(int64(asked + h.dialect.leaseDuration))
	}
}

// release ends the lease if this handle still has it.
func (h *rowHandle) release() (err error) {
	h.ended.Do(func() {
		close(h.stopped)
		h.dialect.removeHandle(h)
		ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
		defer cancel()
		_, err = h.dialect.db.ExecContext(ctx, `
			UPDATE leases SET ends = '-infinity' WHERE connection = $1 AND name = $2`, h.number, h.name)
	})
	return err
}
