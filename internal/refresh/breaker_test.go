package refresh

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/breaker"
)

// connectMany adds n connections whose tokens have expired.
func (w *env) connectMany(n int) (names []string) {
	for i := range n {
		name := fmt.Sprintf("c%d", i)
		w.connect(name)
		names = append(names, name)
	}
	return names
}

// useAll sends one request of each connection, 20 a second.
func (p *process) useAll(names []string) (authorized int) {
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for _, name := range names {
		time.Sleep(50 * time.Millisecond)
		wg.Go(func() {
			if _, err := p.Authorize(p.w.t.Context(), name); err == nil {
				mu.Lock()
				defer mu.Unlock()
				authorized++
			}
		})
	}
	wg.Wait()
	return authorized
}

func TestRule13BreakerOpensWhenAllAreRejected(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		names := w.connectMany(1000)
		w.server.slow(200 * time.Millisecond)
		w.server.onArrival(func() error { return errRejected })
		p := w.start("")
		defer p.stop()
		expire()
		if n := p.useAll(names); n != 0 {
			t.Fatalf("%d requests were authorized, want none", n)
		}
		if n := w.server.count(); n > 20 {
			t.Errorf("%d tokens sent while all are rejected, want at most 20", n)
		}
		if testutil.ToFloat64(p.metrics.breakerOpen) != 1 {
			t.Error("pleo_circuit_breaker_open is not 1")
		}
		rejected := w.count(credstore.ReauthorizationRequired)
		time.Sleep(2 * time.Hour)
		if n := w.server.count(); n > 20+13 {
			t.Errorf("%d tokens sent two hours later, want one probe every ten minutes", n)
		}
		if n := w.count(credstore.ReauthorizationRequired); n != rejected || n > breaker.MinConnections {
			t.Errorf("%d connections rejected, then %d; want at most %d, and none while the breaker is open", rejected, n, breaker.MinConnections)
		}

		w.server.onArrival(nil)
		time.Sleep(21 * time.Minute)
		synctest.Wait()
		if testutil.ToFloat64(p.metrics.breakerOpen) != 0 {
			t.Error("pleo_circuit_breaker_open is still 1 after the rejections have ended")
		}
		if n := p.useAll(names); n < len(names)-rejected {
			t.Errorf("%d of %d connections work after the rejections have ended, want all but the %d rejected before the breaker opened", n, len(names), rejected)
		}
	})
}

func TestRule13FewRejectionsAmongManyDoNotOpenBreaker(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		names := w.connectMany(100)
		p := w.start("")
		defer p.stop()
		w.server.revoke(10)
		expire()
		if n := p.useAll(names); n != 90 {
			t.Errorf("%d of 100 connections work, want the 90 whose grants are not revoked", n)
		}
		if testutil.ToFloat64(p.metrics.breakerOpen) != 0 {
			t.Error("pleo_circuit_breaker_open is 1 after one rejection in ten")
		}
	})
}

// A process that was paused sends tokens that other processes have exchanged
// meanwhile. Their rejection says nothing about Pleo or our client.
func TestRule13RejectionsOfReplacedTokensDoNotCount(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		var connections []credstore.Connection
		for i := range 3 * breaker.MinConnections {
			connections = append(connections, w.connect(fmt.Sprint("c", i)))
		}
		p := w.start("")
		defer p.stop()
		expire()
		for _, conn := range connections {
			w.server.onArrival(func() error {
				w.regrant(conn.ID)
				return errRejected
			})
			if _, err := p.Authorize(t.Context(), conn.Name); err != nil {
				t.Fatalf("Authorize(%q): %v", conn.Name, err)
			}
		}
		if testutil.ToFloat64(p.metrics.breakerOpen) != 0 {
			t.Error("pleo_circuit_breaker_open is 1, although each rejected token had been replaced")
		}
	})
}

// A third of many connections is rejected at once. Tokens in flight that are accepted
// do not close the breaker, and successes long before do not outweigh it.
func TestRule13RefreshesInFlightDoNotCloseBreaker(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.server.life = 5 * time.Minute
		w.server.slow(200 * time.Millisecond)
		names := w.connectMany(300)
		p := w.start("")
		defer p.stop()
		expire()
		if n := p.useAll(names); n != len(names) {
			t.Fatalf("%d of %d connections work, want all", n, len(names))
		}
		time.Sleep(9*time.Minute + 30*time.Second) // one more refresh ahead of expiry, 5 minutes ago
		w.server.revoke(3)
		before := w.server.count()
		var wg sync.WaitGroup
		for _, name := range names { // all at once
			wg.Go(func() { _, _ = p.Authorize(t.Context(), name) })
		}
		wg.Wait()
		if n := w.server.count() - before; n == 0 || n > 40 || testutil.ToFloat64(p.metrics.breakerOpen) != 1 {
			t.Errorf("%d tokens sent while a third is rejected, want the breaker to open soon", n)
		}
	})
}

// count is how many connections have the status.
func (w *env) count(status credstore.Status) (n int) {
	counts, err := (&memoryStore{memory: w.data}).Count(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for group, c := range counts {
		if group.Status == status {
			n += c
		}
	}
	return n
}
