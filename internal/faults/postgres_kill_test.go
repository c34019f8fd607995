package faults

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// replicaKilledBeforeCommit is F1P: another replica takes the refresh over once
// the lease of the dead one has ended.
func replicaKilledBeforeCommit(r *run) {
	r.parallelEnvs(4, func(r *run) {
		w := r.newEnv(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 40s}`)
		connections := w.connectExpired(r.trials)
		heir := w.serve()
		for n, batch := 1, connections; len(batch) > 0; n++ {
			some := batch[:min(len(batch), 10)]
			batch = batch[len(some):]
			holder := w.replica(n)
			for _, l := range some {
				w.fault(simulator.Fault{Kind: "hang", Abandon: true, Grant: l.grant.ID})
			}
			pending := holder.sendAll(some)
			for _, l := range some {
				w.await(simulator.PhaseReceived, l)
			}
			holder.kill()
			killed := time.Now()
			for i, l := range some {
				<-pending[i]
				w.await(simulator.PhaseResponded, l) // the simulator has seen that nobody waits
			}
			w.sim.ClearFaults()
			w.checkTakenOver(heir, some, killed, leaseLife)
		}
		w.checkWorking(heir, connections)
		heir.stop()
		w.finish(len(connections))
	})
}

// checkTakenOver checks that the heir serves all links within a time after a replica
// was killed, and notes how long it took at most.
func (w *env) checkTakenOver(heir *process, connections []connection, killed time.Time, within time.Duration) {
	w.Helper()
	const margin = 3 * time.Second // for the refreshes themselves, beside all other faults
	for i, c := range heir.sendAll(connections) {
		a := <-c
		if a.status == http.StatusServiceUnavailable {
			a = heir.getUntil(connections[i], isFinal)
		}
		if took := time.Since(killed); a.status != http.StatusOK || took > within+margin {
			w.violation("%s: %d %s %v after its refresher was killed, want 200 within %v\n%s",
				connections[i].name, a.status, a.body, took, within, heir.log)
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

// replicaKilledAfterCommit is F2P. The spool of a replica that is gone may hold
// the successor, so the others wait for it; when it is back, it knows better.
func replicaKilledAfterCommit(r *run) {
	r.parallelEnvs((r.trials+belowBreakerLimit-1)/belowBreakerLimit, func(r *run) {
		w := r.newEnv(simulator.Settings{})
		before, connections := w.connectExpired(1), w.connectExpired(r.trials)
		p, other := w.serve(), w.replica(1)
		w.checkWorking(p, before) // and introspection has proven itself
		w.killAfterCommits(p, connections)
		for i, c := range other.sendAll(connections) {
			if a := <-c; a.status != http.StatusServiceUnavailable {
				r.violation("%s: %d %s, want 503 while its owner may come back", connections[i].name, a.status, a.body)
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

// replicaKilledSoonAfterCommit is F3P: what is 50 ms old is in the database or in
// the spool. Several replicas are killed at a time, each with one refresh.
func replicaKilledSoonAfterCommit(r *run) {
	delays := []int{0, 10, 25, 50, 100} // milliseconds
	w := r.newEnv(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 40s}`)
	first := w.connectExpired(1)
	survivor := w.serve()
	w.checkWorking(survivor, first) // and introspection has proven itself
	rounds, lost, again := max(1, r.trials/len(delays)), map[int]int{}, 0
	for n := 0; n < rounds; {
		gone, stood := w.killRound(survivor, delays)
		if stood && again < rounds {
			again++ // what was lost then may be the machine's fault
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

// killRound kills a replica for each delay, that long after the commit of its
// refresh, and starts it again. It returns at which delays the pair was lost, and
// whether the machine stood still meanwhile.
func (w *env) killRound(survivor *process, delays []int) (lost []int, stood bool) {
	w.Helper()
	connections := w.connectExpired(len(delays))
	victims := make([]*process, len(delays))
	for i := range victims {
		victims[i] = w.replica(i + 1)
	}
	machine := w.watchMachine()
	for i, l := range connections {
		pending := victims[i].sendAsync(l)
		committed := w.await(simulator.PhaseCommitted, l)
		time.Sleep(time.Until(committed.Time.Add(time.Duration(delays[i]) * time.Millisecond))) // the moment is the fault
		victims[i].kill()
		<-pending
	}
	stood = machine() > 20*time.Millisecond
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
		w.violation("pairs are left in the spools: %q", pairs)
	}
	return lost, stood
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
		parts = append(parts, fmt.Sprintf("%d rounds done again, as the disk took 20 ms for a byte", again))
	}
	w.row.update(func(r *row) { r.Note = strings.Join(parts, "; ") })
}

// leaseOwnerKilled is F12P: the lease of a dead holder ends by the database's clock.
// Introspection says that its token is good still; without it, nobody knows until
// the longest time for an answer has passed.
func leaseOwnerKilled(r *run) {
	for _, test := range []struct {
		name   string
		oauth  simulator.OAuthSettings
		within time.Duration
	}{
		{"introspection", simulator.OAuthSettings{}, leaseLife},
		{"no introspection", simulator.OAuthSettings{Introspection: "absent"}, leaseLife + time.Minute},
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
	heir := w.serve()
	for n, batch := 1, connections; len(batch) > 0; n++ {
		some := batch[:min(len(batch), 10)]
		batch = batch[len(some):]
		holder := w.replica(n)
		w.checkWorking(holder, some) // which it refreshes again when their time has come
		g.stop()
		if !eventually(eventTimeout, func() bool { return w.intents() == len(some) }) {
			r.Fatalf("%d refreshes have begun, want %d:\n%s", w.intents(), len(some), holder.log)
		}
		holder.kill()
		killed := time.Now()
		g.allow()
		time.Sleep(life) // getUntil the heir cannot do with what there is
		w.checkTakenOver(heir, some, killed, within)
	}
	w.checkWorking(heir, connections)
	heir.stop()
	w.finish(len(connections))
}
