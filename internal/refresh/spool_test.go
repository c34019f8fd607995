package refresh

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// spoolIn opens a spool in a directory of the test's, under a new keyset.
func spoolIn(t *testing.T, dir string) *SpoolDir {
	t.Helper()
	s, err := OpenSpool(dir, newEnv(t).sealer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func successorOf(parent credstore.Parent) credstore.Successor {
	return credstore.Successor{
		Parent: parent, AccessToken: credstore.NewSecret("access-token"), RefreshToken: credstore.NewSecret("refresh-token"),
		ExpiresAt: time.Now().Add(time.Hour), ObtainedAt: time.Now(),
	}
}

// round lets the spool try every record once and returns what it says.
func round(t *testing.T, s *SpoolDir, store credstore.Store) (left int, said string) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	left, err := s.replayAll(context.Background(), store, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, entry := range logs.All() {
		lines = append(lines, entry.Message)
	}
	return left, strings.Join(lines, "\n")
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestSpoolRecordIsEncrypted(t *testing.T) {
	dir := t.TempDir()
	slot, err := spoolIn(t, dir).Reserve(credstore.Parent{ConnectionID: "id-1", Version: 7})
	if err != nil {
		t.Fatal(err)
	}
	if err := slot.Write(successorOf(credstore.Parent{ConnectionID: "id-1", Version: 7})); err != nil {
		t.Fatal(err)
	}
	slot.Release()
	raw, err := os.ReadFile(filepath.Join(dir, names(t, dir)))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"access-token", "refresh-token"} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("%q stands in the spool", secret)
		}
	}
	info, err := os.Stat(filepath.Join(dir, names(t, dir)))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
}

func TestSpoolReservesOncePerParent(t *testing.T) {
	bubble(t, func(t *testing.T, _ *env) {
		s := spoolIn(t, t.TempDir())
		parent := credstore.Parent{ConnectionID: "id-1", Version: 7}
		slot, err := s.Reserve(parent)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Reserve(parent); err == nil {
			t.Error("a record was reserved twice")
		}
		if err := slot.Write(successorOf(parent)); err != nil {
			t.Fatal(err)
		}
		slot.Release()
		if _, err := s.Reserve(parent); !errors.Is(err, errRecordHoldsPair) {
			t.Errorf("Reserve for a parent whose successor is spooled = %v, want %v", err, errRecordHoldsPair)
		}
	})
}

// slowReader is a store that answers reads when it is told to.
type slowReader struct {
	credstore.Store
	asked, answer chan struct{}
}

func (s slowReader) Read(ctx context.Context, id string) (credstore.State, error) {
	close(s.asked)
	<-s.answer
	return s.Store.Read(ctx, id)
}

// TestSpoolReservesRecordBeingReplayed: the store may be slow to say what it knows
// of a record that a dead process has left.
func TestSpoolReservesRecordBeingReplayed(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		parent := w.state(w.connect("acme").ID).Credential.Parent()
		s, err := OpenSpool(t.TempDir(), w.sealer)
		if err != nil {
			t.Fatal(err)
		}
		slot, err := s.Reserve(parent)
		if err != nil {
			t.Fatal(err)
		}
		slot.Release() // as a crash does
		store := slowReader{w.command(), make(chan struct{}), make(chan struct{})}
		looked := make(chan struct{})
		go func() {
			defer close(looked)
			round(t, s, store)
		}()
		<-store.asked
		time.AfterFunc(time.Second, func() { close(store.answer) })
		slot, err = s.Reserve(parent)
		if err != nil {
			t.Fatalf("Reserve = %v, want the record once it has been looked at", err)
		}
		slot.Remove()
		<-looked
	})
}

func TestSpoolKeepsDamagedRecord(t *testing.T) {
	w := newEnv(t)
	dir := t.TempDir()
	s, err := OpenSpool(dir, w.sealer)
	if err != nil {
		t.Fatal(err)
	}
	conn := w.connect("acme")
	parent := w.state(conn.ID).Credential.Parent()
	slot, err := s.Reserve(parent)
	if err != nil {
		t.Fatal(err)
	}
	if err := slot.Write(successorOf(parent)); err != nil {
		t.Fatal(err)
	}
	slot.Release()
	path := filepath.Join(dir, names(t, dir))
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[headerSize+20] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	left, said := round(t, s, &memoryStore{memory: w.data})
	if left != 0 || !strings.Contains(said, "does not open") || !strings.HasSuffix(names(t, dir), ".damaged") {
		t.Errorf("left %d, said %q, directory %q; want the record kept as damaged and an error in the log", left, said, names(t, dir))
	}
}

func TestSpoolIgnoresOtherFiles(t *testing.T) {
	dir := t.TempDir()
	s := spoolIn(t, dir)
	if err := os.Mkdir(filepath.Join(dir, "a.pair"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b.pair"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if left, said := round(t, s, &memoryStore{memory: newMemory()}); left != 0 || said != "" {
		t.Errorf("left %d, said %q, want nothing", left, said)
	}
	if got := names(t, dir); got != "a.pair notes.txt" {
		t.Errorf("directory holds %q, want the torn reservation gone and the rest left alone", got)
	}
}

func TestUnreadableSpoolStopsRefreshes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := spoolIn(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_ = s.Replay(ctx, &memoryStore{memory: newMemory()}, zap.NewNop(), func(int) {})
	select {
	case <-s.Replayed():
		t.Error("a spool that cannot be read passes for one without records")
	default:
	}
}
