package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"time"
)

// lockHandle is a lock that lasts until it is released or its process ends.
type lockHandle struct {
	number int64 // its fence
	unlock func() error
}

// acquireLock locks the number of the connection.
func acquireLock(ctx context.Context, db *sql.DB, id string, lock func(int64) (func() error, error)) (leaseHandle, error) {
	var number int64
	err := db.QueryRowContext(ctx, `SELECT number FROM connections WHERE id = $1`, id).Scan(&number)
	if err != nil {
		return nil, orNotFound(err)
	}
	unlock, err := lock(number)
	if err != nil {
		return nil, err
	}
	h := &lockHandle{unlock: unlock}
	// Read it under the lock: the previous holder may just have written.
	err = db.QueryRowContext(ctx, `SELECT fence + 1 FROM connections WHERE number = $1`, number).Scan(&h.number)
	if err != nil {
		return nil, errors.Join(orNotFound(err), unlock())
	}
	return h, nil
}

func (h *lockHandle) fence() int64 { return h.number }

func (h *lockHandle) remaining() time.Duration { return math.MaxInt64 }

func (h *lockHandle) check(context.Context, *sql.Tx) error { return nil }

func (h *lockHandle) release() error { return h.unlock() }
