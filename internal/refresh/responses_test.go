package refresh

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// TestTokenEndpointResponses checks what each kind of response means for a connection
// whose token has expired: what the client gets, what the store records, and when the
// token is sent again.
func TestTokenEndpointResponses(t *testing.T) {
	tests := []struct {
		name     string
		response error
		code     Code
		status   credstore.Status
		reason   string
		next     time.Duration // when the token is sent again; 0: never
	}{
		{"rejected", errRejected, ReauthorizationRequired, credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenRejected, 0},
		{"client rejected", &pleo.ResponseError{Class: pleo.ClientRejected, Status: 401, Code: "invalid_client"},
			ServerUnavailable, credstore.Degraded, credstore.ReasonClientRejected, time.Minute},
		{"429", &pleo.ResponseError{Class: pleo.RateLimited, Status: 429},
			ServerUnavailable, credstore.Degraded, credstore.ReasonUnavailable, 30 * time.Second},
		{"429 with Retry-After", &pleo.ResponseError{Class: pleo.RateLimited, Status: 429, RetryAfter: 5 * time.Minute},
			ServerUnavailable, credstore.Degraded, credstore.ReasonUnavailable, 5 * time.Minute},
		{"429 with a short Retry-After", &pleo.ResponseError{Class: pleo.RateLimited, Status: 429, RetryAfter: 3 * time.Second},
			ServerUnavailable, credstore.Degraded, credstore.ReasonUnavailable, 3 * time.Second},
		{"another 4xx", &pleo.ResponseError{Class: pleo.Unexpected, Status: 418},
			ServerUnavailable, credstore.Degraded, credstore.ReasonUnavailable, time.Hour},
		{"5xx", &pleo.UnknownOutcomeError{Status: 503, Err: errors.New("503")},
			ServerUnavailable, credstore.Degraded, credstore.ReasonUnavailable, time.Second},
		{"5xx with Retry-After", &pleo.UnknownOutcomeError{Status: 503, RetryAfter: 2 * time.Minute, Err: errors.New("503")},
			ServerUnavailable, credstore.Degraded, credstore.ReasonUnavailable, 2 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *env) {
				conn := w.connect("acme")
				p := w.start("")
				defer p.stop()
				w.server.onArrival(func() error { return tt.response })
				expire()
				began := time.Now()
				_, err := p.Authorize(t.Context(), "acme")
				wantCode(t, err, tt.code)
				if c := w.state(conn.ID).Connection; c.Status != tt.status || c.Reason != tt.reason || c.LastError == nil {
					t.Errorf("connection is %s (%s), last error %v; want %s (%s) and an error", c.Status, c.Reason, c.LastError, tt.status, tt.reason)
				}
				time.Sleep(max(tt.next, time.Hour) + time.Second)
				at := w.server.since(began)
				if tt.next == 0 && len(at) != 1 {
					t.Errorf("sent %d times, want once", len(at))
				}
				if tt.next != 0 && (len(at) < 2 || at[1] != tt.next) {
					t.Errorf("sent at %v, want again after %v", at, tt.next)
				}
			})
		})
	}
}

func TestUnexpectedResponsesRejectOnlyAfterThreeIn24Hours(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		w.server.onArrival(func() error { return &pleo.ResponseError{Class: pleo.Unexpected, Status: 418} })
		expire()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ServerUnavailable)
		time.Sleep(23 * time.Hour)
		if c := w.state(conn.ID).Connection; c.Status != credstore.Degraded {
			t.Errorf("status after 23 hours = %q, want degraded", c.Status)
		}
		time.Sleep(2 * time.Hour)
		if c := w.state(conn.ID).Connection; c.Reason != credstore.ReasonUnexpectedResponse {
			t.Errorf("reason after 25 hours = %q, want %q", c.Reason, credstore.ReasonUnexpectedResponse)
		}
	})
}

func TestResponseWithoutRefreshTokenKeepsTheOldOne(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.configure = func(c *Config) {
			c.Server = tokens{pleo.Tokens{AccessToken: credstore.NewSecret("new"), Lifetime: time.Hour}}
		}
		p := w.start("")
		defer p.stop()
		before := w.state(conn.ID).Credential.RefreshToken
		expire()
		if a := p.mustAuthorize("acme"); token(a) != "new" {
			t.Errorf("token %q, want the new one", token(a))
		}
		if after := w.state(conn.ID).Credential; !after.RefreshToken.Equal(before) || after.Version != 2 {
			t.Errorf("version %d, refresh token kept: %v; want 2 and kept", after.Version, after.RefreshToken.Equal(before))
		}
	})
}

// tokens returns the same tokens for every refresh.
type tokens struct{ pleo.Tokens }

func (f tokens) Refresh(context.Context, credstore.Secret) (pleo.Tokens, error) {
	response := f.Tokens
	response.SentAt = time.Now()
	return response, nil
}

func (tokens) Active(context.Context, credstore.Secret, string) (bool, error) { return true, nil }

func TestRefreshTokenOfTruncatedResponseIsUsed(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.configure = func(c *Config) { c.Server = &broken{server: w.server} }
		p := w.start("")
		defer p.stop()
		expire()
		_, _ = p.Authorize(t.Context(), "acme") // brings a refresh token and no access token
		if a := p.mustAuthorize("acme"); a.Version != 3 {
			t.Errorf("version %d, want 3: the incomplete pair, then its successor", a.Version)
		}
		if s := w.state(conn.ID).Connection; s.Status != credstore.Active {
			t.Errorf("status %q, want active", s.Status)
		}
	})
}

// broken loses the access token of the first response, or of all.
type broken struct {
	*server
	always atomic.Bool
}

func (b *broken) Refresh(ctx context.Context, token credstore.Secret) (pleo.Tokens, error) {
	response, err := b.server.Refresh(ctx, token)
	if b.always.Load() || b.count() == 1 { // only this one is in flight
		response.AccessToken = credstore.Secret{}
	}
	return response, err
}

func TestResponsesWithoutAccessTokenBackOff(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		incomplete := &broken{server: w.server}
		incomplete.always.Store(true)
		w.configure = func(c *Config) { c.Server = incomplete }
		p := w.start("")
		defer p.stop()
		expire()
		began := time.Now()
		for time.Since(began) < 16*time.Minute {
			_, _ = p.Authorize(t.Context(), "acme")
			time.Sleep(time.Second)
		}
		want := "[0s 1s 1m1s 3m1s 7m1s 15m1s]"
		if at := fmt.Sprint(w.server.since(began)); at != want {
			t.Errorf("refreshed at %v, want %v", at, want)
		}
		got := w.state(conn.ID)
		if c := got.Connection; c.Status != credstore.Degraded || c.LastError == nil || c.LastError.Code != codeAccessTokenMissing {
			t.Errorf("connection is %s, last error %v; want degraded because of %s", c.Status, c.LastError, codeAccessTokenMissing)
		}
		incomplete.always.Store(false)
		time.Sleep(time.Hour)
		p.mustAuthorize("acme")
		if twice := w.server.sentMoreThan(1); len(twice) > 0 {
			t.Errorf("tokens sent more than once: %v", twice)
		}
	})
}

func TestTokensOfAnyLifetimeCauseNoLoop(t *testing.T) {
	for _, life := range []time.Duration{0, time.Second, 4 * time.Second, time.Minute, 15 * time.Minute} {
		t.Run(life.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *env) {
				w.server.life = life
				w.connect("acme")
				p := w.start("")
				defer p.stop()
				const span = 10 * time.Minute
				for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
					p.mustAuthorize("acme")
				}
				most := 0
				if life > 0 {
					most = int(span/(life*4/5)) + 2
				}
				if n := w.server.count(); n > most {
					t.Errorf("%d refreshes in %v with tokens of %v, want at most %d", n, span, life, most)
				}
				if twice := w.server.sentMoreThan(1); len(twice) > 0 {
					t.Errorf("tokens sent more than once: %v", twice)
				}
			})
		})
	}
}

func TestForcedRefreshesBackOff(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		a, b := w.start(""), w.start("")
		defer a.stop()
		defer b.stop()
		var times []time.Duration
		began := time.Now()
		for time.Since(began) < 2*time.Hour {
			p := []*process{a, b}[len(times)%2] // the limit applies across processes
			sent := p.mustAuthorize("acme")
			forced := p.metrics.refreshes.WithLabelValues("refreshed", "rejected")
			before := testutil.ToFloat64(forced)
			_, err := p.Reauthorize(t.Context(), sent)
			if err != nil && !errors.Is(err, ErrSuppressed) {
				t.Fatalf("Reauthorize = %v, want an authorization or ErrSuppressed", err)
			}
			synctest.Wait()
			if testutil.ToFloat64(forced) > before {
				times = append(times, time.Since(began))
			}
			time.Sleep(time.Second)
		}
		for i := 1; i < len(times); i++ {
			if gap := times[i] - times[i-1]; gap < minForcedInterval {
				t.Errorf("forced refreshes %v and %v are %v apart, want at least %v", times[i-1], times[i], gap, minForcedInterval)
			}
		}
		if len(times) < 3 || len(times) > 40 {
			t.Errorf("%d forced refreshes in two hours of 401s, want some, with growing intervals", len(times))
		}
	})
}

func TestRejectedReplayOfNewTokenStops401Refreshes(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		p := w.start("")
		defer p.stop()
		replay, err := p.Reauthorize(t.Context(), p.mustAuthorize("acme"))
		if err != nil {
			t.Fatalf("Reauthorize = %v, want a new authorization", err)
		}
		p.ReplayRejected(replay)
		time.Sleep(5 * time.Minute)
		if _, err := p.Reauthorize(t.Context(), replay); !errors.Is(err, ErrSuppressed) {
			t.Errorf("Reauthorize of a token whose replay was rejected = %v, want ErrSuppressed", err)
		}
		expire()
		if a := p.mustAuthorize("acme"); a.Version != 3 {
			t.Errorf("version %d after the normal expiry, want 3", a.Version)
		}
	})
}

func TestCredentialCheckAllowsRefreshAfterRejectedReplay(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		w.api = api{err: pleo.ErrUnauthorized}
		p := w.start("")
		defer p.stop()
		replay, err := p.Reauthorize(t.Context(), p.mustAuthorize("acme"))
		if err != nil {
			t.Fatal(err)
		}
		p.ReplayRejected(replay)
		time.Sleep(5 * time.Minute)
		if a, err := p.Reauthorize(t.Context(), replay); err != nil || a.Version != 3 {
			t.Errorf("Reauthorize = %v, %v, want version 3: the credential check rejects the token too", a, err)
		}
	})
}

// api is an API with the same response to all checks.
type api struct {
	company string
	err     error
}

func (a api) Introspect(context.Context, credstore.Secret) (pleo.Identity, error) {
	time.Sleep(time.Millisecond) // so that waiters of the refresh continue first
	return pleo.Identity{CompanyID: a.company, Subject: "urn:pleo:company:" + a.company}, a.err
}

func TestCompanyIsIdentifiedAfterRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn, other := w.connect("acme"), w.connect("other")
		w.api = api{company: "c1"}
		p := w.start("")
		defer p.stop()
		expire()
		p.mustAuthorize("acme")
		time.Sleep(time.Second)
		if a := p.mustAuthorize("acme"); a.CompanyID != "c1" || w.state(conn.ID).Connection.CompanyID != "c1" {
			t.Errorf("company %q, want c1", a.CompanyID)
		}
		p.mustAuthorize("other")
		time.Sleep(time.Second)
		_, err := p.Authorize(t.Context(), "other")
		if e := wantCode(t, err, ConnectionDisabled); e.Reason != credstore.ReasonCompanyConflict {
			t.Errorf("reason %q, want %q", e.Reason, credstore.ReasonCompanyConflict)
		}
		if v := w.state(other.ID).Credential.Version; v != 2 {
			t.Errorf("version %d, want 2: the pair is saved first", v)
		}
	})
}

func TestRefreshAheadOfExpiry(t *testing.T) {
	t.Run("of a connection in use", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			w.connect("acme")
			p := w.start("")
			defer p.stop()
			p.mustAuthorize("acme")
			time.Sleep(13*time.Minute + time.Second)
			if n := w.server.count(); n != 1 {
				t.Errorf("%d refreshes two minutes ahead of the expiry, want 1", n)
			}
			time.Sleep(24 * time.Hour)
			if n := w.server.count(); n != 1 {
				t.Errorf("%d refreshes of a connection that is no longer used, want 1", n)
			}
		})
	})
	t.Run("waits for a moment without requests", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			w.connect("acme")
			p := w.start("")
			defer p.stop()
			a := p.mustAuthorize("acme")
			a.Begin()
			time.Sleep(14 * time.Minute)
			if n := w.server.count(); n != 0 {
				t.Errorf("%d refreshes while a request is in flight, want 0", n)
			}
			a.End()
			time.Sleep(time.Second)
			if n := w.server.count(); n != 1 {
				t.Errorf("%d refreshes after the request, want 1", n)
			}
		})
	})
	t.Run("but not until the expiry", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *env) {
			w.connect("acme")
			p := w.start("")
			defer p.stop()
			p.mustAuthorize("acme").Begin()
			time.Sleep(15*time.Minute - idleWaitLimit + time.Second)
			if n := w.server.count(); n != 1 {
				t.Errorf("%d refreshes 30 seconds ahead of the expiry, want 1", n)
			}
		})
	})
}

func TestRequestsWithValidTokenWaitForRefreshInFlight(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		p := w.start("")
		defer p.stop()
		for _, tt := range []struct {
			delay   time.Duration
			waited  time.Duration
			version int64
		}{{time.Second, 999 * time.Millisecond, 2}, {5 * time.Second, refreshWaitTimeout, 2}} {
			w.server.slow(tt.delay)
			p.mustAuthorize("acme")
			time.Sleep(13*time.Minute + time.Millisecond)
			began := time.Now()
			a := p.mustAuthorize("acme")
			if waited := time.Since(began); waited != tt.waited || a.Version != tt.version {
				t.Errorf("with a refresh of %v: version %d after %v, want %d after %v", tt.delay, a.Version, waited, tt.version, tt.waited)
			}
		}
	})
}

func TestIdleGrantsAreRefreshedWeekly(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		for i := range 50 {
			w.connect(fmt.Sprintf("c%d", i))
		}
		p := w.start("")
		defer p.stop()
		time.Sleep(8 * 24 * time.Hour)
		if n := w.server.count(); n != 50 {
			t.Errorf("%d refreshes of 50 idle connections in 8 days, want 50", n)
		}
	})
}

func TestStartResumesUnsettledRefreshes(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		w.server.onArrival(func() error { return &pleo.UnknownOutcomeError{Err: errors.New("connection reset")} })
		expire()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ServerUnavailable)
		p.stop()
		w.server.onArrival(nil)
		p = w.start("")
		defer p.stop()
		time.Sleep(2 * time.Second)
		if v := w.state(conn.ID).Credential.Version; v != 2 {
			t.Errorf("version %d soon after the start, want 2 without a request", v)
		}
	})
}

func TestDrainWaitsForRefreshInFlight(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		w.server.slow(10 * time.Second)
		p := w.start("")
		expire()
		go func() { _, _ = p.Authorize(context.Background(), "acme") }()
		time.Sleep(time.Second)
		p.drain()
		defer p.stop()
		if v := w.state(conn.ID).Credential.Version; v != 2 {
			t.Errorf("version after the drain = %d, want 2", v)
		}
		_, err := p.Authorize(t.Context(), "unknown")
		wantCode(t, err, ConnectionUnknown)
		expire()
		_, err = p.Authorize(t.Context(), "acme")
		wantCode(t, err, ShuttingDown)
	})
}

func TestUnusableConnections(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		store := &memoryStore{memory: w.data}
		for name, status := range map[string]credstore.Status{"waiting": credstore.Pending, "off": credstore.Disabled} {
			conn, err := store.Create(t.Context(), credstore.NewConnection{Name: name, Kind: credstore.StandaloneKey})
			if err != nil {
				t.Fatal(err)
			}
			w.data.rows[conn.ID].Connection.Status = status
		}
		p := w.start("")
		defer p.stop()
		for name, code := range map[string]Code{"waiting": ConnectionPending, "off": ConnectionDisabled, "unknown": ConnectionUnknown} {
			_, err := p.Authorize(t.Context(), name)
			wantCode(t, err, code)
		}
	})
}

func TestStoreUnavailable(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		w.connect("other")
		p := w.start("")
		defer p.stop()
		first := p.mustAuthorize("acme")
		p.store.fail(failing("find", "read", "acquire", "record intent", "save", "unsettled"))
		if a := p.mustAuthorize("acme"); a != first {
			t.Error("a valid token in memory is not served while the store is unavailable")
		}
		_, err := p.Authorize(t.Context(), "other")
		wantCode(t, err, StoreUnavailable)
		expire()
		_, err = p.Authorize(t.Context(), "acme")
		wantCode(t, err, StoreUnavailable)
		if n := w.server.count(); n != 0 {
			t.Errorf("sent %d times without a store, want 0", n)
		}
		synctest.Wait() // whatever is tried at this moment has failed
		p.store.fail(nil)
		p.mustAuthorize("acme")
	})
}

func TestChangesByOtherProcessesAreRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		if sole, err := p.Sole(t.Context()); err != nil || !sole {
			t.Errorf("Sole = %v, %v, want true", sole, err)
		}
		p.mustAuthorize("acme")
		w.connect("other")
		if err := (&memoryStore{memory: w.data}).Remove(t.Context(), conn.ID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ConnectionUnknown)
		w.connect("third")
		synctest.Wait()
		if sole, err := p.Sole(t.Context()); err != nil || sole {
			t.Errorf("Sole of two = %v, %v, want false", sole, err)
		}
	})
}

func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		registry := prometheus.NewRegistry()
		w.configure = func(c *Config) { c.Registerer = registry }
		p := w.start("")
		defer p.stop()
		expire()
		p.mustAuthorize("acme")
		synctest.Wait()
		if got := testutil.ToFloat64(p.metrics.refreshes.WithLabelValues("refreshed", "expired")); got != 1 {
			t.Errorf("pleo_refreshes_total{refreshed,expired} = %v, want 1", got)
		}
		if got := testutil.ToFloat64(p.metrics.unsaved); got != 0 {
			t.Errorf("pleo_unsaved_credentials = %v, want 0", got)
		}
		if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
			t.Errorf("metrics lint: %v %v", problems, err)
		}
	})
}

// BenchmarkAuthorize is the part of the hot path that refresh has: a valid token
// in memory.
func BenchmarkAuthorize(b *testing.B) {
	data := newMemory()
	store := &memoryStore{memory: data}
	_, err := store.Create(b.Context(), credstore.NewConnection{Name: "acme", Kind: credstore.OAuth, Credential: &credstore.NewCredential{
		AccessToken: credstore.NewSecret("a"), RefreshToken: credstore.NewSecret("r"), ExpiresAt: time.Now().Add(time.Hour),
	}})
	if err != nil {
		b.Fatal(err)
	}
	m, err := New(Config{Store: StoreOf(store.parts()), Owner: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := m.Authorize(ctx, "acme"); err != nil {
				b.Error(err)
			}
		}
	})
}

func TestHealthChecks(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		p := w.start("")
		defer p.stop()
		if err := errors.Join(p.CheckServer(t.Context()), p.CheckCredentials(t.Context())); err != nil {
			t.Errorf("checks at the start = %v, want nil", err)
		}
		p.store.fail(failing("save"))
		expire()
		p.mustAuthorize("acme")
		if err := p.CheckCredentials(t.Context()); err == nil {
			t.Error("CheckCredentials with an unsaved pair = nil, want an error")
		}
		p.store.fail(nil)
		time.Sleep(time.Second)
		if err := p.CheckCredentials(t.Context()); err != nil {
			t.Errorf("CheckCredentials after the save = %v, want nil", err)
		}
		// It can be read and not written: full, read-only, or locked by another process.
		for _, op := range []string{"record intent", "acquire"} {
			p.store.fail(failing(op))
			expire()
			_, err := p.Authorize(t.Context(), "acme")
			wantCode(t, err, StoreUnavailable)
			if err := p.CheckCredentials(t.Context()); err == nil {
				t.Errorf("CheckCredentials while the store fails to %s = nil, want an error", op)
			}
			p.store.fail(nil)
			time.Sleep(5 * time.Second)
			if err := p.CheckCredentials(t.Context()); err != nil {
				t.Errorf("CheckCredentials 5 s after the store has ceased to fail to %s = %v, want nil", op, err)
			}
		}
		w.server.onArrival(func() error { return &pleo.NotSentError{Err: errors.New("no route to host")} })
		expire()
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ServerUnavailable)
		if err := p.CheckServer(t.Context()); err == nil {
			t.Error("CheckServer while the server cannot be reached = nil, want an error")
		}
	})
}

func TestFailedReadOfChangeIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		conn := w.connect("acme")
		p := w.start("")
		defer p.stop()
		p.mustAuthorize("acme")
		p.store.fail(failing("read"))
		if err := (&memoryStore{memory: w.data}).Remove(t.Context(), conn.ID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		p.store.fail(nil)
		time.Sleep(time.Second)
		_, err := p.Authorize(t.Context(), "acme")
		wantCode(t, err, ConnectionUnknown)
	})
}
