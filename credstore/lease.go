package credstore

import (
	"context"
	"errors"
	"time"
)

// LeasePollInterval is how often a lease that another process holds is tried
// again.
const LeasePollInterval = 50 * time.Millisecond

// Acquirer gives out leases, as a [Store] does.
type Acquirer interface {
	Acquire(ctx context.Context, id, owner string) (Lease, error)
}

// AcquireWait acquires the lease of the connection with the id. While another
// process holds it, it waits, until ctx ends.
func AcquireWait(ctx context.Context, store Acquirer, id, owner string) (Lease, error) {
	for {
		lease, err := store.Acquire(ctx, id, owner)
		if !errors.Is(err, ErrBusy) {
			return lease, err
		}
		select {
		case <-time.After(LeasePollInterval):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Leaser is what [UnderLease] needs of a store.
type Leaser interface {
	Acquirer
	Read(ctx context.Context, id string) (State, error)
}

// UnderLease waits for the lease of the connection with the id, calls f with the
// state as read under the lease, and releases the lease. It returns f's error.
func UnderLease(ctx context.Context, store Leaser, id, owner string, f func(context.Context, Lease, State) error) error {
	lease, err := AcquireWait(ctx, store, id, owner)
	if err != nil {
		return err
	}
	defer func() { _ = lease.Release() }() // it ends with the process at the latest
	state, err := store.Read(ctx, id)
	if err != nil {
		return err
	}
	return f(ctx, lease, state)
}
