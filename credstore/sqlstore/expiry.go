package sqlstore

import (
	"context"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// keyExpiresSoon is true of a connection in use whose key ends before $1, followed true of
// one where a key is staged that goes on then.
const (
	keyExpiresSoon     = `kind <> 'oauth' AND expires_at <= $1 AND status NOT IN ('pending', 'reauthorization_required', 'disabled')`
	hasLongerStagedKey = `EXISTS (SELECT 1 FROM credentials WHERE connection = number AND next_key IS NOT NULL
		AND (next_expires_at IS NULL OR next_expires_at > $1))`
)

// needsReminder is true of a connection whose key ends before $1, and of which nobody
// was reminded of late.
const needsReminder = keyExpiresSoon + ` AND (reminded_within IS NULL OR reminded_within > $2)`

// KeysExpiring returns connections whose key ends soon; see [credstore.Outbox].
func (s outbox) KeysExpiring(ctx context.Context, within time.Duration, limit int) ([]credstore.Connection, error) {
	found, err := queryConnections(ctx, s.db, `
		SELECT `+connectionColumns+` FROM connections WHERE `+needsReminder+` AND NOT `+hasLongerStagedKey+`
		ORDER BY expires_at LIMIT $3`, s.db.now().Add(within).UnixMilli(), within.Milliseconds(), limit)
	return found, s.db.failure("finding keys that end soon", err)
}

// RecordKeyExpiring writes that a key ends soon; see [credstore.Outbox].
func (s outbox) RecordKeyExpiring(ctx context.Context, id string, within time.Duration) error {
	return s.db.applyTo(ctx, "recording that a key expires", id, credstore.RecordKeyExpiring{Within: within})
}
