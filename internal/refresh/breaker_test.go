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

// useAll sends one request of each connection, a few dozen a second.
func (p *process) useAll(names []string) (good int) {
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
				good++
			}
		})
	}
	wg.Wait()
	return good
}

func TestRule13BreakerOpensWhenAllAreRejected(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		names := w.connectMany(1000)
		w.server.slow(200 * time.Millisecond)
		w.server.onArrival(func() error { return errRejected })
		p := w.start("")
		defer p.stop()
		expire()
		if good := p.useAll(names); good != 0 {
			t.Fatalf("%d requests were authorized, want none", good)
		}
		if n := w.server.count(); n > 20 {
			t.Errorf("%d tokens spent while all are refused, want at most 20", n)
		}
		if testutil.ToFloat64(p.metrics.breakerOpen) != 1 {
			t.Error("pleo_circuit_breaker_open is not raised")
		}
		condemned := w.count(credstore.ReauthorizationRequired)
		time.Sleep(2 * time.Hour)
		if n := w.server.count(); n > 20+13 {
			t.Errorf("%d tokens spent two hours later, want one probe every ten minutes", n)
		}
		if n := w.count(credstore.ReauthorizationRequired); n != condemned || n > breaker.MinConnections {
			t.Errorf("%d connections condemned, then %d; want at most %d, and none while the brake holds", condemned, n, breaker.MinConnections)
		}

		w.server.onArrival(nil)
		time.Sleep(21 * time.Minute)
		synctest.Wait()
		if testutil.ToFloat64(p.metrics.breakerOpen) != 0 {
			t.Error("pleo_circuit_breaker_open is still raised after the refusals have ended")
		}
		if good := p.useAll(names); good < len(names)-condemned {
			t.Errorf("%d of %d connections work after the refusals have ended, want all but the %d condemned before the brake held", good, len(names), condemned)
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
		if good := p.useAll(names); good != 90 {
			t.Errorf("%d of 100 connections work, want the 90 whose grants live", good)
		}
		if testutil.ToFloat64(p.metrics.breakerOpen) != 0 {
			t.Error("pleo_circuit_breaker_open is raised by one refusal in ten")
		}
	})
}

// A third of many connections is refused at once. Those under way that are
// accepted do not release the brake, and a busy, good time before does not
// outweigh what is now.
// A process that stood still presents what others have rotated meanwhile. That it
// is refused says nothing about Pleo, nor about our client.
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
			t.Error("pleo_circuit_breaker_open is raised, although each refused token had been replaced")
		}
	})
}

func TestRule13RefreshesInFlightDoNotCloseBreaker(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.server.life = 5 * time.Minute
		w.server.slow(200 * time.Millisecond)
		names := w.connectMany(300)
		p := w.start("")
		defer p.stop()
		expire()
		if good := p.useAll(names); good != len(names) {
			t.Fatalf("%d of %d connections work, want all", good, len(names))
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
			t.Errorf("%d tokens spent while a third is refused, want the brake to hold soon", n)
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
