package spool

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keyset.json")
	key, err := keyset.Create(path)
	if err != nil {
		t.Fatalf("CreateKeyset: %v", err)
	}
	keyset, err := keyset.Open(path)
	if err != nil {
		t.Fatalf("ReadKeyset: %v", err)
	}
	spoolDir := filepath.Join(dir, "spool")
	wantKeys(t, spoolDir, map[uint32]int{})

	d, err := Open(spoolDir, keyset)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	parents := []credstore.Parent{{ConnectionID: "a", Version: 1}, {ConnectionID: "b", Version: 1}, {ConnectionID: "c", Version: 1}}
	var records []Record
	for _, parent := range parents {
		record, err := d.Reserve(parent)
		if err != nil {
			t.Fatalf("Reserve: %v", err)
		}
		records = append(records, record)
	}
	wantKeys(t, spoolDir, map[uint32]int{})
	for i := range 2 {
		pair := credstore.Successor{Parent: parents[i], RefreshToken: credstore.NewSecret("refresh")}
		if err := records[i].Write(pair); err != nil {
			t.Fatalf("Write: %v", err)
		}
	}
	wantKeys(t, spoolDir, map[uint32]int{key.ID: 2})
	records[0].Remove()
	records[1].Release()
	wantKeys(t, spoolDir, map[uint32]int{key.ID: 1})
	records[2].Remove()
}

func wantKeys(t *testing.T, dir string, want map[uint32]int) {
	t.Helper()
	got, err := Keys(dir)
	if err != nil {
		t.Fatalf("Keys: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Keys (-want +got):\n%s", diff)
	}
}
