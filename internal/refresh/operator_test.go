package refresh

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// command is the store as a command opens it, while the server runs.
func (w *env) command() *memoryStore { return &memoryStore{memory: w.data} }

func (w *env) request(id string) {
	w.t.Helper()
	if err := w.command().RequestRefresh(w.t.Context(), id, time.Now()); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(2 * credstore.LeasePollInterval) // another process may have the lease first
	synctest.Wait()
}

func (w *env) retry(id string) {
	w.t.Helper()
	if err := w.command().RetryRejected(w.t.Context(), id, time.Now()); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(2 * credstore.LeasePollInterval) // another process may have the lease first
	synctest.Wait()
}

func TestOperatorRequestRefreshes(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(p *process)
	}{
		{"a connection in memory", func(p *process) { p.mustAuthorize("acme") }},
		{"a connection that is not", func(*process) {}},
		{"again, however soon", func(p *process) {
			if _, err := p.Reauthorize(p.w.t.Context(), p.mustAuthorize("acme")); err != nil {
				p.w.t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *env) {
				conn := w.connect("acme")
				a, b := w.start(""), w.start("") // one of them does it
				defer a.stop()
				defer b.stop()
				tt.prepare(a)
				before := w.state(conn.ID).Credential.Version
				w.request(conn.ID)
				got := w.state(conn.ID)
				if got.Credential.Version != before+1 || !got.RequestedAt.IsZero() {
					t.Errorf("version %d, requested at %v; want %d and the request gone", got.Credential.Version, got.RequestedAt, before+1)
				}
				reason := func(p *process) float64 {
					return testutil.ToFloat64(p.metrics.refreshes.WithLabelValues("refreshed", "requested"))
				}
				if n := reason(a) + reason(b); n != 1 {
					t.Errorf("%v refreshes with reason requested, want 1", n)
				}
			})
		})
	}
}

func TestOperatorRequestDuringRefreshIsSatisfiedByIt(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.server.slow(5 * time.Second)
		p := w.start("")
		defer p.stop()
		expire()
		go func() { _, _ = p.Authorize(context.Background(), "acme") }()
		time.Sleep(time.Second)
		w.request(conn.ID)
		time.Sleep(time.Minute)
		if got := w.state(conn.ID); got.Credential.Version != 2 || !got.RequestedAt.IsZero() {
			t.Errorf("version %d, requested at %v; want 2 and the request gone", got.Credential.Version, got.RequestedAt)
		}
	})
}

func TestOperatorRequestIsResumedAtStart(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.request(conn.ID)
		p := w.start("")
		defer p.stop()
		synctest.Wait()
		if v := w.state(conn.ID).Credential.Version; v != 2 {
			t.Errorf("version %d after the start, want 2", v)
		}
	})
}

func TestOperatorRequestSkipsOurBackoffButNotRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		name     string
		response error
		want     int // tokens sent after the request
	}{
		{"an unexpected response", &pleo.ResponseError{Class: pleo.Unexpected, Status: 418}, 2},
		{"a lost response", &pleo.UnknownOutcomeError{RetryAfter: time.Hour, Err: errors.New("connection reset")}, 2},
		{"a rejected client", &pleo.ResponseError{Class: pleo.ClientRejected, Status: 401}, 2},
		{"a server that asks to wait", &pleo.ResponseError{Class: pleo.RateLimited, Status: 429, RetryAfter: time.Hour}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *env) {
				conn := w.connect("acme")
				p := w.start("")
				defer p.stop()
				w.server.onArrival(func() error { return tt.response })
				expire()
				_, err := p.Authorize(t.Context(), "acme")
				wantCode(t, err, ServerUnavailable)
				w.request(conn.ID)
				if n := w.server.count(); n != tt.want {
					t.Errorf("sent %d times, want %d", n, tt.want)
				}
			})
		})
	}
}

func TestOperatorRequestWaitsForBreaker(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		names := w.connectMany(40)
		conn := w.connect("acme")
		w.server.onArrival(func() error { return errRejected })
		p := w.start("")
		defer p.stop()
		expire()
		p.useAll(names)
		before := w.server.count()
		w.server.onArrival(nil)
		w.request(conn.ID)
		if n := w.server.count() - before; n != 0 {
			t.Errorf("sent %d times while the breaker is open, want 0", n)
		}
		time.Sleep(21 * time.Minute)
		if got := w.state(conn.ID); !got.RequestedAt.IsZero() || got.Credential.Version < 2 {
			t.Errorf("version %d, requested at %v after the breaker closed; want a new one and no request", got.Credential.Version, got.RequestedAt)
		}
	})
}

func TestOperatorRequestForUnusableConnectionSendsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		off := w.connect("off")
		w.data.rows[off.ID].Connection.Status = credstore.Disabled
		p := w.start("")
		defer p.stop()
		w.request(off.ID)
		time.Sleep(time.Hour)
		if n := w.server.count(); n != 0 {
			t.Errorf("sent %d times, want 0", n)
		}
	})
}

func TestRule10RejectedTokenIsSentAgainOnRetry(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.calibrate()
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		w.server.onArrival(func() error { return errRejected }) // although the grant is valid
		expire()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ReauthorizationRequired)
		w.server.onArrival(nil)
		time.Sleep(time.Hour)
		w.retry(conn.ID)
		if got := w.state(conn.ID).Connection; got.Status != credstore.Active || got.Version != 2 {
			t.Errorf("connection is %s at version %d, want active at 2", got.Status, got.Version)
		}
		p.mustAuthorize("acme")
	})
}

func TestRule12RetryIntrospectsFirst(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.calibrate()
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		expire()
		w.server.revokeAll()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ReauthorizationRequired)
		before := w.server.count()
		w.retry(conn.ID)
		if got := w.state(conn.ID).Connection; got.Reason != credstore.ReasonRefreshTokenInactive || w.server.count() != before {
			t.Errorf("reason %q after sending %d more tokens, want %q after none", got.Reason, w.server.count()-before, credstore.ReasonRefreshTokenInactive)
		}
	})
}

// The operator's retry comes between marking the connection and reading it again.
func TestRule12InactiveTokenIsNeverSent(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.calibrate()
		conn := w.connect("acme")
		w.server.revokeAll()
		expire()
		p := w.start("")
		defer p.stop()
		var once sync.Once
		p.store.loseResponses(func(op string) (err error) {
			if op == "require reauthorization" {
				once.Do(func() { err = w.command().RetryRejected(context.Background(), conn.ID, time.Now()) })
			}
			return err
		})
		_, _ = p.Authorize(t.Context(), "acme")
		time.Sleep(time.Minute)
		if got := w.state(conn.ID).Connection; w.server.count() != 0 || got.Reason != credstore.ReasonRefreshTokenInactive {
			t.Errorf("sent %d times, reason %q; want 0 and %q", w.server.count(), got.Reason, credstore.ReasonRefreshTokenInactive)
		}
	})
}
