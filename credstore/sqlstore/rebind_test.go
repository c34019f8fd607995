package sqlstore_test

import (
	"path/filepath"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
)

func TestRebind(t *testing.T) {
	d := made(t)
	c := d.config()
	c.Binding.AuthURL, c.Binding.ClientID = "http://127.0.0.1:2", "client-2"
	wantSetupError(t, c, "http://127.0.0.1:2")
	before, err := sqlstore.Rebind(t.Context(), c)
	if err != nil || before != d.config().Binding {
		t.Errorf("Rebind = %v, %v, want the previous binding, %v", before, err, d.config().Binding)
	}
	wantSetupError(t, d.config(), "http://127.0.0.1:1")
	s, err := sqlstore.Open(t.Context(), c)
	if err != nil {
		t.Fatalf("Open with the new binding: %v", err)
	}
	if _, err := s.Connections.Find(t.Context(), "acme"); err != nil {
		t.Errorf("Find: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func TestRebindNeedsTheKeyset(t *testing.T) {
	d := made(t)
	c := d.config()
	c.Keyset = openKeyset(t, filepath.Join(t.TempDir(), "other.json"))
	c.Binding.ClientID = "client-2"
	if _, err := sqlstore.Rebind(t.Context(), c); err == nil {
		t.Error("Rebind with a foreign keyset = nil, want an error")
	}
	d.open(t)
}

// TestRebindDeletesFacts: what is known of one authorization server says
// nothing about another.
func TestRebindDeletesFacts(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	if err := s.Changes.SetFact(t.Context(), "known", "yes"); err != nil {
		t.Fatalf("SetFact: %v", err)
	}
	old := d.keys.Keys()[0]
	d.promote(t)
	rotate(t, s, false, sqlstore.RotationDone)
	if _, err := sqlstore.Rebind(t.Context(), d.config()); err != nil {
		t.Fatalf("Rebind: %v", err)
	}
	if got, err := s.Changes.Fact(t.Context(), "known"); err != nil || got != "" {
		t.Errorf("Fact after Rebind = %q, %v, want none", got, err)
	}
	// That a key was replaced has nothing to do with the server.
	if _, err := keyset.Promote(d.keysetPath(), old.Fingerprint); err != nil {
		t.Fatalf("Promote: %v", err)
	}
	rotate(t, s, false, sqlstore.RotationBehind)
}
