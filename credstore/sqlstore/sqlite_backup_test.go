package sqlstore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBackupIsAStore(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	connections := fillMixed(t, s, 100)
	before := readAll(t, s.Store, connections)
	dir := t.TempDir()
	path := filepath.Join(dir, "odd name?#%.db")
	if err := s.Backup(t.Context(), path); err != nil {
		t.Fatalf("Backup: %v", err)
	}
	create(t, s.Store, "later")

	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("files = %v, %v, want the backup alone", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode of the backup = %v, %v, want 0600", info.Mode(), err)
	}
	restored := (&directory{path: path, keys: d.keys}).open(t)
	if diff := cmp.Diff(before, readAll(t, restored.Store, connections)); diff != "" {
		t.Errorf("connections in the backup (-store +backup):\n%s", diff)
	}
	if _, err := restored.Connections.Find(t.Context(), "later"); err == nil {
		t.Error("the backup holds what came after it")
	}
}

func TestBackupOverwritesNothing(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	c := create(t, s.Store, "acme")
	other := writeFile(t, []byte("precious"))
	for name, path := range map[string]string{"another file": other, "the store": d.path, "its log": d.path + "-wal"} {
		if err := s.Backup(t.Context(), path); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Backup over %s = %v, want %v", name, err, fs.ErrExist)
		}
	}
	if data, err := os.ReadFile(other); err != nil || string(data) != "precious" {
		t.Errorf("the file that was there holds %q, %v, want what it held", data, err)
	}
	if _, err := s.Connections.Read(t.Context(), c.ID); err != nil {
		t.Errorf("Read afterwards: %v", err)
	}
}

func TestBackupIntoNoDirectory(t *testing.T) {
	s := newDirectory(t).open(t)
	if err := s.Backup(t.Context(), filepath.Join(t.TempDir(), "none", "backup.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Backup into no directory = %v, want %v", err, fs.ErrNotExist)
	}
}
