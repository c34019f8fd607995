package sqlstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/credstoretest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

func TestPostgresStore(t *testing.T) {
	credstoretest.TestStore(t, func(t *testing.T) credstoretest.Data { return newPostgres(t) })
}

func TestPostgresOutbox(t *testing.T) {
	credstoretest.TestOutbox(t, func(t *testing.T) credstoretest.Data { return newPostgres(t) })
}

// postgres is a schema for a store, and the keyset beside it.
type postgres struct {
	dsn  string
	keys *keyset.Keyset
}

func newPostgres(t testing.TB) *postgres {
	t.Helper()
	return &postgres{dsn: sqlstore.Server.Schema(t), keys: openKeyset(t, filepath.Join(t.TempDir(), "keyset.json"))}
}

func (p *postgres) config() sqlstore.Config {
	return sqlstore.Config{
		DSN:     func() credstore.Secret { return credstore.NewSecret(p.dsn) },
		Keyset:  p.keys,
		Binding: credstore.Binding{Environment: "custom", AuthURL: "http://127.0.0.1:1", ClientID: "client-1"},
	}
}

// decrypt opens the store and closes it with the test.
func (p *postgres) open(t testing.TB) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.Open(t.Context(), p.config())
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func (p *postgres) Open(t *testing.T) credstoretest.Store { return forTest(p.open(t)) }

// Dump is what pg_dump would see: every row of every table.
func (p *postgres) Dump(t *testing.T) []byte {
	t.Helper()
	return postgrestest.Dump(t, p.dsn)
}

// closeServer is for TestMain.
func closeServer(code int) int {
	if err := sqlstore.Server.Close(); err != nil {
		_, _ = os.Stderr.WriteString("closing PostgreSQL: " + err.Error() + "\n")
		return max(code, 1)
	}
	return code
}
