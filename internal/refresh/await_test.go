package refresh

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// otherProcess is another process that is about to refresh a connection.
type otherProcess struct {
	w     *env
	store *memoryStore
	lease credstore.Lease
	id    string
}

// otherProcess acquires the lease of a connection.
func (w *env) otherProcess(id string) *otherProcess {
	w.t.Helper()
	store := w.command()
	lease, err := store.Acquire(w.t.Context(), id, "other process")
	if err != nil {
		w.t.Fatal(err)
	}
	return &otherProcess{w, store, lease, id}
}

// rotate refreshes once, and does not release the lease. The saved pair is as old as
// age.
func (s *otherProcess) rotate(age time.Duration) {
	s.w.t.Helper()
	c := s.w.state(s.id).Credential
	if _, err := s.store.RecordIntent(s.w.t.Context(), s.lease, c.Parent(), time.Now()); err != nil {
		s.w.t.Fatal(err)
	}
	tokens, err := s.w.server.Refresh(s.w.t.Context(), c.RefreshToken)
	if err != nil {
		s.w.t.Fatal(err)
	}
	obtained := time.Now().Add(-age)
	if _, err := s.store.Save(s.w.t.Context(), credstore.Successor{
		Parent: c.Parent(), AccessToken: tokens.AccessToken, RefreshToken: tokens.RefreshToken,
		ObtainedAt: obtained, ExpiresAt: obtained.Add(tokens.Lifetime),
	}); err != nil {
		s.w.t.Fatal(err)
	}
}

// A token that another process obtained is valid until it expires, even if it is due
// for a refresh.
func TestWaitersUseTokenThatIsDue(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.shared = true
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		expire()
		other := w.otherProcess(conn.ID)
		defer func() { _ = other.lease.Release() }()
		began := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := p.Authorize(t.Context(), "acme")
			done <- err
		}()
		synctest.Wait() // it waits for the lease
		other.rotate(w.server.life - time.Minute)
		if err := <-done; err != nil || time.Since(began) > time.Second {
			t.Errorf("Authorize = %v after %v, want the other's token within a second", err, time.Since(began))
		}
	})
}

// A request that joins a refresh of an older version gets no error when that ends.
func TestWaitersOfOlderRefreshWaitForNextOne(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.shared = true
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		p.mustAuthorize("acme")
		other := w.otherProcess(conn.ID)
		time.Sleep(w.server.life - time.Minute) // a refresh ahead of expiry waits for the lease
		other.rotate(0)
		synctest.Wait() // the pair is known here
		second := p.mustAuthorize("acme")
		third := make(chan *Authorization, 1)
		go func() {
			a, err := p.Reauthorize(t.Context(), second)
			if err != nil {
				t.Errorf("a request that the API rejected while another process refreshed: %v", err)
			}
			third <- a
		}()
		synctest.Wait() // it waits
		other.rotate(0)
		if err := other.lease.Release(); err != nil {
			t.Fatal(err)
		}
		if a := <-third; a != nil && a.Version != 3 {
			t.Errorf("version %d, want 3", a.Version)
		}
		if n := w.server.count(); n != 2 {
			t.Errorf("sent %d times, want twice by the other", n)
		}
	})
}

// When the store has saved one pair, the others do not wait for their next attempt.
func TestWaitingPairsAreSavedTogether(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		ids := []string{w.connect("one").ID, w.connect("two").ID}
		p := w.start("")
		defer p.stop()
		expire()
		p.store.fail(failing("save"))
		p.mustAuthorize("one")
		time.Sleep(maxSaveRetryDelay / 2)
		p.mustAuthorize("two")
		time.Sleep(10 * maxSaveRetryDelay)
		p.store.fail(nil)
		saved := func() (n int) {
			for _, id := range ids {
				if w.state(id).Credential.Version == 2 {
					n++
				}
			}
			return n
		}
		for range maxSaveRetryDelay / time.Millisecond {
			if saved() > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := saved(); n != 2 {
			t.Errorf("%d pairs are saved at the moment of the first, want both", n)
		}
	})
}
