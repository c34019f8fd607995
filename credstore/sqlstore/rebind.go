package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Rebind gives an existing store the binding of c, and returns the previous one. Facts
// about the previous environment are deleted; credentials stay, whether or not they are
// valid in the new one.
func Rebind(ctx context.Context, c Config) (before credstore.Binding, err error) {
	db, err := openDatabase(ctx, c)
	if err != nil {
		return before, fmt.Errorf("opening %s: %w", c.name(), err)
	}
	before, err = db.rebind(ctx, c.Binding)
	if err = errors.Join(err, db.close()); err != nil {
		return before, fmt.Errorf("rebinding %s: %w", c.name(), err)
	}
	return before, nil
}

func (db *database) rebind(ctx context.Context, binding credstore.Binding) (before credstore.Binding, err error) {
	row, err := readBinding(ctx, db.dialect.readers())
	if errors.Is(err, sql.ErrNoRows) {
		row, err = db.bindOnce(ctx, binding)
	}
	if err != nil {
		return before, db.failure("reading the store's binding", err)
	}
	if err := checkKeyset(db.keys, row); err != nil {
		return before, err
	}
	return row.binding, db.write(ctx, "writing the binding", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE store SET environment = $1, auth_url = $2, client_id = $3`,
			binding.Environment, binding.AuthURL, binding.ClientID)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM facts WHERE name <> $1 AND name NOT LIKE $2`, factReencrypted, factReplaced+"%")
		return err
	})
}
