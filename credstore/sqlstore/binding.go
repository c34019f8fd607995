package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// canary is encrypted into every store: a keyset that decrypts it is the right one.
const canary = "the keyset opens this store"

// bindingRow is the row of the table store.
type bindingRow struct {
	id          string
	binding     credstore.Binding
	fingerprint string
	canary      []byte
}

// checkBinding compares the binding of the store with the one that it is opened for. It
// binds a new store, and adds a client id to a store without one.
func (db *database) checkBinding(ctx context.Context, want credstore.Binding) error {
	row, err := readBinding(ctx, db.dialect.readers())
	if errors.Is(err, sql.ErrNoRows) {
		row, err = db.bindOnce(ctx, want)
	}
	if err != nil {
		return db.failure("reading the store's binding", err)
	}
	if err := compareBindings(row.binding, want); err != nil {
		return err
	}
	if err := checkKeyset(db.keys, row); err != nil {
		return err
	}
	if row.binding.ClientID != "" || want.ClientID == "" {
		return nil
	}
	return db.write(ctx, "recording the OAuth client id", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE store SET client_id = $1 WHERE client_id = ''`, want.ClientID)
		return err
	})
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func readBinding(ctx context.Context, q querier) (r bindingRow, err error) {
	err = q.QueryRowContext(ctx, `SELECT id, environment, auth_url, client_id, key_fingerprint, canary FROM store`).
		Scan(&r.id, &r.binding.Environment, &r.binding.AuthURL, &r.binding.ClientID, &r.fingerprint, &r.canary)
	return r, err
}

// bindOnce binds the store unless another process has just done so, and returns the
// binding that it has then.
func (db *database) bindOnce(ctx context.Context, binding credstore.Binding) (r bindingRow, err error) {
	id, key := rand.Text(), db.keys.Fingerprint()
	ciphertext, err := db.keys.EncryptWith(key, canaryLabel(id), []byte(canary))
	if err != nil {
		return r, err
	}
	err = db.write(ctx, "binding the store", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO store (one, id, environment, auth_url, client_id, key_fingerprint, canary, created_at)
			VALUES (1, $1, $2, $3, $4, $5, $6, $7) ON CONFLICT (one) DO NOTHING`,
			id, binding.Environment, binding.AuthURL, binding.ClientID, key, ciphertext, db.now().UnixMilli())
		if err != nil {
			return err
		}
		r, err = readBinding(ctx, tx)
		return err
	})
	if err == nil && r.id == id {
		db.log.Warn("created a new store; if there was one before, stop and restore it", zap.String("environment", binding.Environment))
	}
	return r, err
}

func canaryLabel(id string) string { return keyset.AssociatedData(id, "canary") }

func compareBindings(have, want credstore.Binding) error {
	for _, part := range []struct{ what, have, want, hint string }{
		{"environment", have.Environment, want.Environment, "environment"},
		{"authorization server", have.AuthURL, want.AuthURL, "upstream.auth_url"},
		{"OAuth client", have.ClientID, want.ClientID, "oauth.client_id"},
	} {
		// Without a client id no refresh token can be sent to the wrong client.
		if part.have == part.want || part.what == "OAuth client" && (part.have == "" || part.want == "") {
			continue
		}
		return &credstore.SetupError{
			Err:  fmt.Errorf("the store belongs to the %s %q, not %q", part.what, part.have, part.want),
			Hint: "correct " + part.hint + ", or give this configuration a store of its own",
		}
	}
	return nil
}

func checkKeyset(keys *keyset.Keyset, row bindingRow) error {
	const hint = "use the keyset that the store was created with, from its backup if necessary"
	if !keys.Contains(row.fingerprint) {
		return &credstore.SetupError{
			Err: fmt.Errorf("the store is encrypted with the key %s, which the keyset, whose primary key is %s, does not hold",
				row.fingerprint, keys.Fingerprint()),
			Hint: hint,
		}
	}
	decrypted, err := keys.Decrypt(canaryLabel(row.id), row.canary)
	if err != nil || string(decrypted) != canary {
		return &credstore.SetupError{
			Err:  errors.New("the keyset holds the key of the store but cannot decrypt it: the store is damaged"),
			Hint: "restore the store from a backup",
		}
	}
	return nil
}
