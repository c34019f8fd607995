package rollback_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
)

// fakeStore has a position and facts.
type fakeStore struct {
	mu     sync.Mutex // guards everything below
	id     string
	change int64
	facts  map[string]string
}

func newStore() *fakeStore { return &fakeStore{id: "store-1", change: 10, facts: map[string]string{}} }

func (s *fakeStore) set(id string, change int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id, s.change = id, change
}

func (s *fakeStore) Position(context.Context) (string, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id, s.change, nil
}

func (s *fakeStore) Fact(_ context.Context, name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts[name], nil
}

func (s *fakeStore) SetFact(_ context.Context, name, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.facts[name] = value
	s.change++
	return nil
}

// run runs a guard of the store for a while.
func run(t *testing.T, mark *rollback.Mark, store rollback.Store, shared bool, onLoss func()) *rollback.Guard {
	t.Helper()
	g := rollback.NewGuard(rollback.Config{
		Mark: mark, Store: store, Shared: shared, Now: time.Now, Logger: zap.NewNop(),
		OnLoss: func(context.Context) { onLoss() }, OnStoreError: func() { t.Error("the store failed") },
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*rollback.CheckInterval+time.Second)
	defer cancel()
	_ = g.Run(ctx) // returns when ctx ends
	return g
}

func neverLost(t *testing.T) func() { return func() { t.Error("a loss was reported") } }

func TestDetectsRestoredStore(t *testing.T) {
	tests := []struct {
		name   string
		id     string
		change int64
		want   bool
	}{
		{"same", "store-1", 10, false},
		{"ahead", "store-1", 11, false},
		{"restored", "store-1", 9, true},
		{"replaced", "store-2", 20, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, mark := newStore(), rollback.MarkIn(t.TempDir())
				if mark.Exists() {
					t.Error("a mark exists before the first run")
				}
				run(t, mark, store, false, neverLost(t))
				if !mark.Exists() {
					t.Error("no mark exists after the first run")
				}
				store.set(tt.id, tt.change)
				restored, err := mark.Restored(t.Context(), store)
				g := run(t, mark, store, false, neverLost(t))
				if err != nil || restored != tt.want || g.Detected() != tt.want {
					t.Errorf("Restored() = %v, %v, Detected() = %v, want %v", restored, err, g.Detected(), tt.want)
				}
			})
		})
	}
}

func TestRestoredStoreWaitsForAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, mark := newStore(), rollback.MarkIn(t.TempDir())
		obtained := time.Now()
		run(t, mark, store, false, neverLost(t))
		store.set("store-1", 5)
		run(t, mark, store, false, neverLost(t))
		store.set("store-1", 100) // later changes must not hide the rollback
		g := run(t, mark, store, false, neverLost(t))
		if !g.Detected() || !isClosed(g.Compared()) || isClosed(g.Trusted()) {
			t.Error("the store is in use before it was accepted")
		}
		if err := mark.Accept(t.Context(), store, time.Now()); err != nil {
			t.Fatal(err)
		}
		g = run(t, mark, store, false, neverLost(t))
		if g.Detected() || !isClosed(g.Trusted()) {
			t.Error("the store is not in use after it was accepted")
		}
		if g.SuspectSince(obtained).IsZero() || !g.SuspectSince(time.Now()).IsZero() {
			t.Error("want tokens obtained before the store was accepted to be suspect, and no others")
		}
	})
}

func TestSharedStoreThatLostChangesIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, mark := newStore(), rollback.MarkIn(t.TempDir())
		g := run(t, mark, store, true, neverLost(t))
		store.set("store-1", 11)
		if err := g.Recheck(t.Context()); err != nil || g.Detected() {
			t.Errorf("Recheck of a store in order = %v, Detected() = %v", err, g.Detected())
		}
		store.set("store-1", 5)
		losses := 0
		g = run(t, mark, store, true, func() { losses++ })
		if g.Detected() || losses != 1 || g.SuspectSince(time.Now().Add(-time.Hour)).IsZero() {
			t.Errorf("Detected() = %v after %d losses, want false after 1, with suspect tokens", g.Detected(), losses)
		}
	})
}

func TestNilGuardDetectsNothing(t *testing.T) {
	var g *rollback.Guard
	if g.Detected() || !isClosed(g.Compared()) || !isClosed(g.Trusted()) ||
		g.Recheck(t.Context()) != nil || !g.SuspectSince(time.Time{}).IsZero() || g.Run(t.Context()) != nil {
		t.Error("a nil Guard does something")
	}
}

func TestDamagedMarkStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "high-water-mark.json"), "{")
		g := run(t, rollback.MarkIn(dir), newStore(), false, neverLost(t))
		if g.Detected() || !isClosed(g.Compared()) || !isClosed(g.Trusted()) {
			t.Error("a damaged mark stops refreshes")
		}
	})
}

// The file had another name before 1.0.
func TestReadsMarkOfEarlierVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw, err := os.ReadFile("testdata/v0-4c88458.json")
		if err != nil {
			t.Fatal(err)
		}
		dir, store := t.TempDir(), newStore()
		writeFile(t, filepath.Join(dir, "witness.json"), string(raw))
		mark := rollback.MarkIn(dir)
		if restored, err := mark.Restored(t.Context(), store); !mark.Exists() || !restored || err != nil {
			t.Errorf("Exists() = %v, Restored() = %v, %v; want true, and true for a store at change 10", mark.Exists(), restored, err)
		}
		if err := mark.Accept(t.Context(), store, time.Now()); err != nil {
			t.Fatal(err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(left) != 1 || !strings.HasSuffix(left[0], "high-water-mark.json") {
			t.Errorf("the directory holds %v (%v), want the new file only", left, err)
		}
		if restored, err := mark.Restored(t.Context(), store); restored || err != nil {
			t.Errorf("Restored() after Accept = %v, %v", restored, err)
		}
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
