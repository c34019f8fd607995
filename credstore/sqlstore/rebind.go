package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Rebind gives an existing store the stamp of c in the place of its own, which
// it returns. What was known about the environment before (see Fact) is
// forgotten. Credentials stay, whether the new environment takes them or not.
func Rebind(ctx context.Context, c Config) (before credstore.Binding, err error) {
	log := cmp.Or(c.Logger, zap.NewNop())
	database, err := openDialect(ctx, c, log)
	if err != nil {
		return before, fmt.Errorf("opening %s: %w", c.name(), err)
	}
	s := newStore(c, database, log)
	before, err = s.rebind(ctx, c.Binding)
	if err = errors.Join(err, s.Close()); err != nil {
		return before, fmt.Errorf("stamping %s anew: %w", c.name(), err)
	}
	return before, nil
}

func (s *Store) rebind(ctx context.Context, stamp credstore.Binding) (before credstore.Binding, err error) {
	row, err := readBinding(ctx, s.dialect.readers())
	if errors.Is(err, sql.ErrNoRows) {
		row, err = s.bindOnce(ctx, stamp)
	}
	if err != nil {
		return before, s.failure("reading the store's stamp", err)
	}
	if err := s.checkKeyset(row); err != nil {
		return before, err
	}
	return row.binding, s.write(ctx, "writing the stamp", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE store SET environment = $1, auth_url = $2, client_id = $3`,
			stamp.Environment, stamp.AuthURL, stamp.ClientID)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM facts WHERE name <> $1 AND name NOT LIKE $2`, factReencrypted, factReplaced+"%")
		return err
	})
}
