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
	// leaseLife is how long a lease lasts that is not renewed: how long others
	// wait for what a process that has died was about to do.
	leaseLife = 12 * time.Second
	// renewals in the life of a lease.
	renewals = 3
	// releaseTimeout bounds how long giving a lease back may take. One that is not
	// given back ends by itself.
	releaseTimeout = 2 * time.Second
)

// rowHold is a row of the table leases, which is this hold's while it bears its
// name and the database's clock has not come to its end. It is renewed until it
// is released.
type rowHold struct {
	dialect *postgresDialect
	number  int64 // of the connection
	name    string
	fenced  int64
	ends    atomic.Int64 // when it ends, on this process's monotonic clock since begin
	begin   time.Time

	ended   sync.Once
	stopped chan struct{} // closed when it need not be renewed any more
}

// acquireStatement takes the row if nobody has it, and gives no fence if somebody
// has. The row stays when a lease ends, so that the fence goes on from it. That
// it is taken is mostly found without a lock, which its holder would wait for.
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

func (d *postgresDialect) acquire(ctx context.Context, id, owner string) (hold, error) {
	h := &rowHold{dialect: d, name: d.process + "/" + rand.Text(), begin: time.Now(), stopped: make(chan struct{})}
	var fence sql.NullInt64
	err := d.db.QueryRowContext(ctx, acquireStatement, id, h.name, owner, d.life.Seconds()).Scan(&h.number, &fence)
	var said *pgconn.PgError
	if errors.As(err, &said) && said.Code == "23503" { // the connection was removed at this moment
		return nil, credstore.ErrNotFound
	}
	if err != nil {
		return nil, orNotFound(err)
	}
	if !fence.Valid {
		return nil, credstore.ErrBusy
	}
	h.fenced = fence.Int64
	h.ends.Store(int64(d.life)) // from before it was asked for: the end cannot be earlier
	d.keep(h)
	go h.renew()
	return h, nil
}

func (d *postgresDialect) keep(h *rowHold) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.holds[h] = struct{}{}
}

func (d *postgresDialect) forget(h *rowHold) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.holds, h)
}

// releaseAll gives back what is held still.
func (d *postgresDialect) releaseAll() error {
	d.mu.Lock()
	held := make([]*rowHold, 0, len(d.holds))
	for h := range d.holds {
		held = append(held, h)
	}
	d.mu.Unlock()
	var errs []error
	for _, h := range held {
		errs = append(errs, h.release())
	}
	return errors.Join(errs...)
}

func (h *rowHold) fence() int64 { return h.fenced }

func (h *rowHold) remaining() time.Duration {
	return time.Duration(h.ends.Load()) - time.Since(h.begin)
}

// check locks the row, so that whoever takes the lease next finds all that was
// written under this one. The row of a removed connection is gone with it, which
// others have the word for.
func (h *rowHold) check(ctx context.Context, tx *sql.Tx) error {
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

// renew puts the end off until the hold is released, or has ended.
func (h *rowHold) renew() {
	ticker := time.NewTicker(h.dialect.life / renewals)
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

// renewOnce leaves the end as it is when it fails. A hold that has ended is not
// revived, even if nobody has taken it: its process may have acted on that.
func (h *rowHold) renewOnce() {
	asked := time.Since(h.begin)
	ctx, cancel := context.WithTimeout(h.dialect.closing, h.dialect.life/renewals)
	defer cancel()
	result, err := h.dialect.db.ExecContext(ctx, `
		UPDATE leases SET ends = clock_timestamp() + make_interval(secs => $3)
		WHERE connection = $1 AND name = $2 AND ends > clock_timestamp()`, h.number, h.name, h.dialect.life.Seconds())
	if err != nil {
		return
	}
	if n, err := result.RowsAffected(); err == nil && n == 1 {
		h.ends.Store(int64(asked + h.dialect.life))
	}
}

// release ends the lease if it is this hold's still.
func (h *rowHold) release() (err error) {
	h.ended.Do(func() {
		close(h.stopped)
		h.dialect.forget(h)
		ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
		defer cancel()
		_, err = h.dialect.db.ExecContext(ctx, `
			UPDATE leases SET ends = '-infinity' WHERE connection = $1 AND name = $2`, h.number, h.name)
	})
	return err
}
