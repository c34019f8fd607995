package faults

import (
	"net/http"
	"syscall"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// pausedPastLease is F13P: another replica takes the lease of a paused one. If the
// server has not seen the token, it refreshes. If the server may have responded, it
// waits for the lease owner, which saves its pair.
func pausedPastLease(r *run) {
	half := max(1, r.trials/2)
	for _, when := range []string{simulator.BeforeCommit, simulator.AfterCommit} {
		r.variant(when, func(r *run) {
			r.Parallel()
			// The server rejects a used token without revoking the grant: the proxy cannot
			// prevent that a request of the paused process arrives late.
			w := r.newEnv(simulator.Settings{OAuth: simulator.OAuthSettings{Reuse: "reject"}},
				`proxy: {listen: "127.0.0.1:0", credential_wait: 3s}`)
			before, connections := w.connectExpired(1), w.connectExpired(half)
			owner, other := w.serve(), w.replica(1)
			w.checkWorking(owner, before) // now introspection is trusted
			for batch := connections; len(batch) > 0; {
				n := min(len(batch), maxConcurrentRefreshes)
				w.pausePastLease(owner, other, when, batch[:n])
				batch = batch[n:]
			}
			w.checkWorking(owner, connections)
			w.checkWorking(other, connections)
			for _, l := range connections {
				if v := other.version(l); v != 2 {
					r.violation("%s has version %d after one refresh, want 2", l.name, v)
				}
			}
			owner.stop()
			other.stop()
			w.finish(len(connections))
		})
	}
}

func (w *env) pausePastLease(owner, other *process, when string, connections []connection) {
	w.Helper()
	for _, l := range connections {
		w.fault(simulator.Fault{Kind: "hang", When: when, Grant: l.grant.ID, Count: 1})
	}
	pending := owner.sendAll(connections)
	phase := simulator.PhaseReceived
	if when == simulator.AfterCommit {
		phase = simulator.PhaseCommitted
	}
	for _, l := range connections {
		w.await(phase, l)
	}
	owner.pause()
	time.Sleep(leaseDuration + time.Second) // the pause is what is tested
	for i, c := range other.sendAll(connections) {
		a := <-c
		if when == simulator.BeforeCommit && a.status == http.StatusServiceUnavailable {
			a = other.getUntil(connections[i], isFinal)
		}
		if want := map[string]int{simulator.BeforeCommit: 200, simulator.AfterCommit: 503}[when]; a.status != want {
			w.violation("%s: %d %s while the lease owner is paused past its lease, want %d\n%s",
				connections[i].name, a.status, a.body, want, other.log)
		}
	}
	owner.signal(syscall.SIGCONT)
	w.sim.ClearFaults()
	for i, c := range pending {
		// The clients of the lease owner may have reached credential_wait.
		if a := <-c; a.status != http.StatusOK && a.status != http.StatusServiceUnavailable {
			w.violation("%s: %d %s, want 200 or 503", connections[i].name, a.status, a.body)
		}
	}
	for _, l := range connections {
		for _, p := range []*process{owner, other} {
			if a := p.getUntil(l, isFinal); a.status != http.StatusOK {
				w.row.update(func(r *row) { r.Lost++ })
				w.violation("%s: %d %s, want 200\n%s", l.name, a.status, a.body, p.log)
			}
		}
	}
}
