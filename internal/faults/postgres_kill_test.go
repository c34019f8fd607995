package faults

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// replicaKilledBeforeCommit is F1P: another replica refreshes once the lease of the
// killed one has expired.
func replicaKilledBeforeCommit(r *run) {
	r.parallelEnvs(4, func(r *run) {
		w := r.newEnv(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 40s}`)
		connections := w.connectExpired(r.trials)
		successor := w.serve()
		for n, batch := 1, connections; len(batch) > 0; n++ {
			group := batch[:min(len(batch), 10)]
			batch = batch[len(group):]
			owner := w.replica(n)
			for _, l := range group {
				w.fault(simulator.Fault{Kind: "hang", Abandon: true, Grant: l.grant.ID})
			}
			pending := owner.sendAll(group)
			for _, l := range group {
				w.await(simulator.PhaseReceived, l)
			}
			owner.kill()
			killed := time.Now()
			for i, l := range group {
				<-pending[i]
				w.await(simulator.PhaseResponded, l) // the simulator has noticed the closed connection
			}
			w.sim.ClearFaults()
			w.checkTakenOver(successor, group, killed, leaseDuration)
		}
		w.checkWorking(successor, connections)
		successor.stop()
		w.finish(len(connections))
	})
}

// checkTakenOver checks that another replica serves all connections within a time
// after one was killed, and records the longest time.
func (w *env) checkTakenOver(successor *process, connections []connection, killed time.Time, within time.Duration) {
	w.Helper()
	const margin = 3 * time.Second // for the refreshes, while other faults run
	for i, c := range successor.sendAll(connections) {
		a := <-c
		if a.status == http.StatusServiceUnavailable {
			a = successor.getUntil(connections[i], isFinal)
		}
		if took := time.Since(killed); a.status != http.StatusOK || took > within+margin {
			w.violation("%s: %d %s %v after the lease owner was killed, want 200 within %v\n%s",
				connections[i].name, a.status, a.body, took, within, successor.log)
		}
	}
	took := time.Since(killed)
	w.row.update(func(r *row) {
		if took > r.longest {
			r.longest = took
			r.Note = fmt.Sprintf("taken over within %.1f s", took.Seconds())
		}
	})
}

// replicaKilledAfterCommit is F2P. The spool of the killed replica may have the
// successor, so the others wait until it is back.
func replicaKilledAfterCommit(r *run) {
	r.parallelEnvs((r.trials+belowBreakerLimit-1)/belowBreakerLimit, func(r *run) {
		w := r.newEnv(simulator.Settings{})
		before, connections := w.connectExpired(1), w.connectExpired(r.trials)
		p, other := w.serve(), w.replica(1)
		w.checkWorking(p, before) // now introspection is trusted
		w.killAfterCommits(p, connections)
		for i, c := range other.sendAll(connections) {
			if a := <-c; a.status != http.StatusServiceUnavailable {
				r.violation("%s: %d %s, want 503 while the lease owner may return", connections[i].name, a.status, a.body)
			}
		}
		p = w.serve()
		w.awaitFinal(p, connections)
		w.checkRejected(p, connections)
		p.stop()
		other.stop()
		w.finish(len(connections))
	})
}

// replicaKilledSoonAfterCommit is F3P: 50 ms after the commit a pair is in the database
// or in the spool. Several replicas are killed at a time, each with one refresh.
func replicaKilledSoonAfterCommit(r *run) {
	delays := []int{0, 10, 25, 50, 100} // milliseconds
	w := r.newEnv(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 40s}`)
	first := w.connectExpired(1)
	survivor := w.serve()
	w.checkWorking(survivor, first) // now introspection is trusted
	rounds, lost, again := max(1, r.trials/len(delays)), map[int]int{}, 0
	for n := 0; n < rounds; {
		gone, stalled := w.killRound(survivor, delays)
		if stalled && again < rounds {
			again++ // the stall of the machine may have caused losses
			continue
		}
		for _, delay := range gone {
			lost[delay]++
		}
		n++
	}
	survivor.stop()
	w.finish(rounds * len(delays))
	w.reportReplicaLosses(delays, lost, rounds, again)
}

// killRound kills a replica for each delay, that long after the commit of its refresh,
// and restarts it. It returns the delays for which the pair was lost, and whether the
// machine stalled meanwhile.
func (w *env) killRound(survivor *process, delays []int) (lost []int, stalled bool) {
	w.Helper()
	connections := w.connectExpired(len(delays))
	victims := make([]*process, len(delays))
	for i := range victims {
		victims[i] = w.replica(i + 1)
	}
	stopWatching := w.watchMachine()
	for i, l := range connections {
		pending := victims[i].sendAsync(l)
		committed := w.await(simulator.PhaseCommitted, l)
		time.Sleep(time.Until(committed.Time.Add(time.Duration(delays[i]) * time.Millisecond))) // the moment is what is tested
		victims[i].kill()
		<-pending
	}
	stalled = stopWatching() > 20*time.Millisecond
	for i := range victims {
		victims[i] = w.replica(i + 1)
	}
	for i, c := range survivor.sendAll(connections) {
		a := <-c
		if a.status == http.StatusServiceUnavailable {
			a = victims[i].getUntil(connections[i], isFinal)
		}
		if a.status != http.StatusOK {
			lost = append(lost, delays[i])
		}
		victims[i].stop()
	}
	if pairs := w.spooledPairs(); len(pairs) > 0 {
		w.violation("the spools contain pairs: %q", pairs)
	}
	return lost, stalled
}

func (w *env) reportReplicaLosses(delays []int, lost map[int]int, each, again int) {
	w.Helper()
	var parts []string
	for _, d := range delays {
		if lost[d] == 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("%d ms: %d of %d lost", d, lost[d], each))
		w.row.update(func(r *row) { r.Lost += lost[d] })
		if d >= 50 {
			w.violation("%d of %d were lost %d ms after the commit", lost[d], each, d)
		}
	}
	if again > 0 {
		parts = append(parts, fmt.Sprintf("%d rounds repeated, because writing one byte took 20 ms", again))
	}
	w.row.update(func(r *row) { r.Note = strings.Join(parts, "; ") })
}

// leaseOwnerKilled is F12P: the lease of the killed replica expires by the clock of the
// database. Introspection shows that its token is still active. Without introspection
// this is unknown until the response deadline has passed.
func leaseOwnerKilled(r *run) {
	for _, test := range []struct {
		name   string
		oauth  simulator.OAuthSettings
		within time.Duration
	}{
		{"introspection", simulator.OAuthSettings{}, leaseDuration},
		{"no introspection", simulator.OAuthSettings{Introspection: "absent"}, leaseDuration + time.Minute},
	} {
		r.variant(test.name, func(r *run) {
			r.Parallel()
			r.trials = max(1, r.trials/2)
			r.parallelEnvs(2, func(r *run) { r.killLeaseOwners(test.oauth, test.within) })
		})
	}
}

func (r *run) killLeaseOwners(oauth simulator.OAuthSettings, within time.Duration) {
	var g *gate
	w := r.newEnvWith(simulator.Config{Settings: simulator.Settings{OAuth: oauth}}, moveBehindGate(&g),
		`proxy: {listen: "127.0.0.1:0", credential_wait: 100s}`)
	const life = 3 * time.Second
	connections := w.connect(r.trials, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(life)}, time.Unix(0, 0))
	successor := w.serve()
	for n, batch := 1, connections; len(batch) > 0; n++ {
		group := batch[:min(len(batch), 10)]
		batch = batch[len(group):]
		owner := w.replica(n)
		w.checkWorking(owner, group) // which it refreshes again before they expire
		g.stop()
		if !eventually(eventTimeout, func() bool { return w.intents() == len(group) }) {
			r.Fatalf("%d refreshes have begun, want %d:\n%s", w.intents(), len(group), owner.log)
		}
		owner.kill()
		killed := time.Now()
		g.allow()
		time.Sleep(life) // until the access tokens have expired
		w.checkTakenOver(successor, group, killed, within)
	}
	w.checkWorking(successor, connections)
	successor.stop()
	w.finish(len(connections))
}
