package sqlstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/credstoretest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
)

func TestMemoryStore(t *testing.T) {
	credstoretest.TestStore(t, func(t *testing.T) credstoretest.Data { return newMemory(t) })
}

func TestMemoryOutbox(t *testing.T) {
	credstoretest.TestOutbox(t, func(t *testing.T) credstoretest.Data { return newMemory(t) })
}

// memory is a database that no file holds.
type memory struct {
	database *sqlstore.Memory
	keys     *keyset.Keyset
}

func newMemory(t *testing.T) *memory {
	t.Helper()
	return &memory{
		database: sqlstore.NewMemory(),
		keys:     openKeyset(t, filepath.Join(t.TempDir(), "keyset.json")),
	}
}

func (m *memory) Open(t *testing.T) credstoretest.Store { return forTest(m.open(t)) }

func (m *memory) open(t *testing.T) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.Open(t.Context(), sqlstore.Config{
		Memory:  m.database,
		Keyset:  m.keys,
		Binding: credstore.Binding{Environment: "custom", AuthURL: "http://127.0.0.1:1", ClientID: "client-1"},
	})
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

// Dump copies the database to a file.
func (m *memory) Dump(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := m.open(t).Backup(t.Context(), path); err != nil {
		t.Fatalf("Backup: %v", err)
	}
	dump, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return dump
}
