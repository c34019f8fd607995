package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/breaker"
)

func newBreaker() (*breaker.Breaker, prometheus.Gauge) {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "open"})
	return breaker.New(zap.NewNop(), gauge, time.Now), gauge
}

// send sends one token of each of the connections first to last.
func send(t *testing.T, b *breaker.Breaker, first, last int, result breaker.Result) {
	t.Helper()
	for i := first; i <= last; i++ {
		permit, err := b.Allow(t.Context())
		if err != nil {
			t.Fatalf("Allow for connection %d: %v", i, err)
		}
		b.Record(permit, fmt.Sprint(i), result)
	}
}

func wantOpen(t *testing.T, b *breaker.Breaker, gauge prometheus.Gauge, want bool) {
	t.Helper()
	value := 0.0
	if want {
		value = 1
	}
	if b.Open() != want || testutil.ToFloat64(gauge) != value {
		t.Errorf("Open() = %v, gauge %v, want %v and %v", b.Open(), testutil.ToFloat64(gauge), want, value)
	}
}

func TestOpens(t *testing.T) {
	tests := []struct {
		name string
		send func(*testing.T, *breaker.Breaker)
		want bool
	}{
		{"5 connections", func(t *testing.T, b *breaker.Breaker) { send(t, b, 1, 5, breaker.Rejected) }, true},
		{"4 connections", func(t *testing.T, b *breaker.Breaker) { send(t, b, 1, 4, breaker.Rejected) }, false},
		{"one connection 5 times", func(t *testing.T, b *breaker.Breaker) {
			for range 5 {
				send(t, b, 1, 1, breaker.Rejected)
			}
		}, false},
		{"a fifth of the responses", func(t *testing.T, b *breaker.Breaker) {
			send(t, b, 1, 20, breaker.Accepted)
			send(t, b, 21, 25, breaker.Rejected)
		}, false},
		{"over a fifth of the responses", func(t *testing.T, b *breaker.Breaker) {
			send(t, b, 1, 19, breaker.Accepted)
			send(t, b, 20, 24, breaker.Rejected)
		}, true},
		{"over a fifth of the latest", func(t *testing.T, b *breaker.Breaker) {
			send(t, b, 1, 1000, breaker.Accepted)
			send(t, b, 1001, 1006, breaker.Rejected)
		}, true},
		{"not within 10 minutes", func(t *testing.T, b *breaker.Breaker) {
			send(t, b, 1, 4, breaker.Rejected)
			time.Sleep(11 * time.Minute)
			send(t, b, 5, 8, breaker.Rejected)
		}, false},
		{"inconclusive", func(t *testing.T, b *breaker.Breaker) { send(t, b, 1, 10, breaker.Inconclusive) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, gauge := newBreaker()
				tt.send(t, b)
				wantOpen(t, b, gauge, tt.want)
			})
		})
	}
}

func TestOpenLetsOneProbeThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, gauge := newBreaker()
		inFlight, err := b.Allow(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		send(t, b, 1, 5, breaker.Rejected)
		b.Record(inFlight, "in flight", breaker.Accepted)
		wantOpen(t, b, gauge, true)

		var open *breaker.OpenError
		if _, err := b.Allow(t.Context()); !errors.As(err, &open) || open.RetryAfter != breaker.ProbeInterval || !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("Allow while open = %v, want an OpenError with RetryAfter %v", err, breaker.ProbeInterval)
		}
		for _, result := range []breaker.Result{breaker.Rejected, breaker.Accepted} {
			time.Sleep(breaker.ProbeInterval)
			probe, err := b.Allow(t.Context())
			if err != nil {
				t.Fatalf("Allow of a probe: %v", err)
			}
			if _, err := b.Allow(t.Context()); !errors.Is(err, breaker.ErrOpen) {
				t.Errorf("Allow during a probe = %v, want %v", err, breaker.ErrOpen)
			}
			b.Record(probe, "probe", result)
			wantOpen(t, b, gauge, result == breaker.Rejected)
		}
	})
}

func TestLimitsUnprovenTokensInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBreaker()
		var permits []breaker.Permit
		for range 16 {
			permit, err := b.Allow(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			permits = append(permits, permit)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Allow(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Allow of a 17th token = %v, want it to wait", err)
		}
		for i, permit := range permits {
			b.Record(permit, fmt.Sprint(i), breaker.Accepted)
		}
		for range 50 { // the server accepts tokens now
			if _, err := b.Allow(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
