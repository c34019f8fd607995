package webhook

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	day                 = 24 * time.Hour
	expiryCheckInterval = time.Hour
	expiryBatchSize     = 100
)

// expiryNotices returns how long before the expiry of a key an event is recorded,
// the shortest first: a key that expires tomorrow needs no event that it expires
// within a month.
func expiryNotices() []time.Duration { return []time.Duration{day, 7 * day, 30 * day} }

// reportExpiringKeys records the events about expiring keys until ctx ends. The
// store records each of them once, however many processes do this.
func (d *Dispatcher) reportExpiringKeys(ctx context.Context) {
	for {
		for _, within := range expiryNotices() {
			if err := d.reportKeysExpiringWithin(ctx, within); err != nil && ctx.Err() == nil {
				d.log.Warn("recording expiring keys", zap.Error(err))
			}
		}
		if !sleep(ctx, expiryCheckInterval) {
			return
		}
	}
}

func (d *Dispatcher) reportKeysExpiringWithin(ctx context.Context, within time.Duration) error {
	for {
		expiring, err := d.outbox.KeysExpiring(ctx, within, expiryBatchSize)
		if err != nil {
			return err
		}
		for _, c := range expiring {
			err := d.outbox.RecordKeyExpiring(ctx, c.ID, within)
			if err != nil && !errors.Is(err, credstore.ErrNotFound) { // removed in the meantime
				return err
			}
		}
		if len(expiring) < expiryBatchSize {
			return nil
		}
	}
}
