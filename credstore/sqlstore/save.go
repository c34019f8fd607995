package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Save puts a new pair in the place of its parent; see [credstore.Store].
func (s credentials) Save(ctx context.Context, n credstore.Successor) (credstore.Connection, error) {
	const doing = "saving a token pair"
	id := n.Parent.ConnectionID
	if n.RefreshToken.IsZero() {
		return credstore.Connection{}, fmt.Errorf("%s: it has no refresh token; the parent's stays if the answer had none", doing)
	}
	var saved credstore.Connection
	err := s.db.change(ctx, doing, id, func(tx *sql.Tx) (err error) {
		saved, err = s.db.replaceParent(ctx, tx, n)
		if errors.Is(err, sql.ErrNoRows) {
			saved, err = s.db.savedBefore(ctx, tx, n)
		}
		return err
	})
	return saved, err
}

// replaceParent returns sql.ErrNoRows if the stored credential is not the
// parent.
func (db *database) replaceParent(ctx context.Context, tx *sql.Tx, n credstore.Successor) (credstore.Connection, error) {
	hash := n.RefreshToken.Hash()
	status, f := credstore.Active, credstore.RefreshFailure{}
	if n.RefreshFailure != nil {
		status, f = credstore.Degraded, *n.RefreshFailure
	}
	row := tx.QueryRowContext(ctx, `
		UPDATE connections SET
			version = version + 1, parent_hash = refresh_hash, refresh_hash = $4,
			expires_at = $5, refreshed_at = $6,
			scope = CASE WHEN $7 = '' THEN scope ELSE $7 END,
			forced_at = $8, forced_streak = $9,
			`+becomes(`$10`, `$11`)+`,
			error_code = $12, error_message = $13, error_at = $14, retry_at = $15,
			requested_at = NULL, unusual = 0, unusual_since = NULL, refused_at = NULL,
			unproven = CASE WHEN $16 = 1 THEN 1 ELSE unproven END
		WHERE id = $1 AND version = $2 AND refresh_hash = $3 AND kind = 'oauth'
		RETURNING `+connectionColumns+`, number, alarmed`,
		n.Parent.ConnectionID, n.Parent.Version, n.Parent.RefreshHash[:],
		hash[:], millis(n.ExpiresAt), millis(n.ObtainedAt), n.Scope, millis(n.ForcedAt), n.ForcedStreak,
		status, f.Reason, credstore.CleanText(f.Failure.Code), credstore.CleanText(f.Failure.Message), millis(f.Failure.At), millis(f.RetryAt), asInt(n.Consent))
	var number int64
	var alarmed bool
	saved, err := scanConnection(row.Scan, &number, &alarmed)
	if err != nil {
		return saved, err
	}
	if err := db.replacePair(ctx, tx, number, n); err != nil {
		return saved, err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM intents WHERE connection = $1`, number); err != nil {
		return saved, err
	}
	return saved, db.recordSaved(ctx, tx, n, saved, alarmed)
}

// recordSaved says in one event what the new pair means.
func (db *database) recordSaved(ctx context.Context, tx *sql.Tx, n credstore.Successor, saved credstore.Connection, alarmed bool) error {
	switch f := n.RefreshFailure; {
	case f != nil:
		return db.record(ctx, tx, saved, credstore.Event{Type: credstore.EventDegraded, Code: f.Failure.Code, Message: f.Failure.Message})
	case alarmed && saved.Status == credstore.Active:
		return db.recordStatus(ctx, tx, saved)
	case n.Consent:
		return db.record(ctx, tx, saved, credstore.Event{Type: credstore.EventConnected})
	}
	return db.record(ctx, tx, saved, credstore.Event{Type: credstore.EventRefreshed})
}

func (db *database) replacePair(ctx context.Context, tx *sql.Tx, number int64, n credstore.Successor) error {
	id := n.Parent.ConnectionID
	access, err := db.encrypt(ctx, tx, id, columnAccessToken, n.AccessToken)
	if err != nil {
		return err
	}
	refresh, err := db.encrypt(ctx, tx, id, columnRefreshToken, n.RefreshToken)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO credentials (connection, access_token, refresh_token) VALUES ($1, $2, $3)
		ON CONFLICT (connection) DO UPDATE SET access_token = excluded.access_token, refresh_token = excluded.refresh_token`,
		number, access, refresh)
	return err
}

// savedBefore returns the connection if it has the very successor already, as it
// does after a COMMIT whose answer was lost; else ErrSuperseded.
func (db *database) savedBefore(ctx context.Context, tx *sql.Tx, n credstore.Successor) (credstore.Connection, error) {
	row := tx.QueryRowContext(ctx, `
		SELECT `+connectionColumns+`, refresh_hash, parent_hash, access_token
		FROM connections JOIN credentials ON connection = number WHERE id = $1`, n.Parent.ConnectionID)
	var hash, parentHash, access []byte
	stored, err := scanConnection(row.Scan, &hash, &parentHash, &access)
	if errors.Is(err, sql.ErrNoRows) {
		return stored, credstore.ErrSuperseded
	}
	if err != nil {
		return stored, err
	}
	want := n.RefreshToken.Hash()
	if stored.Version != n.Parent.Version+1 || !bytes.Equal(hash, want[:]) || !bytes.Equal(parentHash, n.Parent.RefreshHash[:]) {
		return credstore.Connection{}, credstore.ErrSuperseded
	}
	// A refresh token that did not rotate is common to different pairs. An access
	// token that is gone was dropped by a condemnation since.
	token, err := db.decrypt(stored.ID, columnAccessToken, access)
	if err == nil && !token.IsZero() && !token.Equal(n.AccessToken) {
		err = credstore.ErrSuperseded
	}
	return stored, err
}

// MarkReauthorizationRequired records that only a person can mend the connection; see
// [credstore.Store].
func (s credentials) MarkReauthorizationRequired(ctx context.Context, l credstore.Lease, parent credstore.Parent, f credstore.Failure, reason string, dropAccess bool) error {
	run := func(f func(*sql.Tx) error) error {
		return s.db.change(ctx, "condemning a credential", parent.ConnectionID, f)
	}
	return s.db.underLease(ctx, l, parent, run, func(g leasedWrite) error {
		if err := s.db.condemn(ctx, g, f, reason); err != nil {
			return err
		}
		if !dropAccess {
			return nil
		}
		return g.dropAccess(ctx)
	})
}

func (db *database) condemn(ctx context.Context, g leasedWrite, f credstore.Failure, reason string) error {
	before, err := connectionWithNumber(ctx, g.tx, g.number)
	if err != nil {
		return err
	}
	row := g.tx.QueryRowContext(ctx, `
		UPDATE connections SET
			`+becomes(`'reauthorization_required'`, `$2`)+`,
			error_code = $3, error_message = $4, error_at = $5,
			refused_at = CASE WHEN kind = 'oauth' THEN CAST($5 AS BIGINT) END, retry_at = NULL, requested_at = NULL
		WHERE number = $1 RETURNING `+connectionColumns, g.number, reason, credstore.CleanText(f.Code), credstore.CleanText(f.Message), millis(f.At))
	after, err := scanConnection(row.Scan)
	if err != nil {
		return err
	}
	if _, err := g.tx.ExecContext(ctx, `DELETE FROM intents WHERE connection = $1`, g.number); err != nil {
		return err
	}
	if before.Status == after.Status && before.Reason == after.Reason {
		return nil
	}
	return db.recordStatus(ctx, g.tx, after)
}

// Reinstate takes a condemnation back; see [credstore.Store].
func (s credentials) Reinstate(ctx context.Context, l credstore.Lease, parent credstore.Parent) error {
	run := func(f func(*sql.Tx) error) error {
		return s.db.change(ctx, "acquitting a credential", parent.ConnectionID, f)
	}
	return s.db.underLease(ctx, l, parent, run, func(g leasedWrite) error {
		if err := g.acquit(ctx); err != nil {
			return err
		}
		c, err := connectionWithNumber(ctx, g.tx, g.number)
		if err != nil {
			return err
		}
		return s.db.recordStatus(ctx, g.tx, c)
	})
}

func (g leasedWrite) acquit(ctx context.Context) error {
	_, err := g.tx.ExecContext(ctx, `
		UPDATE connections SET
			`+becomes(`'active'`, `''`)+`,
			error_code = '', error_message = '', error_at = NULL, refused_at = NULL
		WHERE number = $1`, g.number)
	return err
}

func (g leasedWrite) dropAccess(ctx context.Context) error {
	_, err := g.tx.ExecContext(ctx, `UPDATE credentials SET access_token = NULL WHERE connection = $1`, g.number)
	if err != nil {
		return err
	}
	_, err = g.tx.ExecContext(ctx, `UPDATE connections SET expires_at = NULL WHERE number = $1`, g.number)
	return err
}
