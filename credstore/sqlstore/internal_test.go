package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

func openStore(t testing.TB, path string) *Store {
	t.Helper()
	keys, _, err := keyset.OpenOrCreate(filepath.Join(t.TempDir(), "keyset.json"))
	if err != nil {
		t.Fatalf("keyset.OpenOrCreate: %v", err)
	}
	s, err := Open(context.Background(), Config{Path: path, Keyset: keys})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newOAuth(name string) credstore.NewConnection {
	return credstore.NewConnection{
		Name: name,
		Kind: credstore.OAuth,
		Credential: &credstore.NewCredential{
			AccessToken:  credstore.NewSecret("access of " + name),
			RefreshToken: credstore.NewSecret("refresh of " + name),
		},
	}
}

func mustCreate(t testing.TB, s *Store, n credstore.NewConnection) credstore.Connection {
	t.Helper()
	c, err := s.Connections.Create(context.Background(), n)
	if err != nil {
		t.Fatalf("Create(%q): %v", n.Name, err)
	}
	return c
}

func mustExec(t testing.TB, db *sql.DB, statement string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// raw opens a database file without any of our checks.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	if _, err := os.Lstat(path); err != nil {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatalf("creating a file: %v", err)
		}
	}
	db, err := openPool(path, url.Values{"_txlock": {"immediate"}}, 1)
	if err != nil {
		t.Fatalf("opening a database: %v", err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestMigrationsApplyInOrderAndAtomically(t *testing.T) {
	db := raw(t, filepath.Join(t.TempDir(), "store.db"))
	first, second := `CREATE TABLE a (x INTEGER)`, `ALTER TABLE a ADD COLUMN y INTEGER; INSERT INTO a VALUES (1, 2)`
	broken := `INSERT INTO a VALUES (3, 4); INSERT INTO nowhere VALUES (5)`
	for _, test := range []struct {
		name       string
		migrations []string
		wantErr    bool
		want       int // version
	}{
		{"first", []string{first}, false, 1},
		{"again", []string{first}, false, 1},
		{"second", []string{first, second}, false, 2},
		{"broken", []string{first, second, broken}, true, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := migrate(t.Context(), db, test.migrations)
			if (err != nil) != test.wantErr {
				t.Fatalf("migrate = %v, want an error: %v", err, test.wantErr)
			}
			if got, err := checkVersion(t.Context(), db, 9); got != test.want || err != nil {
				t.Errorf("version = %d, %v, want %d", got, err, test.want)
			}
		})
	}
	var rows int
	if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM a WHERE x + 1 = y`).Scan(&rows); err != nil || rows != 1 {
		t.Errorf("rows = %d, %v, want the one of the second migration", rows, err)
	}
}

func TestForeignSchemaIsRejectedUnchanged(t *testing.T) {
	for _, test := range []struct {
		name, setup, want string
	}{
		{"newer", `CREATE TABLE a (x); PRAGMA application_id = 0x504c454f; PRAGMA user_version = 99`, "newer"},
		{"another program's", `CREATE TABLE a (x)`, "another program"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			db := raw(t, path)
			mustExec(t, db, test.setup)
			if err := db.Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
			before := readFile(t, path)
			_, err := openSQLite(t.Context(), path, zap.NewNop())
			var setup *credstore.SetupError
			if !errors.As(err, &setup) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("opening = %v, want a SetupError that says %q", err, test.want)
			}
			if !bytes.Equal(readFile(t, path), before) {
				t.Error("the database was written to")
			}
		})
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("reading a file: %v", err)
	}
	return data
}

func TestFullDiskIsUnavailableAndRollsBack(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "store.db"))
	c := mustCreate(t, s, newOAuth("acme"))
	before, err := s.Connections.Read(t.Context(), c.ID)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	mustExec(t, writer(s), `PRAGMA max_page_count = 1`) // no more pages than there are
	n := credstore.Successor{
		Parent:       before.Credential.Parent(),
		AccessToken:  credstore.NewSecret(strings.Repeat("long", 1<<16)),
		RefreshToken: credstore.NewSecret("next"),
	}
	if _, err := s.Credentials.Save(t.Context(), n); !errors.Is(err, credstore.ErrUnavailable) || !strings.Contains(err.Error(), "full") {
		t.Errorf("Save on a full disk = %v, want %v that says so", err, credstore.ErrUnavailable)
	}
	after, err := s.Connections.Read(t.Context(), c.ID)
	if err != nil || after.Credential.Parent() != before.Credential.Parent() || !after.Credential.AccessToken.Equal(before.Credential.AccessToken) {
		t.Errorf("Read after a failed save = %+v, %v, want it as before", after, err)
	}
	mustExec(t, writer(s), `PRAGMA max_page_count = 1000000`)
	if saved, err := s.Credentials.Save(t.Context(), n); err != nil || saved.Version != 2 {
		t.Errorf("Save with room again = version %d, %v, want 2", saved.Version, err)
	}
}

func TestMovedRecordDoesNotDecrypt(t *testing.T) {
	for name, move := range map[string]string{
		"to another column":     `UPDATE credentials SET access_token = refresh_token`,
		"to another connection": `UPDATE credentials SET access_token = (SELECT access_token FROM credentials ORDER BY connection DESC LIMIT 1)`,
		"nowhere, but cut":      `UPDATE credentials SET access_token = substr(access_token, 1, length(access_token) - 1)`,
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, filepath.Join(t.TempDir(), "store.db"))
			c := mustCreate(t, s, newOAuth("acme"))
			mustCreate(t, s, newOAuth("other"))
			mustExec(t, writer(s), move)
			state, err := s.Connections.Read(t.Context(), c.ID)
			var setup *credstore.SetupError
			if !errors.As(err, &setup) || !state.Credential.AccessToken.IsZero() {
				t.Errorf("Read of a record that was moved = %v, want a SetupError and no token", err)
			}
		})
	}
}

func TestRemovalsArePruned(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "store.db"))
	now := time.Now()
	s.db.now = func() time.Time { return now }
	c := mustCreate(t, s, newOAuth("gone"))
	mustCreate(t, s, newOAuth("stays"))
	if err := s.Connections.Remove(t.Context(), c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	mustCreate(t, s, newOAuth("later")) // the latest change stays, which watchers begin from
	for _, test := range []struct {
		after time.Duration
		want  int
	}{{removalRetention - 2*pruneInterval, 3}, {removalRetention + pruneInterval, 2}} {
		start := now
		now = now.Add(test.after)
		s.db.pruneIfDue(t.Context())
		now = start
		ids, _, _, err := changes{s.db}.since(t.Context(), "0")
		if err != nil || len(ids) != test.want {
			t.Errorf("changes known after %v = %d, %v, want %d", test.after, len(ids), err, test.want)
		}
	}
}

// TestOwnChangesAreReportedAtOnce: the process that changes a connection need not wait
// for a poll.
func TestOwnChangesAreReportedAtOnce(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "store.db"))
	reports := make(chan []string, 1)
	w := &watcher{db: s.db, seen: s.db.opened, interval: 24 * time.Hour, changed: func(found []credstore.Change) { reports <- idsOf(found) }}
	go func() { _ = s.db.dialect.watch(t.Context(), w) }()
	late := time.After(time.Minute)
	for i := range 20 {
		c := mustCreate(t, s, newOAuth(fmt.Sprint("c-", i)))
		select {
		case found := <-reports:
			if !slices.Equal(found, []string{c.ID}) {
				t.Errorf("reported %v, want %s alone", found, c.ID)
			}
		case <-late:
			t.Fatalf("creation %d was not reported", i)
		}
	}
}

func idsOf(found []credstore.Change) (ids []string) {
	for _, c := range found {
		ids = append(ids, c.ID)
	}
	return ids
}

// outage is a database that is away while down is set.
type outage struct {
	dialect
	down   atomic.Bool
	broken *sql.DB
}

func (o *outage) readers() *sql.DB {
	if o.down.Load() {
		return o.broken
	}
	return o.dialect.readers()
}

func TestWatchSurvivesAnOutage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := openStore(t, path)
	core, logged := observer.New(zap.WarnLevel)
	s.db.log = zap.New(core)
	o := &outage{dialect: s.db.dialect, broken: raw(t, filepath.Join(t.TempDir(), "gone.db"))}
	s.db.dialect = o
	if err := o.broken.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}

	o.down.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	reports, done := make(chan []string, 10), make(chan error, 1)
	go func() { done <- s.Changes.Watch(ctx, func(found []credstore.Change) { reports <- idsOf(found) }) }()
	for logged.Len() == 0 { // until Watch has met the outage
		time.Sleep(time.Millisecond)
	}
	c := mustCreate(t, s, newOAuth("acme"))
	o.down.Store(false)
	if ids := <-reports; !slices.Contains(ids, c.ID) {
		t.Errorf("reported after the outage: %v, want %q", ids, c.ID)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch = %v, want %v", err, context.Canceled)
	}
	if logged.Len() != 1 {
		t.Errorf("log = %v, want one warning for one outage", logged.All())
	}
}

// fill adds n connections in one transaction.
func fill(b *testing.B, s *Store, n int) []string {
	b.Helper()
	ids := make([]string, n)
	err := s.db.write(b.Context(), "filling", func(tx *sql.Tx) error {
		for i := range ids {
			id := fmt.Sprintf("%026d", i)
			ids[i] = id
			if err := s.fillOne(b.Context(), tx, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatalf("filling the store: %v", err)
	}
	return ids
}

func (s *Store) fillOne(ctx context.Context, tx *sql.Tx, id string) error {
	t := credstore.Begin(id, newOAuth("c-"+id), s.db.now())
	number, _, err := insertConnection(ctx, tx, t.State)
	if err != nil {
		return err
	}
	if err := s.db.storeSecrets(ctx, tx, number, id, t.Secrets); err != nil {
		return err
	}
	return s.db.dialect.recordChange(ctx, tx, id, s.db.now())
}

const benchmarkSize = 10_000

func filledStore(b *testing.B) (*Store, []string) {
	b.Helper()
	s := openStore(b, filepath.Join(b.TempDir(), "store.db"))
	return s, fill(b, s, benchmarkSize)
}

func BenchmarkRead(b *testing.B) {
	s, ids := filledStore(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := s.Connections.Read(b.Context(), ids[i*7919%len(ids)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSave(b *testing.B) {
	s, ids := filledStore(b)
	state, err := s.Connections.Read(b.Context(), ids[0])
	if err != nil {
		b.Fatal(err)
	}
	parent := state.Credential.Parent()
	token := credstore.NewSecret(strings.Repeat("t", 1000))
	b.ReportAllocs()
	for b.Loop() {
		saved, err := s.Credentials.Save(b.Context(), credstore.Successor{Parent: parent, AccessToken: token, RefreshToken: token, ObtainedAt: time.Now()})
		if err != nil {
			b.Fatal(err)
		}
		parent.Version, parent.RefreshHash = saved.Version, token.Hash()
	}
}

func BenchmarkListPage(b *testing.B) {
	s, ids := filledStore(b)
	cursor := cursorAfter("c-" + ids[len(ids)/2])
	b.ReportAllocs()
	for b.Loop() {
		page, err := s.Connections.List(b.Context(), credstore.Query{Cursor: cursor})
		if err != nil || len(page.Connections) != defaultPageSize {
			b.Fatal(len(page.Connections), err)
		}
	}
}

// fillMany fills a store with as many connections as one is made for.
func fillMany(b *testing.B, s *Store) (ids []string) {
	b.Helper()
	if testing.Short() {
		return fill(b, s, 2_000)
	}
	return fill(b, s, 100_000)
}

// BenchmarkListOfMany looks for what is rare or not there at all: then a page
// needs a look at every connection.
func BenchmarkListOfMany(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		benchmarkListOfMany(b, openStore(b, filepath.Join(b.TempDir(), "store.db")))
	})
	b.Run("postgres", func(b *testing.B) {
		benchmarkListOfMany(b, openPostgresStore(b, Server.Schema(b), newKeyset(b)))
	})
}

func benchmarkListOfMany(b *testing.B, s *Store) {
	ids := fillMany(b, s)
	for i := range 10 {
		mustExec(b, writer(s), `UPDATE connections SET status = 'degraded', kind = 'integrated_key' WHERE id = $1`, ids[i*(len(ids)/10)])
	}
	for _, bm := range []struct {
		name  string
		query credstore.Query
	}{
		{"first", credstore.Query{}},
		{"last", credstore.Query{Cursor: cursorAfter("c-" + ids[len(ids)-60])}},
		{"status", credstore.Query{Status: credstore.Degraded}},
		{"kind", credstore.Query{Kind: credstore.IntegratedKey}},
		{"kind and status", credstore.Query{Kind: credstore.StandaloneKey, Status: credstore.Active}},
		{"found at once", credstore.Query{Search: "C-0000"}},
		{"found last", credstore.Query{Search: ids[len(ids)-1]}},
		{"found nowhere", credstore.Query{Search: "nowhere"}},
		{"found nowhere in a kind", credstore.Query{Search: "nowhere", Kind: credstore.OAuth}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Connections.List(b.Context(), bm.query); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHistoryOfMany reads the history of one of many, all of which have one.
func BenchmarkHistoryOfMany(b *testing.B) {
	s := openStore(b, filepath.Join(b.TempDir(), "store.db"))
	ids := fillMany(b, s)
	mustExec(b, writer(s), `
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
		INSERT INTO events (id, connection_id, connection, frequent, type, at, actor, status, reason, version, code, message)
		SELECT id || i, id, name, 1, 'connection.refreshed', i, 'proxy', 'active', '', i, '', '' FROM n, connections`)
	full := credstore.Connection{ID: ids[77], Name: "full"}
	err := s.db.write(b.Context(), "filling", func(tx *sql.Tx) error {
		for range credstore.MaxEvents + credstore.MaxFrequentEvents {
			for _, t := range []credstore.EventType{credstore.EventRefreshed, credstore.EventEnabled} {
				if _, err := s.db.addEvent(b.Context(), tx, full, credstore.Event{Type: t}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("page", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.History.Events(b.Context(), full.ID, "", 50); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("note", func(b *testing.B) {
		for b.Loop() {
			if err := s.History.RecordEvent(b.Context(), full.ID, credstore.Event{Type: credstore.EventEnabled}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	s, _ := filledStore(b)
	path := filepath.Join(b.TempDir(), "copy.db")
	if _, err := writer(s).ExecContext(b.Context(), `VACUUM INTO ?`, path); err != nil {
		b.Fatal(err)
	}
	c := Config{Path: path, Keyset: s.db.keys}
	for b.Loop() {
		opened, err := Open(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		if err := opened.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
