package sqlstore

import (
	"database/sql"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

// Server is the PostgreSQL of these tests, started by the first that needs it.
var Server postgrestest.Shared

// writer returns the pool of the store for transactions that write.
func writer(s *Store) *sql.DB {
	if d, ok := s.db.dialect.(*sqliteDialect); ok {
		return d.write
	}
	return s.db.dialect.readers()
}
