package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// massRejection is F27: when many connections are refused at once, the tokens of
// the others are not spent. That it recovers by itself, after 10 minutes, is
// tested in virtual time (internal/refresh).
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
	presented := 0
	for _, n := range w.sim.Counters().TokenRequests {
		presented += n
	}
	if presented > 20 {
		r.violation("%d tokens were presented before the brake held, want at most 20", presented)
	}
	if got := p.metric("pleo_circuit_breaker_open"); got != 1 {
		r.violation("pleo_circuit_breaker_open is %v, want 1", got)
	}
	ended := p.metric(`pleo_connections{kind="oauth",status="reauthorization_required"}`)
	r.row.update(func(row *row) {
		row.Lost += int(ended)
		row.Note = fmt.Sprintf("%d tokens presented", presented)
	})
	p.stop()
	w.finish(len(connections))
}

// soak is row S: three processes, one of them killed every 10 seconds while no
// answer is on its way, and once others have taken over all that the last one had a
// lease of.
func soak(r *run) {
	const every = 10 * time.Second
	w := r.newEnv(simulator.Settings{}, `log: {level: warn}`)
	connections := w.connect(10, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(5 * time.Second)}, time.Time{})
	var slots [3]atomic.Pointer[process]
	var doors [3]*httptest.Server
	for i := range slots {
		p, door := w.startInSlot(i)
		slots[i].Store(p)
		doors[i] = door
	}
	clients, stop := context.WithCancel(r.Context())
	var running sync.WaitGroup
	for i := range slots {
		for _, l := range connections {
			running.Go(func() { w.soakClient(clients, &slots[i], l) })
		}
	}
	time.Sleep(every) // the soak is this: time
	before := slots[0].Load().footprint()
	for range r.trials {
		time.Sleep(every)
		i := 1 + rand.IntN(2)
		killed := w.killQuietly(slots[i].Load(), doors[i], connections)
		p, door := w.startInSlot(i)
		slots[i].Store(p)
		doors[i] = door
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

// soakClient is a client of whatever process is in the slot. Requests under way
// when that is killed have no answer.
func (w *env) soakClient(ctx context.Context, slot *atomic.Pointer[process], l connection) {
	for ctx.Err() == nil {
		p := slot.Load()
		a := p.getPath(w.Context(), l, "/v1/companies")
		if a.status != http.StatusOK && (a.status != 0 || !p.killPending()) {
			w.violation("%s: %d after %v, want 200: %s\n%s", l.name, a.status, a.took, a.body, p.log)
		}
		time.Sleep(50 * time.Millisecond) // a client has other things to do
	}
}

// killPending reports whether the process ends, which takes the kernel a moment.
func (p *process) killPending() bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// killQuietly kills the process at a moment when nothing has been committed that
// is not durable, and some refresh is under way that has not been committed. It
// returns the number of the last event before others go on.
func (w *env) killQuietly(p *process, door *httptest.Server, connections []connection) (last int64) {
	w.Helper()
	events, stop := w.sim.Subscribe()
	w.fault(simulator.Fault{Kind: "hang", Abandon: true}) // before the commit
	// The API accepts a grant's newest access token alone, and that is in use once it
	// is durable: after an answer, nothing of its connection is on its way.
	open, answered := map[string]bool{}, make(chan string, len(connections))
	for _, l := range connections {
		open[l.grant.ID] = true
		go func() {
			if a := p.get(l); a.status == http.StatusOK {
				answered <- l.grant.ID
			}
		}()
	}
	held := 0
	see := func(e simulator.Event) {
		last = e.Seq
		if e.Phase == simulator.PhaseDelayed {
			held++
			delete(open, e.Grant)
		}
	}
	for late := time.After(eventTimeout); len(open) > 0 || held == 0; {
		select {
		case e := <-events:
			see(e)
		case grant := <-answered:
			delete(open, grant)
		case <-late:
			w.Fatalf("%d connections have neither an answer nor a refresh under way, and %d a refresh:\n%s", len(open), held, p.log)
		}
	}
	p.kill()
	door.Close() // returns once the simulator has seen who has left
	stop()
	for len(events) > 0 {
		see(<-events)
	}
	w.sim.ClearFaults()
	return last
}

// refreshedSince waits until every connection has been refreshed after an event:
// nobody waits any more for the lease of a process that was killed before.
func (w *env) refreshedSince(last int64, connections []connection) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), eventTimeout)
	defer cancel()
	for _, l := range connections {
		if _, err := w.sim.AwaitEvent(ctx, last, func(e simulator.Event) bool {
			return e.Phase == simulator.PhaseCommitted && e.Grant == l.grant.ID
		}); err != nil {
			w.Fatalf("nobody refreshes %s after the kill: %v", l.name, err)
		}
	}
}

// startInSlot starts a process that comes to the simulator through a door of its own.
// Replicas have a spool each, processes of one machine share theirs.
func (w *env) startInSlot(i int) (*process, *httptest.Server) {
	w.Helper()
	door := httptest.NewServer(w.server.Config.Handler)
	w.Cleanup(door.Close)
	name := "data"
	if w.database != nil {
		name = fmt.Sprint("data-", i)
	}
	upstream := fmt.Sprintf("upstream: {api_url: %[1]q, auth_url: %[1]q, proxy_url: %q}", w.server.URL, door.URL)
	settings := replaceLine(w.settings, "upstream:", upstream) + w.dataLine(name)
	return w.startWith(w.write(fmt.Sprintf("slot-%d.yaml", i), settings)), door
}

// footprint is what a process takes of the system.
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
