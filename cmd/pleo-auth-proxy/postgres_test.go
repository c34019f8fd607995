package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
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
		if _, err := credstore.CreateKeyset(filepath.Join(env.WorkDir, "strange.json")); err != nil {
			return err
		}
		return setupScript(env)
	})
}

type superuserKey struct{}

// postgresCommand configures a store in PostgreSQL, and writes files with
// connection strings that have something wrong about each.
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
		"nobody-there":   func(u *url.URL) { u.Host = "127.0.0.1:1" },
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
