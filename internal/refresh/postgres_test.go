package refresh

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

// database is the PostgreSQL of these tests, started by the first that needs it.
var database postgrestest.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	if err := database.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "closing PostgreSQL:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// replica is a process with its store in PostgreSQL.
func replica(t *testing.T, dsn string, keys *keyset.Keyset, s *server, owner string) (*Manager, credstore.Store) {
	t.Helper()
	store, err := sqlstore.Open(t.Context(), sqlstore.Config{
		DSN: func() credstore.Secret { return credstore.NewSecret(dsn) }, Keyset: keys,
	})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = store.Close() })
	dir := t.TempDir()
	records, err := spool.Open(dir, keys)
	if err != nil {
		t.Fatalf("opening the spool: %v", err)
	}
	m, err := New(Config{BeforeExpiry: testBeforeExpiry, Wait: testWait, Store: StoreOf(store.Store), Server: s, Spool: records, HighWaterMark: rollback.MarkIn(dir), Shared: true, Owner: owner})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return m, store.Store
}

// Three replicas without a leader refresh 300 connections that are due, each once.
func TestPostgresBackgroundWorkIsShared(t *testing.T) {
	const replicas, due = 3, 300
	keys, _, err := keyset.OpenOrCreate(filepath.Join(t.TempDir(), "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	s, dsn := newServer(), database.Schema(t)
	var managers []*Manager
	for i := range replicas {
		m, _ := replica(t, dsn, keys, s, fmt.Sprint("replica-", i))
		managers = append(managers, m)
	}
	_, store := replica(t, dsn, keys, s, "importer")
	for i := range due {
		tokens := s.grant()
		_, err := store.Connections.Create(t.Context(), credstore.NewConnection{
			Name: fmt.Sprint("c-", i), Kind: credstore.OAuth,
			Credential: &credstore.NewCredential{AccessToken: tokens.AccessToken, RefreshToken: tokens.RefreshToken},
		})
		if err != nil {
			t.Fatalf("Create: %v", err)
		}
	}
	postgrestest.Exec(t, dsn, fmt.Sprint(`UPDATE connections SET refreshed_at = refreshed_at - `, (2*keepAliveAge).Milliseconds()))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, m := range managers {
		running.Go(func() { _ = m.Run(ctx) }) // ends with the context
		running.Go(func() { roundAfterRound(ctx, m) })
	}
	for end := time.Now().Add(2 * time.Minute); refreshed(t, store) < due; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d connections were refreshed in 2 minutes", refreshed(t, store), due)
		}
	}
	for _, m := range managers {
		if err := m.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
	}
	cancel()
	running.Wait()
	if n := s.count(); n != due {
		t.Errorf("%d refreshes of %d connections, want one of each", n, due)
	}
}

// roundAfterRound repeats the keep-alive without the minutes between: each round
// refreshes a part of what is due.
func roundAfterRound(ctx context.Context, m *Manager) {
	for ctx.Err() == nil {
		round, end := context.WithTimeout(ctx, 2*time.Second)
		_ = m.scheduler.keepAlive(round) // ends with the context
		end()
	}
}

// refreshed counts the connections that are no longer due.
func refreshed(t *testing.T, store credstore.Store) int {
	t.Helper()
	old, err := store.Credentials.Due(t.Context(), time.Now().Add(keepAliveJitter-keepAliveAge), 1000)
	if err != nil {
		t.Fatalf("Due: %v", err)
	}
	return 300 - len(old)
}
