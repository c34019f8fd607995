package sqlstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

// as returns the connection string for another user, who may use the schema.
func as(t *testing.T, dsn, grants string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	user, schema := "user_"+strings.ToLower(rand.Text()), u.Query().Get("search_path")
	postgrestest.Exec(t, dsn, `CREATE ROLE `+user+` LOGIN PASSWORD 'canary'; GRANT USAGE ON SCHEMA `+schema+` TO `+user+`;`+
		strings.NewReplacer("$user", user, "$schema", schema).Replace(grants))
	t.Cleanup(func() { postgrestest.Exec(t, dsn, `DROP OWNED BY `+user+`; DROP ROLE `+user) })
	u.User = url.UserPassword(user, "canary")
	return u.String()
}

// TestPostgresMissingRights: whatever a user may not do is found before anything
// is written, and not in the middle of a refresh.
func TestPostgresMissingRights(t *testing.T) {
	for _, test := range []struct {
		name   string
		made   bool // the store is there
		grants string
		want   string // empty: the rights will do
	}{
		{"no tables may be made", false, ``, "permission denied for schema"},
		{"none", true, ``, "permission denied for table schema_version"},
		{"reading only", true, `GRANT SELECT ON ALL TABLES IN SCHEMA $schema TO $user`, "may not read and write table"},
		{"all but sequences", true, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA $schema TO $user`, "_seq"},
		{"all", true, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA $schema TO $user;
			GRANT USAGE ON ALL SEQUENCES IN SCHEMA $schema TO $user`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPostgres(t)
			if test.made {
				create(t, p.open(t).Store, "acme")
			}
			before := string(p.Dump(t))
			c := p.config()
			dsn := as(t, p.dsn, test.grants)
			c.DSN = func() credstore.Secret { return credstore.NewSecret(dsn) }
			s, err := sqlstore.Open(t.Context(), c)
			if test.want == "" {
				if err != nil {
					t.Fatalf("Open = %v, want nil", err)
				}
				create(t, s.Store, "other")
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				return
			}
			wantPostgresRejected(t, err, test.want)
			if string(p.Dump(t)) != before {
				t.Error("something was written")
			}
		})
	}
}

func wantPostgresRejected(t *testing.T, err error, words string) {
	t.Helper()
	var setup *credstore.SetupError
	if !errors.As(err, &setup) || setup.Hint == "" || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "canary") {
		t.Errorf("Open = %v, want a SetupError with a hint that says %q, and no password", err, words)
	}
}

// TestPostgresOldServerIsRejected plays a server of an older release.
func TestPostgresOldServerIsRejected(t *testing.T) {
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer func() { _ = l.Close() }()
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { playOldServer(conn) })
		}
	})
	c := sqlstore.Config{
		Keyset: openKeyset(t, t.TempDir()+"/keyset.json"),
		DSN: func() credstore.Secret {
			return credstore.NewSecret("postgres://u:canary@" + l.Addr().String() + "/d?sslmode=disable&target_session_attrs=any")
		},
	}
	_, err = sqlstore.Open(context.Background(), c)
	wantPostgresRejected(t, err, "PostgreSQL 14.2; use PostgreSQL 15 or later")
}

// playOldServer responds to every query with the version of an old release.
func playOldServer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	b := pgproto3.NewBackend(conn, conn)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	rows := &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
		{Name: []byte("number"), DataTypeOID: 20}, {Name: []byte("name"), DataTypeOID: 25},
	}}
	values := &pgproto3.DataRow{Values: [][]byte{[]byte("140002"), []byte("14.2")}}
	for b.Flush() == nil {
		m, err := b.Receive()
		if err != nil {
			return
		}
		switch m.(type) {
		case *pgproto3.Query:
			b.Send(rows)
			b.Send(values)
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Parse:
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Bind:
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Describe:
			b.Send(rows)
		case *pgproto3.Execute:
			b.Send(values)
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		case *pgproto3.Sync:
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
	}
}
