package refresh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

// bubble runs f in virtual time, in an environment of its own.
func bubble(t *testing.T, f func(t *testing.T, w *env)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newEnv(t)) })
}

// expire lets the current access token of a 15-minute life run out.
func expire() { time.Sleep(16 * time.Minute) }

func TestRule1OneRefreshForAllWaiters(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		w.server.slow(time.Second)
		p := w.start("")
		defer p.stop()
		expire()
		tokens := inParallel(200, func() string { return token(p.mustAuthorize("acme")) })
		if len(tokens) != 1 || w.server.count() != 1 {
			t.Errorf("200 requests got %d different tokens by %d refreshes, want 1 by 1", len(tokens), w.server.count())
		}
	})
}

func TestRule1OneRefreshForAll401s(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		w.server.slow(time.Second)
		p := w.start("")
		defer p.stop()
		sent := p.mustAuthorize("acme")
		versions := inParallel(200, func() string {
			a, err := p.Reauthorize(t.Context(), sent)
			if err != nil {
				return err.Error()
			}
			return fmt.Sprint(a.Version)
		})
		if len(versions) != 1 || !versions["2"] || w.server.count() != 1 {
			t.Errorf("200 rejected requests got %v by %d refreshes, want version 2 by 1", versions, w.server.count())
		}
	})
}

func TestRule1ReadsAgainAfterWaitingForAnotherProcess(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		w.server.slow(3 * time.Second)
		a, b, c := w.start(""), w.start(""), w.start("")
		defer a.stop()
		defer b.stop()
		defer c.stop()
		expire()
		var turn sync.Mutex
		next := 0
		tokens := inParallel(90, func() string {
			turn.Lock()
			p := []*process{a, b, c}[next%3]
			next++
			turn.Unlock()
			return token(p.mustAuthorize("acme"))
		})
		if len(tokens) != 1 || w.server.count() != 1 {
			t.Errorf("3 processes got %d different tokens by %d refreshes, want 1 by 1", len(tokens), w.server.count())
		}
	})
}

// inParallel runs f n times at once and returns the different results.
func inParallel(n int, f func() string) map[string]bool {
	var (
		mu      sync.Mutex
		wg      sync.WaitGroup
		results = map[string]bool{}
	)
	for range n {
		wg.Go(func() {
			r := f()
			mu.Lock()
			defer mu.Unlock()
			results[r] = true
		})
	}
	wg.Wait()
	return results
}

func TestRule2CallerMayLeave(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.server.slow(10 * time.Second)
		p := w.start("")
		defer p.stop()
		expire()
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err := p.Authorize(ctx, "acme"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Authorize of a client that leaves = %v, want its context's error", err)
		}
		time.Sleep(10 * time.Second)
		if v := w.state(conn.ID).Credential.Version; v != 2 {
			t.Errorf("version after the client left = %d, want 2", v)
		}
	})
}

func TestRule2WaitersTimeOut(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.server.slow(30 * time.Second)
		p := w.start("")
		defer p.stop()
		expire()
		began := time.Now()
		_, err := p.Authorize(t.Context(), "acme")
		if e := wantCode(t, err, ServerUnavailable); e.RetryAfter <= 0 {
			t.Errorf("RetryAfter = %v, want some", e.RetryAfter)
		}
		if waited := time.Since(began); waited != 20*time.Second {
			t.Errorf("waited %v, want 20s", waited)
		}
		time.Sleep(11 * time.Second)
		if v := w.state(conn.ID).Credential.Version; v != 2 {
			t.Errorf("version after a late response = %d, want 2", v)
		}
	})
}

func TestRule3NothingIsSentWithoutIntentAndSpool(t *testing.T) {
	t.Run("intent", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			w.connect("acme")
			p := w.start("")
			defer p.stop()
			p.store.fail(failing("record intent"))
			expire()
			_, err := p.Authorize(t.Context(), "acme")
			wantCode(t, err, StoreUnavailable)
			if n := w.server.count(); n != 0 {
				t.Errorf("sent %d times without an intent, want 0", n)
			}
			p.store.fail(nil)
		})
	})
	t.Run("spool", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			w.connect("acme")
			p := w.start("")
			defer p.stop()
			synctest.Wait()
			if err := os.RemoveAll(p.dir); err != nil {
				t.Fatal(err)
			}
			expire()
			_, err := p.Authorize(t.Context(), "acme")
			wantCode(t, err, StoreUnavailable)
			if n := w.server.count(); n != 0 {
				t.Errorf("sent %d times without a spool record, want 0", n)
			}
		})
	})
	t.Run("order", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			conn := w.connect("acme")
			p := w.start("")
			defer p.stop()
			w.server.onArrival(func() error {
				intent := w.state(conn.ID).Intent
				if intent == nil || intent.Outcome != credstore.OutcomePending || intent.Owner != p.Owner {
					t.Errorf("intent when the token arrives = %+v, want one of %s", intent, p.Owner)
				}
				return nil
			})
			expire()
			p.mustAuthorize("acme")
			if left := w.state(conn.ID).Intent; left != nil {
				t.Errorf("intent after the refresh = %+v, want none", left)
			}
		})
	})
}

// failing makes the operations fail.
func failing(ops ...string) func(string) error {
	return func(op string) error {
		for _, o := range ops {
			if o == op {
				return errors.New("input/output error")
			}
		}
		return nil
	}
}

func TestRule4DurableBeforeUse(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		p.store.fail(func(op string) error {
			if op == "save" {
				time.Sleep(5 * time.Second)
			}
			return nil
		})
		expire()
		began := time.Now()
		a := p.mustAuthorize("acme")
		if took := time.Since(began); took != spoolDelay {
			t.Errorf("waiters were released after %v, want after %v: when the spool had it", took, spoolDelay)
		}
		if a.Version != 2 || w.state(conn.ID).Credential.Version != 1 {
			t.Errorf("handed out version %d while the store has %d, want 2 and 1", a.Version, w.state(conn.ID).Credential.Version)
		}
		wantSpooled(t, w, p.dir, token(a))
		time.Sleep(6 * time.Second)
		if v := w.state(conn.ID).Credential.Version; v != 2 {
			t.Errorf("version in the store = %d, want 2", v)
		}
		wantEmpty(t, p.dir)
	})
}

// slowSpool is a spool on a slow disk.
type slowSpool struct{ Spool }

type slowRecord struct{ spool.Record }

func (s slowSpool) Reserve(parent credstore.Parent) (spool.Record, error) {
	slot, err := s.Spool.Reserve(parent)
	return slowRecord{slot}, err
}

func (s slowRecord) Write(pair credstore.Successor) error {
	time.Sleep(5 * time.Second)
	return s.Record.Write(pair)
}

// A store that confirms late, but before the spool's disk does, is durable all
// the same.
func TestRule4UsedOnceStoreOrSpoolIsDurable(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.configure = func(c *Config) { c.Spool = slowSpool{c.Spool} }
		p := w.start("")
		defer p.stop()
		p.store.fail(func(op string) error {
			if op == "save" {
				time.Sleep(2 * spoolDelay)
			}
			return nil
		})
		expire()
		began := time.Now()
		a := p.mustAuthorize("acme")
		if took := time.Since(began); took != 2*spoolDelay {
			t.Errorf("waiters were released after %v, want after %v: when the store had it", took, 2*spoolDelay)
		}
		if v := w.state(conn.ID).Credential.Version; a.Version != 2 || v != 2 {
			t.Errorf("handed out version %d while the store has %d, want 2 and 2", a.Version, v)
		}
		time.Sleep(10 * time.Second)
		wantEmpty(t, p.dir)
		expire()
		if a := p.mustAuthorize("acme"); a.Version != 3 {
			t.Errorf("the next refresh gives version %d, want 3", a.Version)
		}
	})
}

// wantSpooled fails the test unless a spool opened on dir replays the access
// token.
func wantSpooled(t *testing.T, w *env, dir, access string) {
	t.Helper()
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	records, err := spool.Open(copied, w.cipher)
	if err != nil {
		t.Fatal(err)
	}
	store := &savedPairs{}
	ctx, cancel := context.WithCancel(t.Context())
	_ = records.Replay(ctx, store, zap.NewNop(), func(int) { cancel() }) // once
	if len(store.access) != 1 || store.access[0] != access {
		t.Errorf("the spool holds the access tokens %q, want %q", store.access, access)
	}
}

// savedPairs is a store that notes what is saved.
type savedPairs struct {
	memoryStore
	access []string
}

func (s *savedPairs) Save(_ context.Context, n credstore.Successor) (credstore.Connection, error) {
	s.access = append(s.access, n.AccessToken.Reveal())
	return credstore.Connection{}, nil
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(dir, "*.pair"))
	if err != nil || len(entries) != 0 {
		t.Errorf("the spool holds %d records (%v), want none", len(entries), err)
	}
}

func TestRule5FailedSaveIsRetriedUntilItSucceeds(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		p.store.fail(failing("save"))
		expire()
		if a := p.mustAuthorize("acme"); a.Version != 2 {
			t.Errorf("Authorize gives version %d, want 2 from memory", a.Version)
		}
		time.Sleep(10 * time.Minute)
		if a := p.mustAuthorize("acme"); a.Version != 2 || w.server.count() != 1 {
			t.Errorf("version %d after %d refreshes, want 2 after 1", a.Version, w.server.count())
		}
		p.store.fail(nil)
		time.Sleep(time.Second)
		if v := w.state(conn.ID).Credential.Version; v != 2 {
			t.Errorf("version in the store a second after its return = %d, want 2", v)
		}
	})
}

func TestRule5StartReplaysTheSpool(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		p.store.fail(failing("save"))
		expire()
		a := p.mustAuthorize("acme")
		left := p.kill()

		p = w.start(left)
		defer p.stop()
		synctest.Wait()
		if v := w.state(conn.ID).Credential.Version; v != 2 {
			t.Errorf("version after the start = %d, want 2 from the spool", v)
		}
		if b := p.mustAuthorize("acme"); token(b) != token(a) || w.server.count() != 1 {
			t.Errorf("token %q after %d refreshes, want %q after 1", token(b), w.server.count(), token(a))
		}
		wantEmpty(t, left)
	})
}

func TestRule5MemoryServesWhenStoreAndSpoolFail(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		cipher := &failingCipher{Cipher: w.cipher}
		w.cipher = cipher
		p := w.start("")
		defer p.stop()
		p.store.fail(failing("save"))
		cipher.broken.Store(true)
		expire()
		if a := p.mustAuthorize("acme"); a.Version != 2 {
			t.Errorf("Authorize gives version %d, want 2 from memory", a.Version)
		}
		drained := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			_ = p.Drain(ctx)
			close(drained)
		}()
		time.Sleep(time.Minute)
		select {
		case <-drained:
			t.Error("the process would exit while the only copy of the pair is in memory")
		default:
		}
		p.store.fail(nil)
		<-drained
		if v := w.state(conn.ID).Credential.Version; v != 2 {
			t.Errorf("version in the store = %d, want 2", v)
		}
	})
}

// failingCipher makes records unwritable when it is broken.
type failingCipher struct {
	spool.Cipher
	broken atomic.Bool
}

func (s *failingCipher) Encrypt(label string, plaintext []byte) ([]byte, error) {
	if s.broken.Load() {
		return nil, errors.New("input/output error")
	}
	return s.Cipher.Encrypt(label, plaintext)
}

func TestRule5SpoolOfAnotherProcessIsReplayed(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.calibrate()
		w.polling = true
		shared := filepath.Join(t.TempDir(), "gl[ob") // also a directory that is no pattern
		a, b := w.start(shared), w.start(shared)
		defer b.stop()
		a.store.fail(failing("save"))
		expire()
		served := a.mustAuthorize("acme")
		left := a.kill()
		synctest.Wait() // the other process writes nothing now
		// The kernel would have unlocked the record where it is.
		if err := os.RemoveAll(shared); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(left, shared); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := b.mustAuthorize("acme"); token(got) != token(served) || w.state(conn.ID).Credential.Version != 2 {
			t.Errorf("the running process sends %q, want %q, which the killed one had spooled", token(got), token(served))
		}
		if n := w.server.count(); n != 1 {
			t.Errorf("sent %d times, want 1", n)
		}
	})
}

func TestRule6SavedOntoItsParentOnly(t *testing.T) {
	t.Run("a newer grant wins", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			conn := w.connect("acme")
			p := w.start("")
			defer p.stop()
			w.server.onCommit(func() error {
				w.regrant(conn.ID)
				return nil
			})
			expire()
			a, err := p.Authorize(t.Context(), "acme")
			if err != nil || token(a) != "consented" {
				t.Errorf("Authorize = %v, %v, want the token of the newer grant", a, err)
			}
			if got := w.state(conn.ID).Credential; got.AccessToken.Reveal() != "consented" || got.Version != 2 {
				t.Errorf("the store holds version %d, want the newer grant's, 2", got.Version)
			}
		})
	})
	t.Run("removed stays removed", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			conn := w.connect("acme")
			p := w.start("")
			defer p.stop()
			w.server.onCommit(func() error { return p.store.Remove(context.Background(), conn.ID) })
			expire()
			_, err := p.Authorize(t.Context(), "acme")
			wantCode(t, err, ConnectionUnknown)
			if _, err := p.store.Read(t.Context(), conn.ID); !errors.Is(err, credstore.ErrNotFound) {
				t.Errorf("Read after the removal = %v, want ErrNotFound", err)
			}
		})
	})
}

// regrant replaces the credential as a new consent would.
func (w *env) regrant(id string) {
	w.data.mu.Lock()
	defer w.data.mu.Unlock()
	err := w.data.apply(w.data.rows[id], credstore.Replace{Replacement: credstore.Replacement{
		Credential: credstore.NewCredential{
			AccessToken: credstore.NewSecret("consented"), RefreshToken: credstore.NewSecret("consented-refresh"), ExpiresAt: time.Now().Add(time.Hour),
		},
	}})
	if err != nil {
		w.t.Error(err)
	}
}

func TestRule7ServeWhileValid(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		w.server.onArrival(func() error { return &pleo.ResponseError{Class: pleo.RateLimited, Status: 429, RetryAfter: time.Hour} })
		first := p.mustAuthorize("acme")
		time.Sleep(14 * time.Minute) // within the margin: a refresh has been tried
		if n := w.server.count(); n != 1 {
			t.Fatalf("tried %d refreshes ahead of expiry, want 1", n)
		}
		if a := p.mustAuthorize("acme"); a.Version != first.Version {
			t.Errorf("version %d, want the one that is still valid, %d", a.Version, first.Version)
		}
		time.Sleep(time.Minute)
		_, err := p.Authorize(t.Context(), "acme")
		if e := wantCode(t, err, ServerUnavailable); e.RetryAfter < 50*time.Minute {
			t.Errorf("RetryAfter = %v, want the rest of the hour that the server asked for", e.RetryAfter)
		}
		if s := w.state(conn.ID).Connection; s.Status != credstore.Degraded {
			t.Errorf("status %q, want degraded", s.Status)
		}
		w.server.onArrival(nil)
		time.Sleep(time.Hour)
		if a := p.mustAuthorize("acme"); a.Version != 2 {
			t.Errorf("version %d after the hour, want 2", a.Version)
		}
	})
}

func TestRule7ValidTokenOutlivesItsRejectedGrant(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		p := w.start("")
		defer p.stop()
		first := p.mustAuthorize("acme")
		w.server.revokeAll()
		time.Sleep(13*time.Minute + 10*time.Second)
		if a := p.mustAuthorize("acme"); a.Version != first.Version {
			t.Errorf("version %d, want %d until it expires", a.Version, first.Version)
		}
		if _, err := p.Reauthorize(t.Context(), first); err == nil {
			t.Error("Reauthorize of a rejected connection gives an authorization, want none")
		}
		_, err := p.Authorize(t.Context(), "acme")
		if e := wantCode(t, err, ReauthorizationRequired); e.Reason != credstore.ReasonRefreshTokenRejected {
			t.Errorf("reason %q, want %q", e.Reason, credstore.ReasonRefreshTokenRejected)
		}
	})
}

func TestRule7ValidTokenDoesNotWaitForTheStore(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		p := w.start("")
		defer p.stop()
		p.mustAuthorize("acme")
		p.store.fail(func(op string) error {
			if op == "record intent" {
				time.Sleep(5 * time.Second)
			}
			return nil
		})
		time.Sleep(13*time.Minute + time.Second) // a refresh is in progress, and blocked
		began := time.Now()
		p.mustAuthorize("acme")
		if waited := time.Since(began); waited != 0 {
			t.Errorf("a request with a valid token waited %v for a refresh that has sent nothing, want 0", waited)
		}
	})
}

func TestRule8UnknownOutcomesAreRetriedUntilKnown(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		lost := &pleo.UnknownOutcomeError{Err: errors.New("connection reset")}
		w.server.onArrival(func() error { return lost })
		expire()
		began := time.Now()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ServerUnavailable)
		time.Sleep(3 * time.Hour)
		want := []time.Duration{0, 1 * time.Second, 31 * time.Second, 151 * time.Second, 751 * time.Second, 4351 * time.Second, 7951 * time.Second}
		if at := w.server.since(began); fmt.Sprint(at) != fmt.Sprint(want) {
			t.Errorf("sent at %v, want %v", at, want)
		}
		if s := w.state(conn.ID).Connection; s.Status != credstore.Degraded {
			t.Errorf("status %q, want degraded", s.Status)
		}
		w.server.onArrival(nil)
		time.Sleep(2 * time.Hour)
		if a := p.mustAuthorize("acme"); a.Version < 2 || w.server.mostConcurrent() != 1 {
			t.Errorf("version %d with %d in flight at most, want a new one with 1", a.Version, w.server.mostConcurrent())
		}
	})
}

func TestRule8RejectionAfterLostResponseSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		w.server.onCommit(func() error { return &pleo.UnknownOutcomeError{Err: errors.New("connection reset")} })
		expire()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ServerUnavailable)
		time.Sleep(2 * time.Second)
		_, err = p.Authorize(t.Context(), "acme")
		if e := wantCode(t, err, ReauthorizationRequired); e.Reason != credstore.ReasonUnknownOutcome {
			t.Errorf("reason %q, want %q", e.Reason, credstore.ReasonUnknownOutcome)
		}
		time.Sleep(24 * time.Hour)
		if n := w.server.count(); n != 2 {
			t.Errorf("sent %d times, want 2: none after a rejection", n)
		}
		if s := w.state(conn.ID); s.Intent != nil || s.Credential.RefreshToken.IsZero() {
			t.Errorf("state after the rejection = %+v, want no intent and the rejected token kept", s)
		}
	})
}

func TestRule8NotSentIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		w.server.onArrival(func() error { return &pleo.NotSentError{Err: errors.New("no such host")} })
		expire()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ServerUnavailable)
		time.Sleep(10 * time.Minute)
		if n := w.server.count(); n < 8 || n > 40 {
			t.Errorf("tried %d times in 10 minutes, want a backoff up to a minute", n)
		}
		if s := w.state(conn.ID); s.Intent != nil || s.Connection.Status != credstore.Degraded {
			t.Errorf("intent %v and status %q, want none and degraded", s.Intent, s.Connection.Status)
		}
		w.server.onArrival(nil)
		time.Sleep(time.Minute)
		p.mustAuthorize("acme")
	})
}

func TestRule9OrphanedIntent(t *testing.T) {
	t.Run("never reached the server", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			w.connect("acme")
			p := w.start("")
			left := killBefore(w, p)
			p = w.start(left)
			defer p.stop()
			if a := p.mustAuthorize("acme"); a.Version != 2 {
				t.Errorf("version %d, want 2", a.Version)
			}
			if twice := w.server.sentMoreThan(2); len(twice) > 0 {
				t.Errorf("sent too often: %v", twice)
			}
		})
	})
	t.Run("exchanged, the response lost with the owner", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			w.connect("acme")
			w.calibrate()
			p := w.start("")
			left := killAfterCommit(w, p)
			before := w.server.count()
			p = w.start(left)
			defer p.stop()
			_, err := p.Authorize(t.Context(), "acme")
			if e := wantCode(t, err, ReauthorizationRequired); e.Reason != credstore.ReasonRefreshTokenInactive {
				t.Errorf("reason %q, want %q", e.Reason, credstore.ReasonRefreshTokenInactive)
			}
			if n := w.server.count() - before; n != 0 {
				t.Errorf("sent %d times after introspection said inactive, want 0", n)
			}
		})
	})
	t.Run("exchanged, the owner may still have the successor", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			w.connect("acme")
			w.calibrate()
			p := w.start("")
			killAfterCommit(w, p)
			before := w.server.count()
			p = w.start("") // on another machine, without the spool of the killed process
			defer p.stop()
			_, err := p.Authorize(t.Context(), "acme")
			wantCode(t, err, ServerUnavailable)
			time.Sleep(ownerTimeout)
			_, err = p.Authorize(t.Context(), "acme")
			wantCode(t, err, ReauthorizationRequired)
			if n := w.server.count() - before; n != 0 {
				t.Errorf("sent %d times, want 0", n)
			}
		})
	})
}

func TestRule9OrphanedIntentWithoutIntrospection(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.server.noIntrospection = true
		w.connect("acme")
		p := w.start("")
		left := killBefore(w, p)
		killed := time.Now()
		p = w.start(left)
		defer p.stop()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ServerUnavailable)
		for p.current("acme").Version == 1 {
			time.Sleep(time.Second)
		}
		if waited := time.Since(killed); waited < responseTimeout-time.Second || waited > responseTimeout+2*time.Second {
			t.Errorf("sent %v after the owner was killed, want after its response timeout of %v", waited, responseTimeout)
		}
	})
}

func (p *process) current(name string) credstore.Connection {
	c, err := p.store.Find(p.w.t.Context(), name)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return c
}

// killBefore kills p while its refresh token is on the way, before the exchange: the
// request ends with the process.
func killBefore(w *env, p *process) (spool string) {
	arrived, killed := make(chan struct{}), make(chan struct{})
	w.server.onArrival(func() error {
		close(arrived)
		<-killed
		return &pleo.UnknownOutcomeError{Err: errors.New("the client has disconnected")}
	})
	expire()
	go func() { _, _ = p.Authorize(context.Background(), "acme") }()
	<-arrived
	spool = p.kill()
	w.server.onArrival(nil)
	close(killed)
	return spool
}

// killAfterCommit kills p between the exchange and the response.
func killAfterCommit(w *env, p *process) (spool string) {
	committed, killed := make(chan struct{}), make(chan struct{})
	w.server.onCommit(func() error {
		close(committed)
		<-killed
		return nil
	})
	expire()
	go func() { _, _ = p.Authorize(context.Background(), "acme") }()
	<-committed
	spool = p.kill()
	w.server.onCommit(nil)
	close(killed)
	return spool
}

// calibrate makes introspection trusted, as an earlier refresh of any connection
// would.
func (w *env) calibrate() {
	if err := (&memoryStore{memory: w.data}).SetFact(context.Background(), factIntrospectionTrusted, "yes"); err != nil {
		w.t.Fatal(err)
	}
}

func TestRule10RejectionJudgesTheTokenThatWasSent(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		w.server.onArrival(func() error {
			w.regrant(conn.ID) // another process has a newer credential by now
			return errRejected
		})
		expire()
		a, err := p.Authorize(t.Context(), "acme")
		if err != nil || token(a) != "consented" {
			t.Errorf("Authorize = %v, %v, want the newer credential", a, err)
		}
		if s := w.state(conn.ID).Connection; s.Status != credstore.Active {
			t.Errorf("status %q, want active", s.Status)
		}
	})
}

func TestRule12IntrospectsAfterOrphanedIntent(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.calibrate()
		conn := w.connect("acme")
		w.server.revokeAll()
		expire()
		p := w.start("")
		defer p.stop()
		_, err := p.Authorize(t.Context(), "acme")
		if e := wantCode(t, err, ReauthorizationRequired); e.Reason != credstore.ReasonRefreshTokenInactive {
			t.Errorf("reason %q, want %q", e.Reason, credstore.ReasonRefreshTokenInactive)
		}
		if n := w.server.count(); n != 0 {
			t.Errorf("sent %d times, want 0", n)
		}
		_ = conn
	})
}

func TestRule12IntrospectsBeforeFirstUseOfImportedToken(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.calibrate()
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		a := p.mustAuthorize("acme") // the access token is valid
		w.server.revokeAll()         // the refresh token has been exchanged where it came from
		if _, err := p.Reauthorize(t.Context(), a); err == nil {
			t.Error("Reauthorize gives an authorization, want none")
		}
		if c := w.state(conn.ID).Connection; c.Reason != credstore.ReasonRefreshTokenInactive || w.server.count() != 0 {
			t.Errorf("reason %q after sending %d tokens, want %q after none", c.Reason, w.server.count(), credstore.ReasonRefreshTokenInactive)
		}
	})
}

func TestRule12UntrustedInactiveRejectsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		w.configure = func(c *Config) { c.Server = wrongIntrospection{w.server} }
		p := w.start("")
		defer p.stop()
		expire()
		if a := p.mustAuthorize("acme"); a.Version != 2 {
			t.Errorf("version %d, want 2: introspection has never called a token active", a.Version)
		}
	})
}

// wrongIntrospection is a server whose introspection knows no refresh token.
type wrongIntrospection struct{ AuthorizationServer }

func (wrongIntrospection) Active(context.Context, credstore.Secret, string) (bool, error) {
	return false, nil
}
