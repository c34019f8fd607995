package faults

import (
	"io"
	"log"
	"net/http"
	"syscall"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// discardLogger is a log for what a server says about clients that fail on purpose.
func discardLogger() *log.Logger { return log.New(io.Discard, "", 0) }

// paused is F13: a process that stands still keeps its leases, however long, and
// what it was about to save is saved when it goes on.
func paused(r *run) {
	half := max(1, r.trials/2)
	for _, when := range []string{simulator.BeforeCommit, simulator.AfterCommit} {
		r.variant(when, func(r *run) {
			r.Parallel()
			w := r.newEnv(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 1s}`)
			connections := w.connectExpired(half)
			holder, other := w.serve(), w.serve()
			for batch := connections; len(batch) > 0; {
				n := min(len(batch), maxConcurrentRefreshes)
				w.pauseBetween(holder, other, when, batch[:n])
				batch = batch[n:]
			}
			w.checkWorking(holder, connections)
			w.checkWorking(other, connections)
			holder.stop()
			other.stop()
			w.finish(len(connections))
		})
	}
}

// pauseBetween pauses the holder while it refreshes the links, and lets the
// other process want them meanwhile.
func (w *env) pauseBetween(holder, other *process, when string, connections []connection) {
	w.Helper()
	w.fault(simulator.Fault{Kind: "hang", When: when})
	responses := holder.sendAll(connections)
	phase := simulator.PhaseReceived
	if when == simulator.AfterCommit {
		phase = simulator.PhaseCommitted
	}
	for _, l := range connections {
		w.await(phase, l)
	}
	holder.pause()
	w.sim.ClearFaults()
	for _, c := range other.sendAll(connections) {
		if a := <-c; a.status != http.StatusServiceUnavailable {
			w.violation("while the owner of the refresh stood still: %d %s, want 503", a.status, a.body)
		}
	}
	holder.signal(syscall.SIGCONT)
	for i, c := range responses {
		// The owner's clients have waited longer than they want to.
		if a := <-c; a.status != http.StatusOK && a.status != http.StatusServiceUnavailable {
			w.violation("%s: %d %s, want 200 or 503", connections[i].name, a.status, a.body)
		}
	}
	for _, l := range connections {
		if a := other.getUntil(l, isFinal); a.status != http.StatusOK {
			w.violation("%s: %d %s, want 200\n%s", l.name, a.status, a.body, other.log)
		}
	}
}
