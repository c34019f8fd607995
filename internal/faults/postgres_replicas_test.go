package faults

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// refreshedElsewhere is F10P: a replica whose token in memory is no longer valid uses the
// pair that another replica has obtained.
func refreshedElsewhere(r *run) {
	w := r.newEnv(simulator.Settings{})
	connections := w.connectValid(r.trials)
	replicas := w.replicas()
	for _, p := range replicas {
		w.checkWorking(p, connections)
	}
	for i, l := range connections {
		w.sim.KillAccessTokens(l.grant.ID, "")
		first, second := replicas[i%3], replicas[(i+1)%3]
		w.checkWorking(first, []connection{l})
		w.checkWorking(second, []connection{l})
	}
	w.checkRefreshedOnce(connections)
	for _, p := range replicas {
		p.stop()
	}
	w.finish(len(connections))
}

// allAtExpiry is F11P: three replicas with a hundred clients each, over enough refreshes
// that each replica makes some.
func allAtExpiry(r *run) {
	const count, clients, pause = 4, 25, 100 * time.Millisecond
	w := r.newEnv(simulator.Settings{}, `log: {level: warn}`)
	connections := w.connect(count, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(2 * time.Second)}, time.Time{})
	replicas := w.replicas()
	load := w.loadEvery(replicas, connections, clients, pause)
	began := time.Now()
	for w.sim.Counters().Refreshes < r.trials && time.Since(began) < 5*eventTimeout {
		time.Sleep(100 * time.Millisecond)
	}
	load.stop()
	sent := w.checkSends(load)
	c := w.sim.Counters()
	if c.Refreshes < r.trials {
		r.violation("%d refreshes in %v, want %d", c.Refreshes, time.Since(began), r.trials)
	}
	r.row.update(func(row *row) { row.Note = fmt.Sprintf("%d refreshes, %d requests", c.Refreshes, sent) })
	for _, p := range replicas {
		w.checkWorking(p, connections)
		p.stop()
	}
	w.finish(c.Refreshes)
}

// commitResponseLost is F16P: the database commits, and its response is lost.
func commitResponseLost(r *run) {
	w := r.newEnv(simulator.Settings{})
	connections := w.connectExpired(r.trials)
	p := w.serve()
	for i, l := range connections {
		w.fault(simulator.Fault{Kind: "hang", When: simulator.AfterCommit, Count: 1})
		pending := p.sendAsync(l)
		w.await(simulator.PhaseCommitted, l)
		var once sync.Once
		w.database.relay.LoseResponse(func(sent []byte) (lost bool) {
			if postgrestest.Commits(sent) {
				once.Do(func() { lost = true })
			}
			return lost
		})
		w.sim.ClearFaults()
		if a := <-pending; a.status != http.StatusOK {
			r.violation("%s: %d %s, want 200\n%s", l.name, a.status, a.body, p.log)
		}
		if i%2 == 1 {
			p.kill()
			p = w.serve()
		}
		w.checkSavedSoon(p, []connection{l})
		w.database.relay.LoseResponse(nil)
	}
	w.checkWorking(p, connections)
	w.checkRefreshedOnce(connections)
	for _, l := range connections {
		if v := p.version(l); v != 2 {
			r.violation("%s has version %d after one refresh, want 2", l.name, v)
		}
	}
	p.stop()
	w.finish(len(connections))
}

// databaseUnresponsive is F17P: requests with a valid token do not wait for the
// database.
func databaseUnresponsive(r *run) {
	const outage = 5 * time.Second
	w := r.newEnv(simulator.Settings{})
	connections := w.connectValid(4)
	p := w.serve()
	w.checkWorking(p, connections)
	slowest := time.Duration(0)
	for range r.trials {
		usual := w.p99(p, connections, outage)
		w.database.relay.Stall()
		silent := w.p99(p, connections, outage)
		w.database.relay.Restore()
		slowest = max(slowest, silent-usual)
	}
	r.row.update(func(row *row) { row.Note = fmt.Sprintf("p99 of requests: %+.1f ms", slowest.Seconds()*1000) })
	if slowest > 5*time.Millisecond {
		r.violation("requests with a token took %v longer (p99) while the database was unresponsive, want at most 5 ms", slowest)
	}
	w.checkWorking(p, connections)
	p.stop()
	w.finish(r.trials)
}

// p99 sends requests for a while and returns the 99th percentile of their response
// times.
func (w *env) p99(p *process, connections []connection, period time.Duration) time.Duration {
	w.Helper()
	var took []time.Duration
	for began := time.Now(); time.Since(began) < period; {
		for _, l := range connections {
			a := p.get(l)
			if a.status != http.StatusOK {
				w.violation("%s: %d %s, want 200", l.name, a.status, a.body)
			}
			took = append(took, a.took)
		}
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// spooledElsewhere is F28P: a replica has refreshed, is disconnected from the database,
// and has spooled the pair. Another takes its lease once that has expired, and does not
// send the used token.
func spooledElsewhere(r *run) {
	w := r.newEnv(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 3s}`)
	before, connections := w.connectExpired(1), w.connectExpired(r.trials)
	other := w.serve()
	w.checkWorking(other, before) // now introspection is trusted
	owner, network := w.replicaBehindRelay(1)
	for batch := connections; len(batch) > 0; {
		group := batch[:min(len(batch), 10)]
		batch = batch[len(group):]
		w.fault(simulator.Fault{Kind: "hang", When: simulator.AfterCommit})
		pending := owner.sendAll(group)
		for _, l := range group {
			w.await(simulator.PhaseCommitted, l)
		}
		network.Cut()
		w.sim.ClearFaults()
		for i, c := range pending {
			if a := <-c; a.status != http.StatusOK {
				r.violation("%s: %d %s of a disconnected replica, want 200 with the new token\n%s", group[i].name, a.status, a.body, owner.log)
			}
		}
		time.Sleep(leaseDuration + time.Second) // the outage is what is tested
		for i, c := range other.sendAll(group) {
			if a := <-c; a.status != http.StatusServiceUnavailable {
				r.violation("%s: %d %s while another replica has the pair, want 503", group[i].name, a.status, a.body)
			}
		}
		network.Restore()
		w.checkSavedSoon(other, group)
	}
	w.checkWorking(other, connections)
	w.checkWorking(owner, connections)
	w.checkRefreshedOnce(connections)
	owner.stop()
	other.stop()
	w.finish(len(connections))
}

// emptyStore is F29P: two replicas start at once on an empty database, each with its
// own keyset file. One creates keyset and store, and the other reports that it has
// another keyset. What is stored can be decrypted.
func emptyStore(r *run) {
	both := 0
	for range r.trials {
		w := r.newEnv(simulator.Settings{})
		var running sync.WaitGroup
		codes, outputs := make([]int, 2), make([]string, 2)
		for i := range codes {
			name := fmt.Sprint("data-", i+1)
			config := w.configIn(name, strings.ReplaceAll(w.settings, filepath.Join(w.dir, "keyset.json"), filepath.Join(w.dir, name+"-keyset.json")))
			running.Go(func() {
				cmd := exec.Command(*program, "--config", config, "connections", "add", name, "--kind", "oauth")
				cmd.Dir, cmd.Env = w.dir, []string{"HOME=" + w.dir}
				out, _ := cmd.CombinedOutput() // the exit code is checked below
				codes[i], outputs[i] = cmd.ProcessState.ExitCode(), string(out)
			})
		}
		running.Wait()
		slices.Sort(codes)
		if !slices.Equal(codes, []int{0, 2}) || !strings.Contains(strings.Join(outputs, ""), "keyset") {
			r.violation("exit codes %v, want one success and one error about the keyset:\n%s", codes, strings.Join(outputs, "\n"))
		}
		if codes[0] == 0 && codes[1] == 0 {
			both++
		}
	}
	r.row.update(func(row *row) {
		row.Trials += r.trials
		row.Note = fmt.Sprintf("the other failed in %d", r.trials-both)
	})
}
