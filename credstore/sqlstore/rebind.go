package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Rebind gives an existing store the stamp of c in the place of its own, which
// it returns. What was known about the environment before (see Fact) is
// forgotten. Credentials stay, whether the new environment takes them or not.
func Rebind(ctx context.Context, c Config) (before credstore.Binding, err error) {
	db, err := openDatabase(ctx, c)
	if err != nil {
		return before, fmt.Errorf("opening %s: %w", c.name(), err)
	}
	before, err = db.rebind(ctx, c.Binding)
	if err = errors.Join(err, db.close()); err != nil {
		return before, fmt.Errorf("stamping %s anew: %w", c.name(), err)
	}
	return before, nil
}

func (db *database) rebind(ctx context.Context, stamp credstore.Binding) (before credstore.Binding, err error) {
	row, err := readBinding(ctx, db.dialect.readers())
	if errors.Is(err, sql.ErrNoRows) {
		row, err = db.bindOnce(ctx, stamp)
	}
	if err != nil {
		return before, db.failure("reading the store's stamp", err)
	}
	if err := checkKeyset(db.keys, row); err != nil {
		return before, err
	}
	return row.binding, db.write(ctx, "writing the stamp", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE store SET environment = $1, auth_url = $2, client_id = $3`,
			stamp.Environment, stamp.AuthURL, stamp.ClientID)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM facts WHERE name <> $1 AND name NOT LIKE $2`, factReencrypted, factReplaced+"%")
		return err
	})
}
