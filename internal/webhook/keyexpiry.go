package webhook

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const day = 24 * time.Hour

// expiryNotices returns how long before a key's end somebody is reminded of it,
// the shortest first: whoever hears that a key ends tomorrow need not hear that
// it ends within a month.
func expiryNotices() []time.Duration { return []time.Duration{day, 7 * day, 30 * day} }

const (
	expiryCheckInterval = time.Hour
	expiryBatchSize     = 100
)

// reportExpiringKeys writes the events about keys that end soon, until ctx ends. The store
// sees to it that each is written once, by whichever process.
func (n *Dispatcher) reportExpiringKeys(ctx context.Context) {
	for {
		for _, within := range expiryNotices() {
			if err := n.reportKeysExpiringWithin(ctx, within); err != nil && ctx.Err() == nil {
				n.log.Warn("reminding of keys that end soon", zap.Error(err))
			}
		}
		if !pause(ctx, expiryCheckInterval) {
			return
		}
	}
}

func (n *Dispatcher) reportKeysExpiringWithin(ctx context.Context, within time.Duration) error {
	for {
		ending, err := n.outbox.KeysExpiring(ctx, within, expiryBatchSize)
		if err != nil {
			return err
		}
		for _, c := range ending {
			err := n.outbox.RecordKeyExpiring(ctx, c.ID, within)
			if err != nil && !errors.Is(err, credstore.ErrNotFound) { // removed meanwhile
				return err
			}
		}
		if len(ending) < expiryBatchSize {
			return nil
		}
	}
}
