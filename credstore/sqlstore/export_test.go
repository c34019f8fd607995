package sqlstore

import (
	"context"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

// Server is the PostgreSQL of these tests, started by the first that needs it.
var Server postgrestest.Shared

// Transactions returns how many transactions the server has run in the database of
// the store.
func Transactions(ctx context.Context, s *Store) (n int64, err error) {
	err = s.db.dialect.readers().QueryRowContext(ctx, `
		SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()`).Scan(&n)
	return n, err
}
