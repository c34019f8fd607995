package faults

import (
	"io"
	"log"
	"net/http"
	"syscall"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// silent is a log for what a server says about clients that fail on purpose.
func silent() *log.Logger { return log.New(io.Discard, "", 0) }

// paused is F13: a process that stands still keeps its leases, however long, and
// what it was about to save is saved when it goes on.
func paused(r *run) {
	half := max(1, r.trials/2)
	for _, when := range []string{simulator.BeforeCommit, simulator.AfterCommit} {
		r.variant(when, func(r *run) {
			r.Parallel()
			w := r.world(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 1s}`)
			links := w.expired(half)
			holder, other := w.serve(), w.serve()
			for batch := links; len(batch) > 0; {
				n := min(len(batch), atOnce)
				w.pauseBetween(holder, other, when, batch[:n])
				batch = batch[n:]
			}
			w.kept(holder, links)
			w.kept(other, links)
			holder.stop()
			other.stop()
			w.tally(len(links))
		})
	}
}

// pauseBetween pauses the holder while it refreshes the links, and lets the
// other process want them meanwhile.
func (w *world) pauseBetween(holder, other *process, when string, links []link) {
	w.Helper()
	w.fault(simulator.Fault{Kind: "hang", When: when})
	answers := holder.askAll(links)
	phase := simulator.PhaseReceived
	if when == simulator.AfterCommit {
		phase = simulator.PhaseCommitted
	}
	for _, l := range links {
		w.await(phase, l)
	}
	holder.pause()
	w.sim.ClearFaults()
	for _, c := range other.askAll(links) {
		if a := <-c; a.status != http.StatusServiceUnavailable {
			w.wrong("while the owner of the refresh stood still: %d %s, want 503", a.status, a.body)
		}
	}
	holder.signal(syscall.SIGCONT)
	for i, c := range answers {
		// The owner's clients have waited longer than they want to.
		if a := <-c; a.status != http.StatusOK && a.status != http.StatusServiceUnavailable {
			w.wrong("%s: %d %s, want 200 or 503", links[i].name, a.status, a.body)
		}
	}
	for _, l := range links {
		if a := other.until(l, final); a.status != http.StatusOK {
			w.wrong("%s: %d %s, want 200\n%s", l.name, a.status, a.body, other.log)
		}
	}
}
