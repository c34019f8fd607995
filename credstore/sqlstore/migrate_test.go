package sqlstore

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// versionOne makes a store as releases with schema version 1 left it, with a
// connection of each status, and a credential for all but the pending one.
func versionOne(t *testing.T, keys *keyset.Keyset) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "store.db")
	db := raw(t, path)
	if err := migrate(t.Context(), db, []string{schema1}); err != nil {
		t.Fatalf("migrating to version 1: %v", err)
	}
	for i, status := range credstore.Statuses() {
		id, version := "id-"+string(status), 3
		token := credstore.NewSecret("refresh of " + string(status))
		hash := token.Hash()
		stored, refused := sql.Null[[]byte]{V: hash[:], Valid: true}, sql.NullInt64{}
		if status == credstore.Pending {
			version, stored = 0, sql.Null[[]byte]{}
		}
		if status == credstore.ReauthorizationRequired {
			refused = millis(time.Now())
		}
		mustExec(t, db, `
			INSERT INTO connections (number, id, name, folded_name, kind, status, reason, search, created_at, version, refresh_hash, refused_at)
			VALUES ($1, $2, $3, $3, 'oauth', $3, 'as it was', $3, 1, $4, $5, $6)`, i+1, id, string(status), version, stored, refused)
		if version == 0 {
			continue
		}
		encrypted, err := keys.EncryptWith(keys.Fingerprint(), keyset.AssociatedData(id, columnRefreshToken), []byte(token.Reveal()))
		if err != nil {
			t.Fatalf("EncryptWith: %v", err)
		}
		mustExec(t, db, `INSERT INTO credentials (connection, refresh_token) VALUES ($1, $2)`, i+1, encrypted)
	}
	if err := db.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	return path
}

func TestStoreOfVersionOneIsMigrated(t *testing.T) {
	keys, _, err := keyset.OpenOrCreate(filepath.Join(t.TempDir(), "keyset.json"))
	if err != nil {
		t.Fatalf("keyset.OpenOrCreate: %v", err)
	}
	s, err := Open(context.Background(), Config{Path: versionOne(t, keys), Keyset: keys})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for _, status := range credstore.Statuses() {
		before, err := s.Connections.Read(t.Context(), "id-"+string(status))
		if err != nil || before.Connection.Status != status || before.Connection.Reason != "as it was" {
			t.Fatalf("Read = %+v, %v, want it %s as it was", before.Connection, err, status)
		}
		if status == credstore.Disabled {
			if err := s.Connections.Enable(t.Context(), before.Connection.ID); err != nil {
				t.Errorf("Enable: %v", err)
			}
		}
		saved, err := s.Credentials.Save(t.Context(), credstore.Successor{
			Parent: before.Parent(), AccessToken: credstore.NewSecret("a"), RefreshToken: credstore.NewSecret("new of " + string(status)),
		})
		if err != nil || saved.Status != credstore.Active || saved.Version != before.Connection.Version+1 {
			t.Errorf("Save onto one that was %s = %+v, %v, want it active", status, saved, err)
		}
		page, err := s.History.Events(t.Context(), saved.ID, "", 1)
		want := credstore.EventRefreshed
		if status == credstore.ReauthorizationRequired {
			want = credstore.EventRecovered
		}
		if err != nil || len(page.Events) != 1 || page.Events[0].Type != want {
			t.Errorf("Events of one that was %s = %+v, %v, want %s", status, page.Events, err, want)
		}
	}
}
