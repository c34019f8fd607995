package refresh

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// shortLeases is a store whose leases last no longer than left.
type shortLeases struct {
	*memoryStore
	left atomic.Int64
}

type shortLease struct {
	credstore.Lease
	left time.Duration
}

func (l shortLease) Remaining() time.Duration { return l.left }

func (s *shortLeases) Acquire(ctx context.Context, id, owner string) (credstore.Lease, error) {
	l, err := s.memoryStore.Acquire(ctx, id, owner)
	if err != nil {
		return nil, err
	}
	return shortLease{l, time.Duration(s.left.Load())}, nil
}

func (s *shortLeases) Intend(ctx context.Context, l credstore.Lease, parent credstore.Parent, at time.Time) (credstore.Intent, error) {
	return s.memoryStore.Intend(ctx, l.(shortLease).Lease, parent, at)
}

func (s *shortLeases) Withdraw(ctx context.Context, l credstore.Lease, parent credstore.Parent, f *credstore.Setback) error {
	return s.memoryStore.Withdraw(ctx, l.(shortLease).Lease, parent, f)
}

func TestRule11NothingIsSentUnderALeaseThatIsAboutToEnd(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		store := &shortLeases{memoryStore: p.store}
		store.left.Store(int64(leaseMargin - time.Millisecond))
		p.Store = store
		expire()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ServerUnavailable)
		if s := w.state(conn.ID); w.server.count() != 0 || s.Intent != nil {
			t.Errorf("presented %d times, intent %+v; want 0 and none", w.server.count(), s.Intent)
		}
		store.left.Store(int64(time.Minute))
		time.Sleep(2 * time.Second)
		p.mustAuthorize("acme")
	})
}

func TestRule11AcquiringHasThreeAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		expire()

		stranger, err := w.command().Acquire(t.Context(), conn.ID, "stranger")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = p.Authorize(t.Context(), "acme") // busy: waits for its owner
		if e := wantCode(t, err, ServerUnavailable); e.RetryAfter <= 0 || time.Since(began) != 20*time.Second {
			t.Errorf("answered after %v, RetryAfter %v; want after the whole patience, and some", time.Since(began), e.RetryAfter)
		}
		if err := stranger.Release(); err != nil {
			t.Fatal(err)
		}
		p.mustAuthorize("acme") // held

		p.store.fail(failing("acquire"))
		expire()
		_, err = p.Authorize(t.Context(), "acme")
		wantCode(t, err, StoreUnavailable)
		p.store.fail(nil)
		if n := w.server.count(); n != 1 {
			t.Errorf("presented %d times, want once: under the lease", n)
		}
	})
}
