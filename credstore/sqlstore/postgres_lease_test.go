package sqlstore

import (
	"errors"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func setLife(s *Store, life time.Duration) { s.db.dialect.(*postgresDialect).leaseDuration = life }

// pause keeps a lease from being renewed, as a pause of its process does.
func pause(l credstore.Lease) {
	h := l.(*lease).handle.(*rowHandle)
	h.ended.Do(func() { close(h.stopped) })
}

func mustAcquire(t *testing.T, s *Store, id string) credstore.Lease {
	t.Helper()
	l, err := s.Credentials.Acquire(t.Context(), id, "me")
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	return l
}

// acquireWithin waits for the lease.
func acquireWithin(t *testing.T, s *Store, id string, within time.Duration) credstore.Lease {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		l, err := s.Credentials.Acquire(t.Context(), id, "other")
		if err == nil {
			return l
		}
		if !errors.Is(err, credstore.ErrBusy) || time.Now().After(end) {
			t.Fatalf("Acquire = %v, want the lease within %v", err, within)
		}
	}
}

// TestPostgresLeaseIsRenewed: it lasts for as long as its owner lives.
func TestPostgresLeaseIsRenewed(t *testing.T) {
	dsn, keys := Server.Schema(t), newKeyset(t)
	s, other := openPostgresStore(t, dsn, keys), openPostgresStore(t, dsn, keys)
	setLife(s, time.Second)
	c := mustCreate(t, s, newOAuth("acme"))
	l := mustAcquire(t, s, c.ID)
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := other.Credentials.Acquire(t.Context(), c.ID, "other"); !errors.Is(err, credstore.ErrBusy) {
			t.Fatalf("Acquire beside its owner = %v, want %v", err, credstore.ErrBusy)
		}
	}
	if _, err := s.Credentials.RecordIntent(t.Context(), l, mustRead(t, s, c.ID).Credential.Parent(), time.Now()); err != nil {
		t.Errorf("RecordIntent under a lease that was renewed = %v, want nil", err)
	}
	if left := l.Remaining(); left <= 0 || left > time.Second {
		t.Errorf("Remaining = %v, want what is left of a second", left)
	}
}

// TestPostgresPausedOwnerHasNoLease: a process that was paused for longer than its
// lease has lost it, whether or not another process has taken it. What it has received
// in the meantime is saved nevertheless, since it is the only copy.
func TestPostgresPausedOwnerHasNoLease(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(map[bool]string{false: "and not taken", true: "and taken by another process"}[taken], func(t *testing.T) {
			dsn, keys := Server.Schema(t), newKeyset(t)
			s, other := openPostgresStore(t, dsn, keys), openPostgresStore(t, dsn, keys)
			setLife(s, 300*time.Millisecond)
			c := mustCreate(t, s, newOAuth("acme"))
			parent := mustRead(t, s, c.ID).Credential.Parent()
			l := mustAcquire(t, s, c.ID)
			if _, err := s.Credentials.RecordIntent(t.Context(), l, parent, time.Now()); err != nil {
				t.Fatalf("RecordIntent: %v", err)
			}
			pause(l)
			if taken {
				successor := acquireWithin(t, other, c.ID, 5*time.Second)
				if successor.Fence() <= l.Fence() {
					t.Errorf("fence = %d after %d, want a larger one", successor.Fence(), l.Fence())
				}
				defer func() { _ = successor.Release() }()
			} else {
				time.Sleep(400 * time.Millisecond)
			}
			wantLost(t, s, l, parent)
			if err := l.Release(); err != nil {
				t.Errorf("Release of a lease that had ended = %v, want nil", err)
			}
			if _, err := other.Credentials.Acquire(t.Context(), c.ID, "third"); taken && !errors.Is(err, credstore.ErrBusy) {
				t.Errorf("Acquire after the release by who had lost it = %v, want %v", err, credstore.ErrBusy)
			}
			if saved, err := s.Credentials.Save(t.Context(), nextPair(parent)); err != nil || saved.Version != 2 {
				t.Errorf("Save of the only copy = version %d, %v, want 2", saved.Version, err)
			}
		})
	}
}

func wantLost(t *testing.T, s *Store, l credstore.Lease, parent credstore.Parent) {
	t.Helper()
	if l.Remaining() > 0 {
		t.Errorf("Remaining = %v, want nothing", l.Remaining())
	}
	f := credstore.RefreshFailure{Failure: credstore.Failure{Code: "x", At: time.Now()}, RetryAt: time.Now()}
	_, intend := s.Credentials.RecordIntent(t.Context(), l, parent, time.Now())
	for call, err := range map[string]error{
		"RecordIntent":                intend,
		"MarkOutcomeUnknown":          s.Credentials.MarkOutcomeUnknown(t.Context(), l, parent, f),
		"CancelIntent":                s.Credentials.CancelIntent(t.Context(), l, parent, &f),
		"MarkReauthorizationRequired": s.Credentials.MarkReauthorizationRequired(t.Context(), l, parent, f.Failure, credstore.ReasonRefreshTokenRejected, true),
	} {
		if !errors.Is(err, credstore.ErrLeaseLost) {
			t.Errorf("%s after the lease had ended = %v, want %v", call, err, credstore.ErrLeaseLost)
		}
	}
}

// TestPostgresLeaseEndsWhileTheStoreIsAway: it is not believed in for longer than
// the server does.
func TestPostgresLeaseEndsWhileTheStoreIsAway(t *testing.T) {
	s, direct, relay := relayed(t)
	setLife(s, time.Second)
	c := mustCreate(t, s, newOAuth("acme"))
	began := time.Now()
	l := mustAcquire(t, s, c.ID)
	relay.Stall()
	successor := acquireWithin(t, direct, c.ID, 5*time.Second)
	if l.Remaining() > 0 {
		t.Errorf("Remaining = %v when another has the lease, want nothing", l.Remaining())
	}
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("the lease was taken after %v, want not before it ended", took)
	}
	relay.Restore()
	if err := errors.Join(l.Release(), successor.Release()); err != nil {
		t.Errorf("Release: %v", err)
	}
}

// TestPostgresUnavailableIsNotBusy: acquiring has three results.
func TestPostgresUnavailableIsNotBusy(t *testing.T) {
	s, _, relay := relayed(t)
	c := mustCreate(t, s, newOAuth("acme"))
	relay.Cut()
	if _, err := s.Credentials.Acquire(t.Context(), c.ID, "me"); !errors.Is(err, credstore.ErrUnavailable) || errors.Is(err, credstore.ErrBusy) {
		t.Errorf("Acquire without a server = %v, want %v", err, credstore.ErrUnavailable)
	}
	if err := s.Ping(t.Context()); !errors.Is(err, credstore.ErrUnavailable) {
		t.Errorf("Ping without a server = %v, want %v", err, credstore.ErrUnavailable)
	}
	relay.Restore()
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping with the server back = %v, want nil", err)
	}
	if err := mustAcquire(t, s, c.ID).Release(); err != nil {
		t.Errorf("Release: %v", err)
	}
}
