package postgrestest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Variable is the environment variable for an existing server to use: the connection
// string of a superuser, as a URL.
const Variable = "PLEO_TEST_POSTGRES"

// Shared is a server that the tests of one package share. The zero Shared starts one
// on first use.
type Shared struct {
	// Settings are those of Start. Nil means fast settings that do not survive a power
	// failure.
	Settings []string

	once   sync.Once
	dsn    string
	err    error
	server *Server // nil unless it was started here
}

// DSN returns the connection string of the superuser. It skips the test if PostgreSQL
// is not installed.
func (s *Shared) DSN(t testing.TB) string {
	t.Helper()
	s.once.Do(func() {
		if s.dsn = os.Getenv(Variable); s.dsn != "" {
			return
		}
		settings := s.Settings
		if settings == nil {
			settings = []string{"fsync = off", "full_page_writes = off"}
		}
		s.server, s.err = Start(context.Background(), settings...)
		if s.err == nil {
			s.dsn = s.server.DSN()
		}
	})
	if errors.Is(s.err, ErrMissing) {
		t.Skipf("%v; install it, or set %s to a superuser's connection string", s.err, Variable)
	}
	if s.err != nil {
		t.Fatalf("starting PostgreSQL: %v", s.err)
	}
	return s.dsn
}

// Schema returns the connection string of an empty schema, which is removed after the
// test.
func (s *Shared) Schema(t testing.TB) string {
	t.Helper()
	return Schema(t, s.DSN(t))
}

// Schema creates an empty schema and returns its connection string. It is removed after
// the test.
func Schema(t testing.TB, dsn string) string {
	t.Helper()
	name := "test_" + strings.ToLower(rand.Text())
	Exec(t, dsn, `CREATE SCHEMA `+name)
	t.Cleanup(func() { Exec(t, dsn, `DROP SCHEMA `+name+` CASCADE`) })
	return With(t, dsn, "search_path", name)
}

// Database returns the connection string of an empty database, and its name. It is
// removed after the test.
func (s *Shared) Database(t testing.TB) (dsn, name string) {
	t.Helper()
	superuser := s.DSN(t)
	name = "test_" + strings.ToLower(rand.Text())
	Exec(t, superuser, `CREATE DATABASE `+name)
	t.Cleanup(func() { Exec(t, superuser, `DROP DATABASE `+name+` WITH (FORCE)`) })
	u, err := url.Parse(superuser)
	if err != nil {
		t.Fatal("parsing the connection string: it must be a URL")
	}
	u.Path = "/" + name
	return u.String(), name
}

// Close stops the server if it was started here.
func (s *Shared) Close() error {
	if s.server == nil {
		return nil
	}
	return s.server.Close()
}

// With returns the connection string with another parameter.
func With(t testing.TB, dsn, name, value string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatalf("parsing the connection string: it must be a URL")
	}
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// Exec executes one or more statements.
func Exec(t testing.TB, dsn, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// Scan reads the single row of a query.
func Scan(t testing.TB, dsn, query string, into ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := conn.QueryRow(ctx, query).Scan(into...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// Dump returns every row of every table in the schema of the connection string,
// as text.
func Dump(t testing.TB, dsn string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	// In the default format a search would not find text in binary columns.
	if _, err := conn.Exec(ctx, `SET bytea_output = 'escape'`); err != nil {
		t.Fatalf("preparing to read: %v", err)
	}
	rows, err := conn.Query(ctx, `SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = current_schema()`)
	if err != nil {
		t.Fatalf("listing tables: %v", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("listing tables: %v", err)
	}
	var dump bytes.Buffer
	for _, table := range tables {
		if _, err := conn.PgConn().CopyTo(ctx, &dump, `COPY `+table+` TO STDOUT`); err != nil {
			t.Fatalf("reading table %s: %v", table, err)
		}
	}
	return dump.Bytes()
}

// Address returns the host:port of the connection string.
func Address(t testing.TB, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatalf("parsing the connection string: it must be a URL")
	}
	return u.Host
}
