package sqlstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// A store that was removed or replaced under a running process must not take a
// new token pair: it would be gone with the process.
func TestReplacedFilesAreDetected(t *testing.T) {
	for _, suffix := range []string{"", ".leases"} {
		t.Run("store.db"+suffix, func(t *testing.T) {
			keys, _, err := keyset.OpenOrCreate(filepath.Join(t.TempDir(), "keyset.json"))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "store.db")
			s, err := Open(t.Context(), Config{Path: path, Keyset: keys, Binding: credstore.Binding{Environment: "staging"}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			conn, err := s.Connections.Create(t.Context(), credstore.NewConnection{Name: "acme", Kind: credstore.OAuth})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+suffix, path+suffix+".gone"); err != nil {
				t.Fatal(err)
			}
			if err := s.Ping(t.Context()); !errors.Is(err, credstore.ErrUnavailable) {
				t.Errorf("Ping = %v, want %v", err, credstore.ErrUnavailable)
			}
			if _, err := s.Credentials.Acquire(t.Context(), conn.ID, "me"); !errors.Is(err, credstore.ErrUnavailable) {
				t.Errorf("Acquire = %v, want %v", err, credstore.ErrUnavailable)
			}
			if err := s.Changes.SetFact(t.Context(), "a", "b"); !errors.Is(err, credstore.ErrUnavailable) {
				t.Errorf("a write = %v, want %v", err, credstore.ErrUnavailable)
			}
			if err := os.Rename(path+suffix+".gone", path+suffix); err != nil {
				t.Fatal(err)
			}
			if err := s.Ping(t.Context()); err != nil {
				t.Errorf("Ping after the file is back = %v, want nil", err)
			}
		})
	}
}
