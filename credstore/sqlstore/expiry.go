package sqlstore

import (
	"context"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// keyExpiresSoon is true of a connection in use whose key expires before $1, and
// hasLongerStagedKey of one with a staged key that expires later.
const (
	keyExpiresSoon     = `kind <> 'oauth' AND expires_at <= $1 AND status NOT IN ('pending', 'reauthorization_required', 'disabled')`
	hasLongerStagedKey = `EXISTS (SELECT 1 FROM credentials WHERE connection = number AND next_key IS NOT NULL
		AND (next_expires_at IS NULL OR next_expires_at > $1))`
)

// needsReminder is true of a connection whose key expires before $1 and that was not
// reminded of within $2. [credstore.RecordKeyExpiring] decides in the end.
const needsReminder = keyExpiresSoon + ` AND (reminded_within IS NULL OR reminded_within > $2)`

// KeysExpiring implements [credstore.Outbox].
func (s outbox) KeysExpiring(ctx context.Context, within time.Duration, limit int) ([]credstore.Connection, error) {
	found, err := queryConnections(ctx, s.db, `
		SELECT `+connectionColumns+` FROM connections WHERE `+needsReminder+` AND NOT `+hasLongerStagedKey+`
		ORDER BY expires_at LIMIT $3`, s.db.now().Add(within).UnixMilli(), within.Milliseconds(), limit)
	return found, s.db.failure("finding keys that expire", err)
}

// RecordKeyExpiring implements [credstore.Outbox].
func (s outbox) RecordKeyExpiring(ctx context.Context, id string, within time.Duration) error {
	return s.db.applyTo(ctx, "recording that a key expires", id, credstore.RecordKeyExpiring{Within: within})
}
