package faults

import (
	"io"
	"log"
	"net/http"
	"syscall"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// discardLogger is for servers whose clients fail on purpose.
func discardLogger() *log.Logger { return log.New(io.Discard, "", 0) }

// paused is F13: a paused process keeps its leases, and saves its pairs when it
// continues.
func paused(r *run) {
	half := max(1, r.trials/2)
	for _, when := range []string{simulator.BeforeCommit, simulator.AfterCommit} {
		r.variant(when, func(r *run) {
			r.Parallel()
			w := r.newEnv(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 1s}`)
			connections := w.connectExpired(half)
			owner, other := w.serve(), w.serve()
			for batch := connections; len(batch) > 0; {
				n := min(len(batch), maxConcurrentRefreshes)
				w.pauseBetween(owner, other, when, batch[:n])
				batch = batch[n:]
			}
			w.checkWorking(owner, connections)
			w.checkWorking(other, connections)
			owner.stop()
			other.stop()
			w.finish(len(connections))
		})
	}
}

// pauseBetween pauses the lease owner while it refreshes the connections, and sends
// requests to the other process meanwhile.
func (w *env) pauseBetween(owner, other *process, when string, connections []connection) {
	w.Helper()
	w.fault(simulator.Fault{Kind: "hang", When: when})
	responses := owner.sendAll(connections)
	phase := simulator.PhaseReceived
	if when == simulator.AfterCommit {
		phase = simulator.PhaseCommitted
	}
	for _, l := range connections {
		w.await(phase, l)
	}
	owner.pause()
	w.sim.ClearFaults()
	for _, c := range other.sendAll(connections) {
		if a := <-c; a.status != http.StatusServiceUnavailable {
			w.violation("while the lease owner is paused: %d %s, want 503", a.status, a.body)
		}
	}
	owner.signal(syscall.SIGCONT)
	for i, c := range responses {
		// The clients of the lease owner may have reached credential_wait.
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
