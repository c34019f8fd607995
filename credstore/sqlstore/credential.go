package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// The sealed columns, as the labels of the seal name them.
const (
	columnAccessToken  = "access_token"
	columnRefreshToken = "refresh_token"
	columnAPIKey       = "api_key"
	columnNextKey      = "next_key"
)

// encryptedCredential is a row of the table credentials; nil is what is not there.
type encryptedCredential struct {
	accessToken, refreshToken, apiKey, nextKey []byte
}

// encrypt seals for the transaction that it is part of. It returns nil for an empty
// secret: what is not there is NULL.
//
// The key is the one that the store is stamped with at this moment, and not
// whichever this process takes for the primary one: once the stamp names
// another key, no process writes anything under the old one any more.
func (db *database) encrypt(ctx context.Context, tx *sql.Tx, id, column string, secret credstore.Secret) ([]byte, error) {
	if secret.IsZero() {
		return nil, nil
	}
	var key string
	if err := tx.QueryRowContext(ctx, `SELECT key_fingerprint FROM store`+db.dialect.shareLock()).Scan(&key); err != nil {
		return nil, err
	}
	return db.keys.EncryptWith(key, keyset.AssociatedData(id, column), []byte(secret.Reveal()))
}

func (db *database) decrypt(id, column string, sealed []byte) (credstore.Secret, error) {
	if sealed == nil {
		return credstore.Secret{}, nil
	}
	value, err := db.keys.Decrypt(keyset.AssociatedData(id, column), sealed)
	if err != nil {
		return credstore.Secret{}, &credstore.SetupError{
			Err:  fmt.Errorf("opening %s: %w", column, err),
			Hint: "the record is damaged, or its key was taken out of the keyset; restore the keyset, or give the connection a new credential",
		}
	}
	return credstore.NewSecret(string(value)), nil
}

// insertCredential does nothing for a connection that starts without one.
func (db *database) insertCredential(ctx context.Context, tx *sql.Tx, number int64, id string, c *credstore.NewCredential) error {
	if c == nil {
		return nil
	}
	var errs [3]error
	var sealed encryptedCredential
	sealed.accessToken, errs[0] = db.encrypt(ctx, tx, id, columnAccessToken, c.AccessToken)
	sealed.refreshToken, errs[1] = db.encrypt(ctx, tx, id, columnRefreshToken, c.RefreshToken)
	sealed.apiKey, errs[2] = db.encrypt(ctx, tx, id, columnAPIKey, c.APIKey)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `
		INSERT INTO credentials (connection, access_token, refresh_token, api_key) VALUES ($1, $2, $3, $4)`,
		number, sealed.accessToken, sealed.refreshToken, sealed.apiKey)
	return err
}

// Read returns the whole state of a connection; see [credstore.Store]. A
// credential that does not open is a [credstore.SetupError].
func (s connections) Read(ctx context.Context, id string) (credstore.State, error) {
	const doing = "reading a connection"
	var state credstore.State
	var sealed *encryptedCredential
	err := s.db.snapshot(ctx, doing, func(tx *sql.Tx) (err error) {
		state, sealed, err = readState(ctx, tx, id)
		return err
	})
	if err != nil {
		return state, err
	}
	return s.db.complete(state, sealed)
}

// readDecrypted is Read in a transaction that goes on.
func (db *database) readDecrypted(ctx context.Context, tx *sql.Tx, id string) (credstore.State, error) {
	state, sealed, err := readState(ctx, tx, id)
	if err != nil {
		return state, err
	}
	return db.complete(state, sealed)
}

// complete adds what is sealed to the state; nil when there is nothing.
func (db *database) complete(state credstore.State, sealed *encryptedCredential) (credstore.State, error) {
	if sealed == nil {
		return state, nil
	}
	if err := db.decryptCredential(&state.Credential, sealed); err != nil {
		return credstore.State{}, fmt.Errorf("reading connection %q: %w", state.Connection.Name, err)
	}
	return state, nil
}

// readState reads all there is of a connection, in any transaction.
func readState(ctx context.Context, tx *sql.Tx, id string) (state credstore.State, sealed *encryptedCredential, err error) {
	state, number, err := readPlain(ctx, tx, id)
	if err != nil {
		return state, nil, err
	}
	if sealed, err = readEncrypted(ctx, tx, number); err != nil {
		return state, nil, err
	}
	state.Intent, err = readIntent(ctx, tx, id, number)
	return state, sealed, err
}

// readPlain reads all but what is sealed and the intent.
func readPlain(ctx context.Context, tx *sql.Tx, id string) (state credstore.State, number int64, err error) {
	row := tx.QueryRowContext(ctx, `
		SELECT `+connectionColumns+`, number, retry_at, requested_at, unusual, unusual_since, forced_at, forced_streak, refused_at, next_expires_at
		FROM connections WHERE id = $1`, id)
	var retry, requested, unusualSince, forced, refused, nextExpires sql.NullInt64
	c, err := scanConnection(row.Scan,
		&number, &retry, &requested, &state.UnexpectedResponses, &unusualSince, &forced, &state.Credential.ForcedStreak, &refused, &nextExpires)
	if err != nil {
		return credstore.State{}, 0, orNotFound(err)
	}
	state.Connection = c
	state.RetryAt, state.RequestedAt, state.UnexpectedSince = timeOf(retry), timeOf(requested), timeOf(unusualSince)
	if c.Version == 0 {
		return state, number, nil
	}
	state.Credential.ConnectionID, state.Credential.Version = c.ID, c.Version
	if c.Kind == credstore.OAuth {
		state.Credential.ExpiresAt, state.Credential.ObtainedAt = c.ExpiresAt, c.RefreshedAt
	}
	state.Credential.NextKeyExpiresAt = timeOf(nextExpires)
	state.Credential.ForcedAt, state.Credential.RejectedAt = timeOf(forced), timeOf(refused)
	return state, number, nil
}

// readEncrypted returns nil if the connection has no credential.
func readEncrypted(ctx context.Context, tx *sql.Tx, number int64) (*encryptedCredential, error) {
	var c encryptedCredential
	err := tx.QueryRowContext(ctx, `
		SELECT access_token, refresh_token, api_key, next_key FROM credentials WHERE connection = $1`, number).
		Scan(&c.accessToken, &c.refreshToken, &c.apiKey, &c.nextKey)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &c, err
}

func (db *database) decryptCredential(c *credstore.Credential, sealed *encryptedCredential) error {
	for _, part := range []struct {
		column string
		sealed []byte
		secret *credstore.Secret
	}{
		{columnAccessToken, sealed.accessToken, &c.AccessToken},
		{columnRefreshToken, sealed.refreshToken, &c.RefreshToken},
		{columnAPIKey, sealed.apiKey, &c.APIKey},
		{columnNextKey, sealed.nextKey, &c.NextKey},
	} {
		secret, err := db.decrypt(c.ConnectionID, part.column, part.sealed)
		if err != nil {
			return err
		}
		*part.secret = secret
	}
	return nil
}
