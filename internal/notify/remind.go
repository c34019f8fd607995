package notify

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const day = 24 * time.Hour

// remindWithin returns how long before a key's end somebody is reminded of it,
// the shortest first: whoever hears that a key ends tomorrow need not hear that
// it ends within a month.
func remindWithin() []time.Duration { return []time.Duration{day, 7 * day, 30 * day} }

const (
	remindEvery  = time.Hour
	remindAtOnce = 100
)

// remind writes the events about keys that end soon, until ctx ends. The store
// sees to it that each is written once, by whichever process.
func (n *Notifier) remind(ctx context.Context) {
	for {
		for _, within := range remindWithin() {
			if err := n.remindOf(ctx, within); err != nil && ctx.Err() == nil {
				n.log.Warn("reminding of keys that end soon", zap.Error(err))
			}
		}
		if !pause(ctx, remindEvery) {
			return
		}
	}
}

func (n *Notifier) remindOf(ctx context.Context, within time.Duration) error {
	for {
		ending, err := n.outbox.KeysExpiring(ctx, within, remindAtOnce)
		if err != nil {
			return err
		}
		for _, c := range ending {
			err := n.outbox.RemindKey(ctx, c.ID, within)
			if err != nil && !errors.Is(err, credstore.ErrNotFound) { // removed meanwhile
				return err
			}
		}
		if len(ending) < remindAtOnce {
			return nil
		}
	}
}
