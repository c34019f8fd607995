package credstoretest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func testLeaseExcludes(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	if l.ConnectionID() != c.ID || l.Owner() != "me" || l.Fence() < 1 || l.Remaining() < 10*time.Second {
		t.Errorf("lease = %q, %q, fence %d, %v, want one for %q by me with at least 10 seconds left",
			l.ConnectionID(), l.Owner(), l.Fence(), l.Remaining(), c.ID)
	}
	_, err := s.Credentials.Acquire(t.Context(), c.ID, "me")
	wantErr(t, "Acquire in the same process", err, credstore.ErrBusy)
	_, err = other.Credentials.Acquire(t.Context(), c.ID, "other")
	wantErr(t, "Acquire in another process", err, credstore.ErrBusy)
	release(t, l)
	release(t, acquire(t, other, c.ID, "other"))
	release(t, acquire(t, s, c.ID, "me"))
}

func testLeasePerConnection(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c, d := create(t, s, pair("acme")), create(t, s, pair("other"))
	defer release(t, acquire(t, s, c.ID, "me"))
	release(t, acquire(t, s, d.ID, "me"))
	release(t, acquire(t, other, d.ID, "other"))
}

func testLeaseRelease(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	release(t, l)
	successor := acquire(t, other, c.ID, "other")
	release(t, l) // must not end the lease of the other process
	_, err := s.Credentials.Acquire(t.Context(), c.ID, "me")
	wantErr(t, "Acquire after releasing twice", err, credstore.ErrBusy)
	release(t, successor)
}

func testLeaseClose(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	successor := acquire(t, other, c.ID, "other")
	release(t, l) // must not end the lease of the other process
	_, err := data.Open(t).Credentials.Acquire(t.Context(), c.ID, "third")
	wantErr(t, "Acquire after the release of a lease that had ended", err, credstore.ErrBusy)
	release(t, successor)
}

func testLeaseLost(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	parent := parentOf(t, s, c.ID)
	l := acquire(t, s, c.ID, "me")
	release(t, l)
	want := read(t, s, c.ID)
	f := failure(false)
	_, err := s.Credentials.RecordIntent(t.Context(), l, parent, start())
	wantErr(t, "RecordIntent", err, credstore.ErrLeaseLost)
	wantErr(t, "CancelIntent", s.Credentials.CancelIntent(t.Context(), l, parent, &f), credstore.ErrLeaseLost)
	wantErr(t, "MarkOutcomeUnknown", s.Credentials.MarkOutcomeUnknown(t.Context(), l, parent, f), credstore.ErrLeaseLost)
	wantErr(t, "MarkReauthorizationRequired", s.Credentials.MarkReauthorizationRequired(t.Context(), l, parent, f.Failure, f.Reason, true), credstore.ErrLeaseLost)
	wantSame(t, "the state", read(t, s, c.ID), want)
	if l.Remaining() > 0 {
		t.Errorf("Remaining of a released lease = %v, want 0", l.Remaining())
	}
}

func testLeaseUnknown(t *testing.T, data Data) {
	s := data.Open(t)
	_, err := s.Credentials.Acquire(t.Context(), "nothing", "me")
	wantErr(t, "Acquire of an unknown id", err, credstore.ErrNotFound)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	if err := s.Connections.Remove(t.Context(), c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	_, err = s.Credentials.Acquire(t.Context(), c.ID, "me")
	wantErr(t, "Acquire of a removed id", err, credstore.ErrNotFound)
	release(t, l)
}

func testFence(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c := create(t, s, pair("acme"))
	parent := parentOf(t, s, c.ID)
	var last int64
	for i := range 6 {
		store := []Store{s, other}[i%2]
		l := acquire(t, store, c.ID, fmt.Sprint("process ", i%2))
		if l.Fence() <= last {
			t.Errorf("fence = %d, want more than %d", l.Fence(), last)
		}
		last = recordIntent(t, store, l, parent).Fence
		release(t, l)
	}
}

// testOneByOne refreshes one credential from many goroutines of two processes, each
// according to the protocol. Every version must come from the one before it, and none
// may be lost.
func testOneByOne(t *testing.T, data Data) {
	const goroutines = 100
	stores := []Store{data.Open(t), data.Open(t)}
	c := create(t, stores[0], pair("acme"))
	versions := make(chan int64, goroutines)
	var waiting atomic.Int64
	waiting.Store(goroutines)
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			v, err := refreshOnce(t, stores[i%2], c.ID, fmt.Sprint(i), &waiting)
			if err != nil {
				t.Errorf("refreshing: %v", err)
			}
			versions <- v
		})
	}
	wg.Wait()
	close(versions)
	seen := map[int64]bool{}
	for v := range versions {
		seen[v] = true
	}
	if got := read(t, stores[0], c.ID); len(seen) != goroutines || got.Connection.Version != goroutines+1 || got.Intent != nil {
		t.Errorf("%d versions, the last %d, intent %+v, want %d versions in a row and no intent",
			len(seen), got.Connection.Version, got.Intent, goroutines)
	}
}

// refreshOnce refreshes the credential as soon as it gets the lease. It polls, because
// the end of a lease is not signaled, and polls less often the more goroutines wait.
func refreshOnce(t *testing.T, s Store, id, tokens string, waiting *atomic.Int64) (version int64, err error) {
	l, err := s.Credentials.Acquire(t.Context(), id, tokens)
	for errors.Is(err, credstore.ErrBusy) {
		time.Sleep(rand.N(time.Duration(waiting.Load()) * 20 * time.Millisecond))
		l, err = s.Credentials.Acquire(t.Context(), id, tokens)
	}
	waiting.Add(-1)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	state, err := s.Connections.Read(t.Context(), id)
	if err != nil {
		return 0, err
	}
	intent, err := s.Credentials.RecordIntent(t.Context(), l, state.Credential.Parent(), start())
	if err == nil && intent.Attempts != 1 {
		err = fmt.Errorf("the token was sent %d times", intent.Attempts)
	}
	if err != nil {
		return 0, err
	}
	saved, err := s.Credentials.Save(t.Context(), next(intent.Parent, tokens))
	return saved.Version, err
}
