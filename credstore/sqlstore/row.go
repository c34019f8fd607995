package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// row is all that is stored of a connection.
type row struct {
	number  int64 // its primary key, and that of its lease
	fence   int64 // of the latest lease that wrote
	state   credstore.StoredState
	secrets encryptedCredential
}

// encryptedCredential is a row of the table credentials; nil is what is not there.
type encryptedCredential struct{ accessToken, refreshToken, apiKey, nextKey []byte }

// The encrypted columns, as the associated data of the encryption names them.
const (
	columnAccessToken  = "access_token"
	columnRefreshToken = "refresh_token"
	columnAPIKey       = "api_key"
	columnNextKey      = "next_key"
)

// connectionColumns are what scanConnection reads.
const connectionColumns = `id, name, kind, status, reason, error_code, error_message, error_at,
	company_id, company_name, subject, shared_company, external_tenant, scope,
	unproven, version, connections.expires_at, refreshed_at, connections.created_at`

// scanConnection reads the connectionColumns, and the columns after them into more.
func scanConnection(scan func(...any) error, more ...any) (c credstore.Connection, err error) {
	var failure credstore.Failure
	var errorAt, expires, refreshed, created sql.NullInt64
	err = scan(append([]any{
		&c.ID, &c.Name, &c.Kind, &c.Status, &c.Reason, &failure.Code, &failure.Message, &errorAt,
		&c.CompanyID, &c.CompanyName, &c.Subject, &c.SharedCompany, &c.ExternalTenant, &c.Scope,
		&c.CompanyUnverified, &c.Version, &expires, &refreshed, &created,
	}, more...)...)
	if err != nil {
		return credstore.Connection{}, err
	}
	if errorAt.Valid {
		failure.At = timeOf(errorAt)
		c.LastError = &failure
	}
	c.ExpiresAt, c.RefreshedAt, c.CreatedAt = timeOf(expires), timeOf(refreshed), timeOf(created)
	return c, nil
}

func connectionWithID(ctx context.Context, q querier, id string) (credstore.Connection, error) {
	c, err := scanConnection(q.QueryRowContext(ctx, `SELECT `+connectionColumns+` FROM connections WHERE id = $1`, id).Scan)
	return c, orNotFound(err)
}

// readRow returns the connection with the id, or ErrNotFound. It is one statement,
// and therefore one snapshot.
func readRow(ctx context.Context, q querier, id string) (row, error) {
	var r row
	s, c := &r.state, &r.state.Credential
	var refreshHash, parentHash []byte
	var retry, requested, unexpected, forced, rejected, nextExpires, reminded sql.NullInt64
	var i storedIntent
	connection, err := scanConnection(q.QueryRowContext(ctx, `
		SELECT `+connectionColumns+`, number, connections.fence, own_status, own_reason, alarmed, refresh_hash, connections.parent_hash,
			retry_at, requested_at, unusual, unusual_since, forced_at, forced_streak, refused_at, next_expires_at, reminded_within,
			access_token, refresh_token, api_key, next_key,
			parent_version, intents.parent_hash, owner, intents.fence, at, first_at, outcome, presentations, next_at
		FROM connections LEFT JOIN credentials ON credentials.connection = number LEFT JOIN intents ON intents.connection = number
		WHERE id = $1`, id).Scan,
		&r.number, &r.fence, &s.CredentialStatus, &s.CredentialReason, &s.Alarmed, &refreshHash, &parentHash,
		&retry, &requested, &s.UnexpectedResponses, &unexpected, &forced, &c.ForcedStreak, &rejected, &nextExpires, &reminded,
		&r.secrets.accessToken, &r.secrets.refreshToken, &r.secrets.apiKey, &r.secrets.nextKey,
		&i.version, &i.hash, &i.owner, &i.fence, &i.at, &i.firstAt, &i.outcome, &i.attempts, &i.nextAt)
	if err != nil {
		return row{}, orNotFound(err)
	}
	s.Connection, s.Intent = connection, i.intent(id)
	copy(s.RefreshHash[:], refreshHash)
	copy(s.ParentHash[:], parentHash)
	s.RefreshTokenStored, s.ReminderWindow = r.secrets.refreshToken != nil, durationOf(reminded)
	s.RetryAt, s.RequestedAt, s.UnexpectedSince = timeOf(retry), timeOf(requested), timeOf(unexpected)
	c.ForcedAt, c.RejectedAt, c.NextKeyExpiresAt = timeOf(forced), timeOf(rejected), timeOf(nextExpires)
	if connection.Version > 0 {
		c.ConnectionID, c.Version = connection.ID, connection.Version
	}
	if connection.Kind == credstore.OAuth {
		c.ExpiresAt, c.ObtainedAt = connection.ExpiresAt, connection.RefreshedAt
	}
	return r, nil
}

// storedIntent is a row of the table intents, with NULLs where there is none.
type storedIntent struct {
	version, fence, attempts, at, firstAt, nextAt sql.NullInt64
	hash                                          []byte
	owner, outcome                                sql.NullString
}

// intent returns nil if there is none.
func (i storedIntent) intent(id string) *credstore.Intent {
	if !i.version.Valid {
		return nil
	}
	intent := credstore.Intent{
		Parent: credstore.Parent{ConnectionID: id, Version: i.version.Int64},
		Owner:  i.owner.String, Fence: i.fence.Int64, At: timeOf(i.at), FirstAt: timeOf(i.firstAt),
		Outcome: credstore.Outcome(i.outcome.String), Attempts: int(i.attempts.Int64), NextAt: timeOf(i.nextAt),
	}
	copy(intent.Parent.RefreshHash[:], i.hash)
	return &intent
}

// decryptState returns the state of the row with its secrets. A secret that cannot be
// decrypted is a [credstore.SetupError].
func (db *database) decryptState(r row) (credstore.State, error) {
	state := r.state.State
	connection, c := state.Connection, &state.Credential
	for _, part := range []struct {
		column     string
		ciphertext []byte
		secret     *credstore.Secret
	}{
		{columnAccessToken, r.secrets.accessToken, &c.AccessToken},
		{columnRefreshToken, r.secrets.refreshToken, &c.RefreshToken},
		{columnAPIKey, r.secrets.apiKey, &c.APIKey},
		{columnNextKey, r.secrets.nextKey, &c.NextKey},
	} {
		secret, err := db.decrypt(connection.ID, part.column, part.ciphertext)
		if err != nil {
			return credstore.State{}, fmt.Errorf("reading connection %q: %w", connection.Name, err)
		}
		*part.secret = secret
	}
	return state, nil
}

func (db *database) decrypt(id, column string, ciphertext []byte) (credstore.Secret, error) {
	if ciphertext == nil {
		return credstore.Secret{}, nil
	}
	value, err := db.keys.Decrypt(keyset.AssociatedData(id, column), ciphertext)
	if err != nil {
		return credstore.Secret{}, &credstore.SetupError{
			Err:  fmt.Errorf("decrypting %s: %w", column, err),
			Hint: "the record is damaged, or its key was removed from the keyset; restore the keyset, or give the connection a new credential",
		}
	}
	return credstore.NewSecret(string(value)), nil
}

// encrypt encrypts what the transaction is about to write. An empty secret is NULL.
//
// The key is the one that the store names at this moment, not the one that this
// process takes for the primary one: once the store names another key, no process
// writes anything under the old one any more.
func (db *database) encrypt(ctx context.Context, tx *sql.Tx, id string, secrets ...namedSecret) ([]any, error) {
	var key string
	encrypted := make([]any, len(secrets))
	for i, s := range secrets {
		if s.value.IsZero() {
			continue
		}
		if key == "" {
			if err := tx.QueryRowContext(ctx, `SELECT key_fingerprint FROM store`+db.dialect.shareLock()).Scan(&key); err != nil {
				return nil, err
			}
		}
		ciphertext, err := db.keys.EncryptWith(key, keyset.AssociatedData(id, s.label), []byte(s.value.Reveal()))
		if err != nil {
			return nil, err
		}
		encrypted[i] = ciphertext
	}
	return encrypted, nil
}

// namedSecret is a secret with the label that its encryption is bound to.
type namedSecret struct {
	label string
	value credstore.Secret
}
