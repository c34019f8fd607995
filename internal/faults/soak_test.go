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

// massRefusal is F27: when many connections are refused at once, the tokens of
// the others are not spent. That it recovers by itself, after 10 minutes, is
// tested in virtual time (internal/refresh).
func massRefusal(r *run) {
	w := r.world(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 1s}`)
	links := w.expired(r.trials)
	w.fault(simulator.Fault{Kind: "status", Status: 400, Body: `{"error":"invalid_grant"}`})
	p := w.serve()
	for i, c := range p.askAll(links) {
		if a := <-c; a.status != http.StatusUnauthorized && a.status != http.StatusServiceUnavailable {
			r.wrong("%s: %d %s, want 401 or 503", links[i].name, a.status, a.body)
		}
	}
	presented := 0
	for _, n := range w.sim.Counters().TokenRequests {
		presented += n
	}
	if presented > 20 {
		r.wrong("%d tokens were presented before the brake held, want at most 20", presented)
	}
	if got := p.metric("pleo_mass_refusal"); got != 1 {
		r.wrong("pleo_mass_refusal is %v, want 1", got)
	}
	ended := p.metric(`pleo_connections{kind="oauth",status="reauthorization_required"}`)
	r.row.add(func(row *row) {
		row.Lost += int(ended)
		row.Note = fmt.Sprintf("%d tokens presented", presented)
	})
	p.stop()
	w.tally(len(links))
}

// soak is row S: three processes, one of them killed every 10 seconds while no
// answer is on its way.
func soak(r *run) {
	const every = 10 * time.Second
	w := r.world(simulator.Settings{}, `log: {level: warn}`)
	links := w.connect(10, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(5 * time.Second)}, time.Time{})
	var slots [3]atomic.Pointer[process]
	for i := range slots {
		slots[i].Store(w.oneOf(i))
	}
	clients, stop := context.WithCancel(r.Context())
	var running sync.WaitGroup
	for i := range slots {
		for _, l := range links {
			running.Go(func() { w.soakClient(clients, &slots[i], l) })
		}
	}
	time.Sleep(every) // the soak is this: time
	before := slots[0].Load().footprint()
	for range r.trials {
		time.Sleep(every)
		i := 1 + rand.IntN(2)
		w.killQuietly(i, &slots[i])
	}
	stop()
	running.Wait()
	steady := slots[0].Load() // never killed
	after := steady.footprint()
	r.row.add(func(row *row) { row.Note = fmt.Sprintf("before %v; after %v", before, after) })
	if after.descriptors > before.descriptors+20 || after.goroutines > before.goroutines+20 || after.memory > before.memory*1.5+16<<20 {
		r.wrong("the process grows: before %v, after %v", before, after)
	}
	w.kept(steady, links)
	for i := range slots {
		slots[i].Load().stop()
	}
	w.tally(r.trials)
}

// soakClient is a client of whatever process is in the slot. Requests under way
// when that is killed have no answer.
func (w *world) soakClient(ctx context.Context, slot *atomic.Pointer[process], l link) {
	for ctx.Err() == nil {
		p := slot.Load()
		a := p.getPath(w.Context(), l, "/v1/companies")
		if a.status != http.StatusOK && (a.status != 0 || !p.dying()) {
			w.wrong("%s: %d %s, want 200\n%s", l.name, a.status, a.body, p.log)
		}
		time.Sleep(50 * time.Millisecond) // a client has other things to do
	}
}

// dying reports whether the process ends, which takes the kernel a moment.
func (p *process) dying() bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// killQuietly kills the process in the slot at a moment when nothing has been
// committed that is not durable, and puts another in its place.
func (w *world) killQuietly(i int, slot *atomic.Pointer[process]) {
	w.Helper()
	w.fault(simulator.Fault{Kind: "hang", Abandon: true}) // before the commit
	time.Sleep(200 * time.Millisecond)                    // what was committed before is answered and durable by then
	slot.Load().kill()
	time.Sleep(200 * time.Millisecond) // the simulator notices who has left
	w.sim.ClearFaults()
	slot.Store(w.oneOf(i))
}

// oneOf starts the process of a slot: replicas have a spool each, processes of one
// machine share theirs.
func (w *world) oneOf(i int) *process {
	w.Helper()
	if w.database != nil {
		return w.replica(i)
	}
	return w.serve()
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
