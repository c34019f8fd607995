package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// database is the PostgreSQL of these tests, started by the first that needs it.
var database postgrestest.Shared

// closing ends the database after the tests.
type closing struct{ m *testing.M }

func (c closing) Run() int {
	code := c.m.Run()
	if err := database.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "closing PostgreSQL:", err)
		return max(code, 1)
	}
	return code
}

// TestPostgresScripts runs the scripts about a store in PostgreSQL, with the
// commands of TestScripts.
func TestPostgresScripts(t *testing.T) {
	superuser := database.DSN(t)
	runScripts(t, "testdata/postgres", func(env *testscript.Env) error {
		env.Values[superuserKey{}] = superuser
		if _, err := keyset.Create(filepath.Join(env.WorkDir, "strange.json")); err != nil {
			return err
		}
		return setupScript(env)
	})
}

type superuserKey struct{}

// postgresCommand configures a store in PostgreSQL, and writes files with
// connection strings that each have a mistake.
func postgresCommand(ts *testscript.TestScript, _ bool, _ []string) {
	t := scriptT{ts: ts}
	superuser := ts.Value(superuserKey{}).(string)
	dsn := postgrestest.Schema(t, superuser)
	ts.Check(os.WriteFile(ts.MkAbs("dsn"), []byte(dsn+"\n"), 0o600))
	config, err := os.OpenFile(ts.MkAbs("config.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	ts.Check(err)
	_, err = config.WriteString("store: {driver: postgres, dsn_file: dsn}\n")
	ts.Check(errors.Join(err, config.Close()))

	for name, spoil := range map[string]func(*url.URL){
		"wrong-password": func(u *url.URL) { u.User = url.UserPassword("postgres", "wrong-canary") },
		"no-database":    func(u *url.URL) { u.Path = "/nowhere" },
		"no-schema":      func(u *url.URL) { u.RawQuery += "&search_path=nowhere" },
		"unreachable":    func(u *url.URL) { u.Host = "127.0.0.1:1" },
	} {
		u, err := url.Parse(superuser)
		ts.Check(err)
		spoil(u)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(u.String()), 0o600))
	}
}

func psqlCommand(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dsn := strings.TrimSpace(ts.ReadFile("dsn"))
	conn, err := pgx.Connect(ctx, dsn)
	ts.Check(err)
	defer func() { _ = conn.Close(ctx) }()
	var value any
	if err := conn.QueryRow(ctx, args[0]).Scan(&value); !errors.Is(err, pgx.ErrNoRows) {
		ts.Check(err)
		fmt.Fprintln(ts.Stdout(), value)
	}
}

// TestPostgresFromSQLite moves a store by an export and an import. Nothing is
// refreshed in between, nothing is lost, and the old store serves nothing.
func TestPostgresFromSQLite(t *testing.T) {
	const moved = 20
	old := newEnv(t, simulator.Settings{})
	var lines []string
	for i := range moved {
		_, line := old.grant(fmt.Sprint("c", i), simulator.GrantRequest{})
		lines = append(lines, line)
	}
	old.importLines(lines...)
	code, exported, stderr := old.run("", "connections", "export", "--with-secrets")
	if code != exitDone {
		t.Fatalf("connections export exits %d, want 0:\n%s", code, stderr)
	}
	if n := strings.Count(exported, "\n"); n != moved {
		t.Errorf("%d lines were exported, want %d", n, moved)
	}
	next := &env{t: t, dir: t.TempDir(), sim: old.sim, url: old.url, arrived: old.arrived}
	next.config = next.write("config.yaml", configFor(old.sim, old.url, filepath.Join(next.dir, "data"))+
		fmt.Sprintf("store: {driver: postgres, dsn: %q}\n", database.Schema(t)))
	next.importLines(strings.Split(strings.TrimSpace(exported), "\n")...)
	for name, counts := range map[string]*env{"old": old, "new": next} {
		want := map[string]credstore.Status{"old": credstore.Disabled, "new": credstore.Active}[name]
		code, listed, stderr := counts.run("", "connections", "list", "--json")
		if n := strings.Count(listed, fmt.Sprintf(`"status": %q`, want)); code != exitDone || n != moved {
			t.Errorf("%s store: %d connections are %s (exit %d %s), want %d", name, n, want, code, stderr, moved)
		}
	}
	if n := old.sim.Counters().Refreshes; n != 0 {
		t.Errorf("%d tokens were refreshed on the way, want none", n)
	}
	p := next.serve()
	defer p.stop()
	for i := range moved {
		name := fmt.Sprint("c", i)
		if a, err := p.get(client(t), name, "/v2/employees"); err != nil || a.status != http.StatusOK {
			t.Errorf("%s in its new store: %d %s, %v, want 200", name, a.status, a.body, err)
		}
	}
}
