package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

// openPostgresStore opens one more store on the database.
func openPostgresStore(t testing.TB, dsn string, keys *keyset.Keyset) *Store {
	t.Helper()
	s, err := Open(context.Background(), Config{
		DSN: func() credstore.Secret { return credstore.NewSecret(dsn) }, Keyset: keys,
	})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newKeyset(t testing.TB) *keyset.Keyset {
	t.Helper()
	k, _, err := keyset.OpenOrCreate(filepath.Join(t.TempDir(), "keyset.json"))
	if err != nil {
		t.Fatalf("keyset.OpenOrCreate: %v", err)
	}
	return k
}

// holdOpen notes a change of the connection in a transaction that stays open
// until it is ended.
func holdOpen(t *testing.T, s *Store, id string) (end func()) {
	t.Helper()
	noted, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.db.transact(context.Background(), "changing", id, func(tx *sql.Tx) error {
			err := s.db.dialect.recordChange(context.Background(), tx, id, s.db.now())
			close(noted)
			<-release
			return err
		})
	}()
	<-noted
	return func() {
		close(release)
		if err := <-done; err != nil {
			t.Fatalf("ending a transaction: %v", err)
		}
	}
}

// TestPostgresChangesAreReportedInAnyCommitOrder: a change with a lower
// number that commits later is not passed over.
func TestPostgresChangesAreReportedInAnyCommitOrder(t *testing.T) {
	dsn, keys := Server.Schema(t), newKeyset(t)
	s := openPostgresStore(t, dsn, keys)
	first, second := mustCreate(t, s, newOAuth("first")), mustCreate(t, s, newOAuth("second"))
	var seen string
	if err := s.db.dialect.readers().QueryRowContext(t.Context(), s.db.dialect.position()).Scan(&seen); err != nil {
		t.Fatalf("reading the position: %v", err)
	}
	look := func(when string, want ...string) {
		t.Helper()
		found, latest, _, err := changes{s.db}.since(t.Context(), seen)
		if err != nil || !slices.Equal(idsOf(found), want) {
			t.Errorf("changes %s = %v, %v, want %v", when, idsOf(found), err, want)
		}
		seen = latest
	}
	look("before any")
	endFirst := holdOpen(t, s, first.ID)
	endSecond := holdOpen(t, s, second.ID)
	look("while both are open")
	endSecond()
	look("after the second has committed", second.ID)
	look("once more")
	endFirst()
	look("after the first has committed", first.ID)
	look("at last")
}

// reports returns what a watcher of the store reports.
func reports(t testing.TB, s *Store) <-chan credstore.Change {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	all, done := make(chan credstore.Change, 1000), make(chan error, 1)
	go func() {
		done <- s.Changes.Watch(ctx, func(found []credstore.Change) {
			for _, c := range found {
				all <- c
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v, want %v", err, context.Canceled)
		}
	})
	return all
}

func awaitReport(t testing.TB, what string, all <-chan credstore.Change, id string, within time.Duration) {
	t.Helper()
	timeout := time.After(within)
	for {
		select {
		case c := <-all:
			if c.ID == id {
				return
			}
		case <-timeout:
			t.Fatalf("%s was not reported within %v", what, within)
		}
	}
}

// awaitListening returns once the watcher listens.
func awaitListening(t testing.TB, s *Store, others int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if listeners(t, s) > others {
			return
		}
	}
	t.Fatal("no listener after 10 s")
}

// listeners counts the connections whose last statement was to listen, which
// waiting ones keep until they make sure of their connection.
func listeners(t testing.TB, s *Store) (n int) {
	t.Helper()
	err := s.db.dialect.readers().QueryRowContext(t.Context(), `
		SELECT count(*) FROM pg_stat_activity WHERE query = $1`, `LISTEN "`+s.db.dialect.(*postgresDialect).channel+`"`).Scan(&n)
	if err != nil {
		t.Fatalf("looking for listeners: %v", err)
	}
	return n
}

// TestPostgresNotifiesImmediately: others hear of what one process has saved, and
// do not come upon it: while they listen, their next look is most of a minute away.
func TestPostgresNotifiesImmediately(t *testing.T) {
	dsn, keys := Server.Schema(t), newKeyset(t)
	s, other := openPostgresStore(t, dsn, keys), openPostgresStore(t, dsn, keys)
	all := reports(t, other)
	awaitListening(t, s, 0)
	for i := range 20 {
		c := mustCreate(t, s, newOAuth("c-"+string(rune('a'+i))))
		awaitReport(t, "a creation", all, c.ID, checkpointInterval/4)
	}
}

// BenchmarkPostgresNotify is the way of a change from one process to another.
func BenchmarkPostgresNotify(b *testing.B) {
	dsn, keys := Server.Schema(b), newKeyset(b)
	s, other := openPostgresStore(b, dsn, keys), openPostgresStore(b, dsn, keys)
	all := reports(b, other)
	awaitListening(b, s, 0)
	for i := 0; b.Loop(); i++ {
		c := mustCreate(b, s, newOAuth(fmt.Sprint("c-", i)))
		awaitReport(b, "a creation", all, c.ID, checkpointInterval/4)
	}
}

// TestPostgresReportsMissedChanges: whatever changes while a watcher cannot
// listen is reported when it can again.
func TestPostgresReportsMissedChanges(t *testing.T) {
	dsn, keys := Server.Schema(t), newKeyset(t)
	relay, err := postgrestest.NewRelay(t.Context(), postgrestest.Address(t, dsn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	s, other := openPostgresStore(t, dsn, keys), openPostgresStore(t, relay.DSN(t, dsn), keys)
	core, logged := observer.New(zap.WarnLevel)
	other.db.log = zap.New(core)
	all := reports(t, other)
	awaitListening(t, s, 0)

	relay.Cut()
	missed := mustCreate(t, s, newOAuth("missed"))
	relay.Restore()
	awaitReport(t, "what changed during the cut", all, missed.ID, 10*time.Second)
	if logged.FilterMessageSnippet("cannot listen").Len() == 0 {
		t.Errorf("log = %v, want a warning that listening failed", logged.All())
	}
	awaitListening(t, s, 0)
	c := mustCreate(t, s, newOAuth("acme"))
	awaitReport(t, "what changed afterwards", all, c.ID, 10*time.Second)
}

// TestPostgresWatchBehindAPooler: a pooler shares connections between transactions, so
// that listening is impossible; changes are polled instead.
func TestPostgresWatchBehindAPooler(t *testing.T) {
	dsn, keys := Server.Schema(t), newKeyset(t)
	pooled := postgrestest.StartPooler(t, dsn)
	direct, s := openPostgresStore(t, dsn, keys), openPostgresStore(t, pooled, keys)
	core, logged := observer.New(zap.WarnLevel)
	s.db.log = zap.New(core)
	all := reports(t, s)
	for _, name := range []string{"a", "b", "c"} {
		c := mustCreate(t, direct, newOAuth(name))
		awaitReport(t, "a change", all, c.ID, pollInterval+time.Second)
	}
	if logged.FilterMessageSnippet("pooler").Len() != 1 {
		t.Errorf("log = %v, want one warning about the pooler", logged.All())
	}
	if n := listeners(t, direct); n != 0 {
		t.Errorf("%d connections behind the pooler listen, want none", n)
	}
	// All else works too.
	c := mustCreate(t, s, newOAuth("pooled"))
	l, err := s.Credentials.Acquire(t.Context(), c.ID, "me")
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Fatalf("Release: %v", err)
	}
}

// TestPostgresRestoredChangesAreReportedOnce: rows from another server may
// bear transaction numbers that this one has not come to.
func TestPostgresRestoredChangesAreReportedOnce(t *testing.T) {
	s := openPostgresStore(t, Server.Schema(t), newKeyset(t))
	c := mustCreate(t, s, newOAuth("acme"))
	mustExec(t, writer(s), `UPDATE changes SET xact = '999999999999'`)
	found, latest, _, err := changes{s.db}.since(t.Context(), s.db.opened)
	if err != nil || len(found) != 0 {
		t.Errorf("changes = %v, %v, want none of the future", idsOf(found), err)
	}
	end := holdOpen(t, s, c.ID)
	end()
	if found, _, _, err = (changes{s.db}).since(t.Context(), latest); err != nil || !slices.Equal(idsOf(found), []string{c.ID}) {
		t.Errorf("changes after one = %v, %v, want it", idsOf(found), err)
	}
}
