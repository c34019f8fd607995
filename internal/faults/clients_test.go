package faults

import (
	"context"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// clientLeaves is F6: the refresh goes on without the client that caused it.
func clientLeaves(r *run) {
	w := r.world(simulator.Settings{})
	links := w.expired(r.trials)
	p := w.serve()
	for batch := links; len(batch) > 0; {
		n := min(len(batch), 50) // refreshes on demand at once
		w.leave(p, batch[:n])
		batch = batch[n:]
	}
	w.kept(p, links)
	p.stop()
	w.tally(len(links))
}

// leave sends a request for each link and leaves while its refresh is under way.
func (w *world) leave(p *process, links []link) {
	w.Helper()
	w.fault(simulator.Fault{Kind: "hang", When: simulator.AfterCommit})
	ctx, leave := context.WithCancel(w.Context())
	answers := make(chan answer, len(links))
	for _, l := range links {
		go func() { answers <- p.getPath(ctx, l, "/v1/companies") }()
	}
	for _, l := range links {
		w.await(simulator.PhaseCommitted, l)
	}
	leave()
	for range links {
		<-answers
	}
	w.sim.ClearFaults()
}
