package sqlstore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/credstoretest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
)

func TestStore(t *testing.T) {
	credstoretest.TestStore(t, func(t *testing.T) credstoretest.Data { return newDirectory(t) })
}

func TestOutbox(t *testing.T) {
	credstoretest.TestOutbox(t, func(t *testing.T) credstoretest.Data { return newDirectory(t) })
}

// forTest returns the store as the suites take it.
func forTest(s *sqlstore.Store) credstoretest.Store {
	return credstoretest.Store{Store: s.Store, Ping: s.Ping, Close: s.Close}
}

// directory is where a store keeps its files.
type directory struct {
	path   string // of the database
	keys   *keyset.Keyset
	opened []*sqlstore.Store
}

func newDirectory(t testing.TB) *directory {
	t.Helper()
	dir := t.TempDir()
	return &directory{path: filepath.Join(dir, "state", "store.db"), keys: openKeyset(t, filepath.Join(dir, "keyset.json"))}
}

func openKeyset(t testing.TB, path string) *keyset.Keyset {
	t.Helper()
	k, _, err := keyset.OpenOrCreate(path)
	if err != nil {
		t.Fatalf("keyset.OpenOrCreate(%q): %v", path, err)
	}
	return k
}

func (d *directory) config() sqlstore.Config {
	return sqlstore.Config{
		Path:    d.path,
		Keyset:  d.keys,
		Binding: credstore.Binding{Environment: "custom", AuthURL: "http://127.0.0.1:1", ClientID: "client-1"},
	}
}

// decrypt opens the store and closes it with the test.
func (d *directory) open(t testing.TB) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.Open(t.Context(), d.config())
	if err != nil {
		t.Fatalf("Open(%q): %v", d.path, err)
	}
	d.opened = append(d.opened, s)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func (d *directory) Open(t *testing.T) credstoretest.Store { return forTest(d.open(t)) }

// Dump takes the files as they are while a transaction is not in the database
// yet, and again after the stores are closed.
func (d *directory) Dump(t *testing.T) []byte {
	t.Helper()
	dump, err := os.ReadFile(d.path + "-wal")
	if err != nil {
		t.Fatalf("reading the log: %v", err)
	}
	for _, s := range d.opened {
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	return append(dump, readFiles(t, filepath.Dir(d.path))...)
}

func readFiles(t *testing.T, dir string) []byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("reading the directory: %v", err)
	}
	var all bytes.Buffer
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatalf("reading a file of the store: %v", err)
		}
		all.Write(data)
	}
	return all.Bytes()
}
