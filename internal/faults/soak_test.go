package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// massRejection is F27: when many connections are rejected at once, the tokens of the
// others are not sent. The recovery after 10 minutes is tested in virtual time
// (internal/refresh).
func massRejection(r *run) {
	w := r.newEnv(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 1s}`)
	connections := w.connectExpired(r.trials)
	w.fault(simulator.Fault{Kind: "status", Status: 400, Body: `{"error":"invalid_grant"}`})
	p := w.serve()
	for i, c := range p.sendAll(connections) {
		if a := <-c; a.status != http.StatusUnauthorized && a.status != http.StatusServiceUnavailable {
			r.violation("%s: %d %s, want 401 or 503", connections[i].name, a.status, a.body)
		}
	}
	sent := 0
	for _, n := range w.sim.Counters().TokenRequests {
		sent += n
	}
	if sent > 20 {
		r.violation("%d tokens were sent before the circuit breaker opened, want at most 20", sent)
	}
	if got := p.metric("pleo_circuit_breaker_open"); got != 1 {
		r.violation("pleo_circuit_breaker_open is %v, want 1", got)
	}
	rejected := p.metric(`pleo_connections{kind="oauth",status="reauthorization_required"}`)
	r.row.update(func(row *row) {
		row.Lost += int(rejected)
		row.Note = fmt.Sprintf("%d tokens sent", sent)
	})
	p.stop()
	w.finish(len(connections))
}

// soak is row S: three processes, one of which is killed every 10 seconds while no
// response is in transit. The next kill waits until the others have taken over the
// leases of the previous process.
func soak(r *run) {
	const every = 10 * time.Second
	w := r.newEnv(simulator.Settings{}, `log: {level: warn}`)
	connections := w.connect(10, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(5 * time.Second)}, time.Time{})
	var slots [3]atomic.Pointer[process]
	var proxies [3]*forwardProxy
	for i := range slots {
		p, forward := w.startInSlot(i)
		slots[i].Store(p)
		proxies[i] = forward
	}
	clients, stop := context.WithCancel(r.Context())
	var running sync.WaitGroup
	for i := range slots {
		for _, l := range connections {
			running.Go(func() { w.soakClient(clients, &slots[i], l) })
		}
	}
	time.Sleep(every) // to warm up
	before := slots[0].Load().footprint()
	for range r.trials {
		time.Sleep(every)
		i := 1 + rand.IntN(2)
		killed := w.killQuietly(slots[i].Load(), proxies[i], connections)
		p, forward := w.startInSlot(i)
		slots[i].Store(p)
		proxies[i] = forward
		w.refreshedSince(killed, connections)
	}
	stop()
	running.Wait()
	steady := slots[0].Load() // never killed
	after := steady.footprint()
	r.row.update(func(row *row) { row.Note = fmt.Sprintf("before %v; after %v", before, after) })
	if after.descriptors > before.descriptors+20 || after.goroutines > before.goroutines+20 || after.memory > before.memory*1.5+16<<20 {
		r.violation("the process grows: before %v, after %v", before, after)
	}
	w.checkWorking(steady, connections)
	for i := range slots {
		slots[i].Load().stop()
	}
	w.finish(r.trials)
}

// soakClient is a client of the current process in the slot. Requests in flight when
// it is killed get no response.
func (w *env) soakClient(ctx context.Context, slot *atomic.Pointer[process], l connection) {
	for ctx.Err() == nil {
		p := slot.Load()
		a := p.getPath(w.Context(), l, "/v1/companies")
		if a.status != http.StatusOK && (a.status != 0 || !p.killPending()) {
			w.violation("%s: %d after %v, want 200: %s\n%s", l.name, a.status, a.took, a.body, p.log)
		}
		time.Sleep(50 * time.Millisecond) // between requests
	}
}

// killPending reports whether the process is exiting, which takes the kernel a
// moment.
func (p *process) killPending() bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// killQuietly kills the process at a moment when every committed pair is durable and
// some refresh is in flight that is not committed. It returns the number of the last
// event before the others continue.
func (w *env) killQuietly(p *process, forward *forwardProxy, connections []connection) (last int64) {
	w.Helper()
	events, stop := w.sim.Subscribe()
	w.fault(simulator.Fault{Kind: "hang", Abandon: true}) // before the commit
	// The API accepts only the newest access token of a grant, which is used once it is
	// durable. After a response, nothing of its connection is in transit.
	open, responded := map[string]bool{}, make(chan string, len(connections))
	for _, l := range connections {
		open[l.grant.ID] = true
		go func() {
			if a := p.get(l); a.status == http.StatusOK {
				responded <- l.grant.ID
			}
		}()
	}
	delayed := 0
	see := func(e simulator.Event) {
		last = e.Seq
		if e.Phase == simulator.PhaseDelayed {
			delayed++
			delete(open, e.Grant)
		}
	}
	for late := time.After(eventTimeout); len(open) > 0 || delayed == 0; {
		select {
		case e := <-events:
			see(e)
		case grant := <-responded:
			delete(open, grant)
		case <-late:
			w.Fatalf("%d connections have neither a response nor a refresh in flight, %d have a refresh:\n%s", len(open), delayed, p.log)
		}
	}
	p.kill()
	forward.Close() // returns once the simulator has noticed closed connections
	stop()
	for len(events) > 0 {
		see(<-events)
	}
	w.sim.ClearFaults()
	return last
}

// refreshedSince waits until every connection has been refreshed after an event, so
// that no lease of a process that was killed before remains.
func (w *env) refreshedSince(last int64, connections []connection) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), eventTimeout)
	defer cancel()
	for _, l := range connections {
		if _, err := w.sim.AwaitEvent(ctx, last, func(e simulator.Event) bool {
			return e.Phase == simulator.PhaseCommitted && e.Grant == l.grant.ID
		}); err != nil {
			w.Fatalf("waiting for a refresh of %s after the kill: %v", l.name, err)
		}
	}
}

// startInSlot starts a process that reaches the simulator through its own forward proxy.
// Replicas have separate spools, processes on one machine share one.
func (w *env) startInSlot(i int) (*process, *forwardProxy) {
	w.Helper()
	forward := newForwardProxy(w.server.Config.Handler)
	w.Cleanup(forward.Close)
	name := "data"
	if w.database != nil {
		name = fmt.Sprint("data-", i)
	}
	upstream := fmt.Sprintf("upstream: {api_url: %[1]q, auth_url: %[1]q, proxy_url: %q}", w.server.URL, forward.URL)
	settings := replaceLine(w.settings, "upstream:", upstream) + w.dataLine(name)
	return w.startWith(w.write(fmt.Sprintf("slot-%d.yaml", i), settings)), forward
}

// footprint is the resource usage of a process.
type footprint struct {
	descriptors int
	goroutines  int
	memory      float64 // bytes
}

func (f footprint) String() string {
	return fmt.Sprintf("%d descriptors, %d goroutines, %.0f MiB", f.descriptors, f.goroutines, f.memory/(1<<20))
}

func (p *process) footprint() footprint {
	p.Helper()
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.Fatal(err)
	}
	return footprint{len(descriptors), int(p.metric("go_goroutines")), p.metric("process_resident_memory_bytes")}
}
