package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Fact returns what SetFact recorded; see [credstore.Store].
func (s *Store) Fact(ctx context.Context, name string) (string, error) {
	var value string
	err := s.dialect.readers().QueryRowContext(ctx, `SELECT value FROM facts WHERE name = $1`, name).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return value, s.failure(fmt.Sprintf("reading fact %q", name), err)
}

// SetFact records a fact; see [credstore.Store].
func (s *Store) SetFact(ctx context.Context, name, value string) error {
	return s.write(ctx, fmt.Sprintf("recording fact %q", name), func(tx *sql.Tx) error {
		return setFact(ctx, tx, name, value)
	})
}

func setFact(ctx context.Context, tx *sql.Tx, name, value string) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO facts (name, value) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}

// Position returns the store's id and its number of changes; see
// [credstore.Store].
func (s *Store) Position(ctx context.Context) (store string, change int64, err error) {
	err = s.dialect.readers().QueryRowContext(ctx, `SELECT `+s.dialect.storeName()+`, `+s.dialect.lastChange()+` FROM store`).Scan(&store, &change)
	return store, change, s.failure("reading the store's position", err)
}
