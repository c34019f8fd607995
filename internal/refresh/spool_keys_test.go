package refresh

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func TestSpoolKeysOfPairs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keyset.json")
	key, err := credstore.CreateKeyset(path)
	if err != nil {
		t.Fatalf("CreateKeyset: %v", err)
	}
	keyset, err := credstore.ReadKeyset(path)
	if err != nil {
		t.Fatalf("ReadKeyset: %v", err)
	}
	spoolDir := filepath.Join(dir, "spool")
	wantSpoolKeys(t, spoolDir, map[uint32]int{})

	spool, err := OpenSpool(spoolDir, keyset)
	if err != nil {
		t.Fatalf("OpenSpool: %v", err)
	}
	parents := []credstore.Parent{{ConnectionID: "a", Version: 1}, {ConnectionID: "b", Version: 1}, {ConnectionID: "c", Version: 1}}
	var slots []SpoolRecord
	for _, parent := range parents {
		slot, err := spool.Reserve(parent)
		if err != nil {
			t.Fatalf("Reserve: %v", err)
		}
		slots = append(slots, slot)
	}
	wantSpoolKeys(t, spoolDir, map[uint32]int{})
	for i := range 2 {
		pair := credstore.Successor{Parent: parents[i], RefreshToken: credstore.NewSecret("refresh")}
		if err := slots[i].Write(pair); err != nil {
			t.Fatalf("Fill: %v", err)
		}
	}
	wantSpoolKeys(t, spoolDir, map[uint32]int{key.ID: 2})
	slots[0].Remove()
	slots[1].Release()
	wantSpoolKeys(t, spoolDir, map[uint32]int{key.ID: 1})
	slots[2].Remove()
}

func wantSpoolKeys(t *testing.T, dir string, want map[uint32]int) {
	t.Helper()
	got, err := SpoolKeys(dir)
	if err != nil {
		t.Fatalf("SpoolKeys: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("SpoolKeys (-want +got):\n%s", diff)
	}
}
