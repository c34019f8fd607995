package refresh

import (
	"testing"
	"time"
)

func TestRule11NothingIsSentUnderAnExpiringLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		p.store.leaseLeft.Store(int64(minLeaseRemaining - time.Millisecond))
		expire()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ServerUnavailable)
		if s := w.state(conn.ID); w.server.count() != 0 || s.Intent != nil {
			t.Errorf("sent %d times, intent %+v; want 0 and none", w.server.count(), s.Intent)
		}
		p.store.leaseLeft.Store(int64(time.Minute))
		time.Sleep(2 * time.Second)
		p.mustAuthorize("acme")
	})
}

func TestRule11AcquireHasThreeResults(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		expire()

		other, err := w.command().Acquire(t.Context(), conn.ID, "other process")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = p.Authorize(t.Context(), "acme") // waits for the owner of the lease
		if e := wantCode(t, err, ServerUnavailable); e.RetryAfter <= 0 || time.Since(began) != 20*time.Second {
			t.Errorf("returned after %v, RetryAfter %v; want after the lease timeout, and a Retry-After", time.Since(began), e.RetryAfter)
		}
		if err := other.Release(); err != nil {
			t.Fatal(err)
		}
		p.mustAuthorize("acme") // the lease is acquired

		p.store.fail(failing("acquire"))
		expire()
		_, err = p.Authorize(t.Context(), "acme")
		wantCode(t, err, StoreUnavailable)
		p.store.fail(nil)
		if n := w.server.count(); n != 1 {
			t.Errorf("sent %d times, want once: under the lease", n)
		}
	})
}
