package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Fact implements [credstore.Changes].
func (s changes) Fact(ctx context.Context, name string) (string, error) {
	var value string
	err := s.db.dialect.readers().QueryRowContext(ctx, `SELECT value FROM facts WHERE name = $1`, name).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return value, s.db.failure(fmt.Sprintf("reading fact %q", name), err)
}

// SetFact implements [credstore.Changes].
func (s changes) SetFact(ctx context.Context, name, value string) error {
	return s.db.write(ctx, fmt.Sprintf("recording fact %q", name), func(tx *sql.Tx) error {
		return setFact(ctx, tx, name, value)
	})
}

func setFact(ctx context.Context, tx *sql.Tx, name, value string) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO facts (name, value) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}

// Position implements [credstore.Changes].
func (s changes) Position(ctx context.Context) (store string, change int64, err error) {
	err = s.db.dialect.readers().QueryRowContext(ctx, `SELECT `+s.db.dialect.storeName()+`, `+s.db.dialect.lastChange()+` FROM store`).Scan(&store, &change)
	return store, change, s.db.failure("reading the store's position", err)
}
