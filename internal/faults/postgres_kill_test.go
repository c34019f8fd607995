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
	r.spread(4, func(r *run) {
		w := r.world(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 40s}`)
		links := w.expired(r.trials)
		heir := w.serve()
		for n, batch := 1, links; len(batch) > 0; n++ {
			some := batch[:min(len(batch), 10)]
			batch = batch[len(some):]
			holder := w.replica(n)
			for _, l := range some {
				w.fault(simulator.Fault{Kind: "hang", Abandon: true, Grant: l.grant.ID})
			}
			asked := holder.askAll(some)
			for _, l := range some {
				w.await(simulator.PhaseReceived, l)
			}
			holder.kill()
			killed := time.Now()
			for i, l := range some {
				<-asked[i]
				w.await(simulator.PhaseAnswered, l) // the simulator has seen that nobody waits
			}
			w.sim.ClearFaults()
			w.takenOver(heir, some, killed, leaseLife)
		}
		w.kept(heir, links)
		heir.stop()
		w.tally(len(links))
	})
}

// takenOver checks that the heir serves all links within a time after a replica
// was killed, and notes how long it took at most.
func (w *world) takenOver(heir *process, links []link, killed time.Time, within time.Duration) {
	w.Helper()
	const margin = 3 * time.Second // for the refreshes themselves, beside all other faults
	for i, c := range heir.askAll(links) {
		a := <-c
		if a.status == http.StatusServiceUnavailable {
			a = heir.until(links[i], final)
		}
		if took := time.Since(killed); a.status != http.StatusOK || took > within+margin {
			w.wrong("%s: %d %s %v after its refresher was killed, want 200 within %v\n%s",
				links[i].name, a.status, a.body, took, within, heir.log)
		}
	}
	took := time.Since(killed)
	w.row.add(func(r *row) {
		if took > r.longest {
			r.longest = took
			r.Note = fmt.Sprintf("taken over within %.1f s", took.Seconds())
		}
	})
}

// replicaKilledWithoutAnswer is F2P. The spool of a replica that is gone may hold
// the successor, so the others wait for it; when it is back, it knows better.
func replicaKilledWithoutAnswer(r *run) {
	r.spread((r.trials+fewLost-1)/fewLost, func(r *run) {
		w := r.world(simulator.Settings{})
		before, links := w.expired(1), w.expired(r.trials)
		p, other := w.serve(), w.replica(1)
		w.kept(p, before) // and introspection has proven itself
		w.killWithoutAnswers(p, links)
		for i, c := range other.askAll(links) {
			if a := <-c; a.status != http.StatusServiceUnavailable {
				r.wrong("%s: %d %s, want 503 while its owner may come back", links[i].name, a.status, a.body)
			}
		}
		p = w.serve()
		w.settled(p, links)
		w.ended(p, links)
		p.stop()
		other.stop()
		w.tally(len(links))
	})
}

// replicaKilledSoonAfterCommit is F3P: what is 50 ms old is in the database or in
// the spool. Several replicas are killed at a time, each with one refresh.
func replicaKilledSoonAfterCommit(r *run) {
	delays := []int{0, 10, 25, 50, 100} // milliseconds
	w := r.world(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 40s}`)
	first := w.expired(1)
	survivor := w.serve()
	w.kept(survivor, first) // and introspection has proven itself
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
	w.tally(rounds * len(delays))
	w.reportReplicaLosses(delays, lost, rounds, again)
}

// killRound kills a replica for each delay, that long after the commit of its
// refresh, and starts it again. It returns at which delays the pair was lost, and
// whether the machine stood still meanwhile.
func (w *world) killRound(survivor *process, delays []int) (lost []int, stood bool) {
	w.Helper()
	links := w.expired(len(delays))
	victims := make([]*process, len(delays))
	for i := range victims {
		victims[i] = w.replica(i + 1)
	}
	machine := w.watchMachine()
	for i, l := range links {
		asked := victims[i].ask(l)
		committed := w.await(simulator.PhaseCommitted, l)
		time.Sleep(time.Until(committed.Time.Add(time.Duration(delays[i]) * time.Millisecond))) // the moment is the fault
		victims[i].kill()
		<-asked
	}
	stood = machine() > 20*time.Millisecond
	for i := range victims {
		victims[i] = w.replica(i + 1)
	}
	for i, c := range survivor.askAll(links) {
		a := <-c
		if a.status == http.StatusServiceUnavailable {
			a = victims[i].until(links[i], final)
		}
		if a.status != http.StatusOK {
			lost = append(lost, delays[i])
		}
		victims[i].stop()
	}
	if pairs := w.spooledPairs(); len(pairs) > 0 {
		w.wrong("pairs are left in the spools: %q", pairs)
	}
	return lost, stood
}

func (w *world) reportReplicaLosses(delays []int, lost map[int]int, each, again int) {
	w.Helper()
	var parts []string
	for _, d := range delays {
		if lost[d] == 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("%d ms: %d of %d lost", d, lost[d], each))
		w.row.add(func(r *row) { r.Lost += lost[d] })
		if d >= 50 {
			w.wrong("%d of %d were lost %d ms after the commit", lost[d], each, d)
		}
	}
	if again > 0 {
		parts = append(parts, fmt.Sprintf("%d rounds done again, as the disk took 20 ms for a byte", again))
	}
	w.row.add(func(r *row) { r.Note = strings.Join(parts, "; ") })
}

// holderKilled is F12P: the lease of a dead holder ends by the database's clock.
// Introspection says that its token is good still; without it, nobody knows until
// the longest time for an answer has passed.
func holderKilled(r *run) {
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
			r.spread(2, func(r *run) { r.killHolders(test.oauth, test.within) })
		})
	}
}

func (r *run) killHolders(oauth simulator.OAuthSettings, within time.Duration) {
	var g *gate
	w := r.worldWith(simulator.Config{Settings: simulator.Settings{OAuth: oauth}}, behindGate(&g),
		`proxy: {listen: "127.0.0.1:0", credential_wait: 100s}`)
	const life = 3 * time.Second
	links := w.connect(r.trials, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(life)}, time.Unix(0, 0))
	heir := w.serve()
	for n, batch := 1, links; len(batch) > 0; n++ {
		some := batch[:min(len(batch), 10)]
		batch = batch[len(some):]
		holder := w.replica(n)
		w.kept(holder, some) // which it refreshes again when their time has come
		g.stop()
		if !eventually(patience, func() bool { return w.intents() == len(some) }) {
			r.Fatalf("%d refreshes have begun, want %d:\n%s", w.intents(), len(some), holder.log)
		}
		holder.kill()
		killed := time.Now()
		g.let()
		time.Sleep(life) // until the heir cannot do with what there is
		w.takenOver(heir, some, killed, within)
	}
	w.kept(heir, links)
	heir.stop()
	w.tally(len(links))
}
