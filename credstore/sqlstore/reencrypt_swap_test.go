package sqlstore

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

func pauseNever(context.Context, time.Duration) error { return nil }

// rotated makes a store of n connections that names a new key, with their records still
// encrypted with the old one.
func rotated(t *testing.T, dir string, n int) (s *Store, ids []string) {
	t.Helper()
	path := filepath.Join(dir, "keyset.json")
	keys, _, err := keyset.OpenOrCreate(path)
	if err != nil {
		t.Fatalf("keyset.OpenOrCreate: %v", err)
	}
	s, err = Open(t.Context(), Config{Path: filepath.Join(dir, "store.db"), Keyset: keys})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() }) // what it would say, the reads have said
	for i := range n {
		c, err := s.Connections.Create(t.Context(), newOAuth(fmt.Sprintf("c-%d", i)))
		if err != nil {
			t.Fatalf("Create: %v", err)
		}
		ids = append(ids, c.ID)
	}
	key, err := keyset.Add(path)
	if err != nil {
		t.Fatalf("keyset.Add: %v", err)
	}
	if _, err := keyset.Promote(path, key.Fingerprint); err != nil {
		t.Fatalf("Promote: %v", err)
	}
	if found, err := s.Keys.Rotate(t.Context(), false); err != nil || found != RotationDone {
		t.Fatalf("Rotate = %q, %v, want %q", found, err, RotationDone)
	}
	return s, ids
}

func savePair(t *testing.T, s *Store, id, access, refresh string) error {
	t.Helper()
	state, err := s.Connections.Read(t.Context(), id)
	if err != nil {
		return err
	}
	_, err = s.Credentials.Save(t.Context(), credstore.Successor{
		Parent: state.Credential.Parent(), ObtainedAt: time.Now(),
		AccessToken: credstore.NewSecret(access), RefreshToken: credstore.NewSecret(refresh),
	})
	return err
}

// TestReencryptComparesBeforeItSwaps: what others write between the reading and the
// re-encryption of a record stays.
func TestReencryptComparesBeforeItSwaps(t *testing.T) {
	s, ids := rotated(t, t.TempDir(), 3)
	key, err := s.Keys.currentKey(t.Context())
	if err != nil {
		t.Fatalf("currentKey: %v", err)
	}
	tables := encryptedTables()
	credentials := tables[len(tables)-1]
	read, err := s.Keys.oldRecords(t.Context(), credentials, key, 0)
	if err != nil || len(read) != len(ids) {
		t.Fatalf("oldRecords = %d, %v, want %d", len(read), err, len(ids))
	}
	if err := savePair(t, s, ids[0], "newer", "newer"); err != nil {
		t.Fatalf("saving: %v", err)
	}
	// As dropAccess does: the version stays.
	if _, err := writer(s).ExecContext(t.Context(), `
		UPDATE credentials SET access_token = NULL WHERE connection = (SELECT number FROM connections WHERE id = $1)`, ids[1]); err != nil {
		t.Fatalf("dropping a token: %v", err)
	}
	p := reencryptionPass{key: key}
	if err := s.Keys.reencryptRecords(t.Context(), &p, credentials, read); err != nil || p.done != 1 || p.missed != 2 {
		t.Errorf("reencryptRecords = %d done, %d missed, %v, want 1 and 2", p.done, p.missed, err)
	}
	for id, want := range map[string]string{ids[0]: "newer", ids[1]: ""} {
		state, err := s.Connections.Read(t.Context(), id)
		if err != nil || state.Credential.AccessToken.Reveal() != want {
			t.Errorf("access token = %q, %v, want %q", state.Credential.AccessToken.Reveal(), err, want)
		}
	}
}

// TestReencryptConcurrently: several processes may re-encrypt at once, while pairs are
// saved.
func TestReencryptConcurrently(t *testing.T) {
	dir := t.TempDir()
	s, ids := rotated(t, dir, 40)
	other, err := Open(t.Context(), Config{Path: filepath.Join(dir, "store.db"), Keyset: s.db.keys})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = other.Close() })
	var running sync.WaitGroup
	for _, store := range []*Store{s, other} {
		running.Go(func() {
			if _, err := store.Keys.Reencrypt(t.Context(), pauseNever); err != nil {
				t.Errorf("Reencrypt: %v", err)
			}
		})
	}
	for i, id := range ids {
		if err := savePair(t, s, id, fmt.Sprint("access-", i), fmt.Sprint("refresh-", i)); err != nil {
			t.Errorf("saving: %v", err)
		}
	}
	running.Wait()
	for i, id := range ids {
		state, err := s.Connections.Read(t.Context(), id)
		if want := fmt.Sprint("access-", i); err != nil || state.Credential.AccessToken.Reveal() != want {
			t.Errorf("access token = %q, %v, want %q", state.Credential.AccessToken.Reveal(), err, want)
		}
	}
	key, err := s.Keys.currentKey(t.Context())
	if err != nil {
		t.Fatalf("currentKey: %v", err)
	}
	if use, err := s.Keys.Usage(t.Context()); err != nil || use.Connections[key.ID] != len(ids) || len(use.Connections) != 1 {
		t.Errorf("Usage = %+v, %v, want everything encrypted with %d", use, err, key.ID)
	}
}
