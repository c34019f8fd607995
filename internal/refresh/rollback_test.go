package refresh

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
)

// backup copies the store's data.
func (m *memory) backup() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMemory()
	for id, r := range m.rows {
		row := *r
		row.lease = nil
		c.rows[id] = &row
	}
	maps.Copy(c.facts, m.facts)
	c.log, c.serial = append([]credstore.Change(nil), m.log...), m.serial
	return c
}

func TestRestoredStoreWaitsToBeAccepted(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.polling = true
		w.calibrate()
		w.connect("refreshed")
		w.connect("untouched")
		old := w.data.backup()
		dir := t.TempDir()
		p := w.start(dir)
		expire()
		p.mustAuthorize("refreshed") // its refresh token in the backup has been exchanged
		time.Sleep(2 * rollback.CheckInterval)
		p.stop()
		before := w.server.count()

		w.data = old
		p = w.start(dir)
		defer p.stop()
		for _, name := range []string{"refreshed", "untouched"} {
			_, err := p.Authorize(t.Context(), name)
			e := wantCode(t, err, ServerUnavailable)
			if !strings.Contains(e.Error(), "accept-restore") || !p.guard.Detected() {
				t.Errorf("error %q, detected %v; want it to name the command", e, p.guard.Detected())
			}
		}
		time.Sleep(time.Hour)
		if n := w.server.count() - before; n != 0 {
			t.Errorf("sent %d times from a restored store, want 0", n)
		}

		if err := rollback.MarkIn(dir).Accept(t.Context(), p.store, time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		_, err := p.Authorize(t.Context(), "refreshed")
		if e := wantCode(t, err, ReauthorizationRequired); e.Reason != credstore.ReasonRefreshTokenInactive {
			t.Errorf("reason %q, want %q", e.Reason, credstore.ReasonRefreshTokenInactive)
		}
		p.mustAuthorize("untouched")
		if twice := w.server.sentMoreThan(1); len(twice) > 0 {
			t.Errorf("tokens sent more than once: %v", twice)
		}
	})
}

// Changes by commands in a restored store must not make it look as if it had
// reached its high-water mark.
func TestRestoredStoreWaitsDespiteLaterChanges(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.polling = true
		w.calibrate()
		w.connect("acme")
		old := w.data.backup()
		dir := t.TempDir()
		p := w.start(dir)
		expire()
		p.mustAuthorize("acme")
		time.Sleep(2 * rollback.CheckInterval)
		p.stop()
		before := w.server.count()

		w.data = old
		for _, restarted := range []bool{false, true} {
			p = w.start(dir)
			for i := range 20 {
				w.connect(fmt.Sprintf("c%d-%v", i, restarted))
			}
			time.Sleep(time.Minute)
			_, err := p.Authorize(t.Context(), "acme")
			wantCode(t, err, ServerUnavailable)
			if n := w.server.count() - before; n != 0 || !p.guard.Detected() {
				t.Errorf("restarted %v: sent %d times, detected %v; want 0 and true", restarted, n, p.guard.Detected())
			}
			p.stop()
		}
		if err := rollback.MarkIn(dir).Accept(t.Context(), w.command(), time.Now()); err != nil {
			t.Fatal(err)
		}
		p = w.start(dir)
		defer p.stop()
		if p.guard.Detected() {
			t.Error("still waiting after the store was accepted")
		}
	})
}

func TestSpoolIsNotReplayedIntoRestoredStore(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.polling = true
		w.connect("acme")
		old := w.data.backup()
		p := w.start("")
		expire()
		p.mustAuthorize("acme")
		time.Sleep(2 * rollback.CheckInterval)
		p.store.fail(failing("save"))
		expire()
		access := token(p.mustAuthorize("acme"))
		left := p.kill()

		w.data = old
		p = w.start(left)
		defer p.stop()
		time.Sleep(time.Minute)
		wantSpooled(t, w, left, access)
	})
}

func TestHighWaterMarkFollowsTheStore(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.polling = true
		dir := t.TempDir()
		p := w.start(dir)
		w.connect("acme")
		time.Sleep(2 * rollback.CheckInterval)
		p.stop()
		p = w.start(dir)
		defer p.stop()
		expire()
		p.mustAuthorize("acme")
		if p.guard.Detected() {
			t.Error("a store that was not restored is detected as restored")
		}
		if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
			t.Errorf("temporary files left: %v %v", left, err)
		}
	})
}
