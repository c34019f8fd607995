package faults

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// killedBeforeCommit is F1: the process is killed while its refresh token is in transit
// and the server has not committed.
func killedBeforeCommit(r *run) {
	r.parallelEnvs(3, func(r *run) {
		w := r.newEnv(simulator.Settings{})
		connections := w.connectExpired(r.trials)
		p := w.serve()
		for _, l := range connections {
			w.fault(simulator.Fault{Kind: "hang", Abandon: true, Grant: l.grant.ID, Count: 1})
			pending := p.sendAsync(l)
			w.await(simulator.PhaseReceived, l)
			p.kill()
			<-pending
			w.await(simulator.PhaseResponded, l) // the simulator has noticed the closed connection
			w.sim.ClearFaults()
			began := time.Now()
			p = w.serve()
			if a := p.get(l); a.status != http.StatusOK || time.Since(began) > r.timeLimit(2*time.Second) {
				r.violation("%v after the restart: %d %s, want 200 within 2 s\n%s", time.Since(began), a.status, a.body, p.log)
			}
		}
		w.checkWorking(p, connections)
		p.stop()
		w.finish(len(connections))
	})
}

// killedAfterCommit is F2: the successor is lost. With trusted introspection the token
// is not sent again, without it once.
func killedAfterCommit(r *run) {
	for name, settings := range map[string]simulator.OAuthSettings{
		"introspection":    {},
		"no introspection": {Introspection: "absent"},
	} {
		r.variant(name, func(r *run) {
			r.trials = max(1, r.trials/2)
			r.parallelEnvs((r.trials+belowBreakerLimit-1)/belowBreakerLimit, func(r *run) {
				w := r.newEnv(simulator.Settings{OAuth: settings})
				before, connections := w.connectExpired(1), w.connectExpired(r.trials)
				p := w.serve()
				w.checkWorking(p, before) // now introspection is trusted
				w.killAfterCommits(p, connections)
				p = w.serve()
				w.awaitFinal(p, connections)
				w.checkRejected(p, connections)
				p.stop()
				w.finish(len(connections))
			})
		})
	}
}

// killAfterCommits kills the process when the server has committed all refreshes and
// has not responded.
func (w *env) killAfterCommits(p *process, connections []connection) {
	w.Helper()
	w.fault(simulator.Fault{Kind: "hang", When: simulator.AfterCommit})
	responses := p.sendAll(connections)
	for _, l := range connections {
		w.await(simulator.PhaseCommitted, l)
	}
	p.kill()
	for _, a := range responses {
		<-a
	}
	w.sim.ClearFaults()
}

// checkRejected checks that requests of lost connections fail at once, and that their
// tokens are never sent again.
func (w *env) checkRejected(p *process, connections []connection) {
	w.Helper()
	before := w.sim.Counters().TokenRequests
	for _, l := range connections {
		best := time.Hour
		for range 5 {
			a := p.get(l)
			if a.code() != "reauthorization_required" {
				w.violation("%s: %d %s, want the 401 of the proxy", l.name, a.status, a.body)
			}
			best = min(best, a.took)
		}
		if best > 50*time.Millisecond {
			w.violation("%s: the 401 of the proxy took %v, want at most 50 ms", l.name, best)
		}
	}
	if after := w.sim.Counters().TokenRequests; fmt.Sprint(after) != fmt.Sprint(before) {
		w.violation("revoked grants caused token requests: %v before, %v after", before, after)
	}
}

// killedSoonAfterCommit is F3. After 20 ms a pair is durable, unless the machine itself
// stalls for that long; such trials are repeated.
func killedSoonAfterCommit(r *run) {
	delays := []int{0, 1, 2, 3, 5, 10, 20, 30, 40, 50} // milliseconds
	each := max(1, r.trials/len(delays))
	w := r.newEnv(simulator.Settings{})
	first := w.connectExpired(1)
	p := w.serve()
	w.checkWorking(p, first) // now introspection is trusted
	lost, again := map[int]int{}, 0
	for _, delay := range delays {
		for _, l := range w.connectExpired(each) {
			kept, stalled := w.killAfter(&p, l, time.Duration(delay)*time.Millisecond)
			for ; !kept && delay >= 20 && stalled && again < r.trials; again++ {
				kept, stalled = w.killAfter(&p, w.connectExpired(1)[0], time.Duration(delay)*time.Millisecond)
			}
			if !kept {
				lost[delay]++
			}
		}
	}
	p.stop()
	w.finish(each * len(delays))
	w.reportLosses(delays, lost, each, again)
}

// killAfter kills the process some time after the server's commit and restarts it. It
// reports whether the pair was kept, and whether the machine stalled meanwhile.
func (w *env) killAfter(p **process, l connection, delay time.Duration) (kept, stalled bool) {
	w.Helper()
	stopWatching := w.watchMachine()
	pending := (*p).sendAsync(l)
	committed := w.await(simulator.PhaseCommitted, l)
	time.Sleep(time.Until(committed.Time.Add(delay))) // the moment is what is tested
	(*p).kill()
	stalled = stopWatching() > 10*time.Millisecond
	<-pending
	*p = w.serve()
	kept = (*p).getUntil(l, isFinal).status == http.StatusOK
	w.checkSpoolEmpty(*p)
	return kept, stalled
}

// watchMachine writes and syncs a small file every few milliseconds. stop ends that and
// returns the longest time that it took, without the pause: a disk that is slow for this
// file is slow for the program.
func (w *env) watchMachine() (stop func() time.Duration) {
	file, err := os.Create(filepath.Join(w.dir, "canary"))
	if err != nil {
		w.Fatal(err)
	}
	end, slowest := make(chan struct{}), make(chan time.Duration)
	go func() {
		defer func() { _ = file.Close() }()
		const pause = 3 * time.Millisecond
		most := time.Duration(0)
		for began := time.Now(); ; began = time.Now() {
			time.Sleep(pause)
			_, err := file.WriteAt([]byte("x"), 0)
			if errors.Join(err, file.Sync()) != nil {
				most = time.Hour
			}
			most = max(most, time.Since(began)-pause)
			select {
			case <-end:
				slowest <- most
				return
			default:
			}
		}
	}()
	return func() time.Duration { close(end); return <-slowest }
}

// reportLosses counts the losses by delay.
func (w *env) reportLosses(delays []int, lost map[int]int, each, again int) {
	w.Helper()
	var parts []string
	for _, d := range delays {
		if lost[d] == 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("%d ms: %d of %d lost", d, lost[d], each))
		w.row.update(func(r *row) { r.Lost += lost[d] })
		if d >= 20 {
			w.violation("%d of %d were lost %d ms after the commit", lost[d], each, d)
		}
	}
	if again > 0 {
		parts = append(parts, fmt.Sprintf("%d trials repeated, because writing one byte took 10 ms", again))
	}
	w.row.update(func(r *row) { r.Note = strings.Join(parts, "; ") })
}

// checkSpoolEmpty checks that a restarted process has saved what its predecessor left:
// the spool has no pair, and no record could not be decrypted. Empty records that were
// reserved may remain.
func (w *env) checkSpoolEmpty(p *process) {
	w.Helper()
	if !eventually(10*time.Second, func() bool { return len(w.spooledPairs()) == 0 }) {
		w.violation("the spool contains pairs: %q\n%s", w.spooledPairs(), p.log)
	}
	if log := p.log.String(); strings.Contains(log, `"level":"error"`) && !strings.Contains(log, "reauthorization required") {
		w.violation("the restarted process logs errors:\n%s", log)
	}
}

// spooledPairs lists the records of the spool with a pair, or with a part of one.
func (w *env) spooledPairs() []string {
	w.Helper()
	records, err := filepath.Glob(filepath.Join(w.dir, "data*", "spool", "*.pair"))
	if err != nil {
		w.Fatal(err)
	}
	return slices.DeleteFunc(records, func(path string) bool {
		record, err := os.ReadFile(path)
		const header = 512
		return err != nil || len(record) <= header || len(bytes.Trim(record[header:], "\x00")) == 0
	})
}

// terminated is F7. The response arrives while the process shuts down.
func terminated(r *run) {
	r.variant("response at once", func(r *run) {
		r.Parallel()
		r.terminateDuringRefresh()
	})
	for name, late := range map[string]struct{ response, exit time.Duration }{
		"response after 24 s": {24 * time.Second, 30 * time.Second},
		"response after 55 s": {55 * time.Second, 90 * time.Second},
	} {
		r.variant(name, func(r *run) {
			r.Parallel()
			w := r.newEnv(simulator.Settings{})
			connections := w.connectExpired(3)
			p := w.serve()
			w.fault(simulator.Fault{Kind: "delay", When: simulator.AfterCommit, Delay: simulator.Duration(late.response)})
			p.sendAll(connections)
			for _, l := range connections {
				w.await(simulator.PhaseCommitted, l)
			}
			began := time.Now()
			p.stop()
			if took := time.Since(began); took > late.exit {
				r.violation("the process exited %v after SIGTERM, want at most %v", took, late.exit)
			}
			w.sim.ClearFaults()
			p = w.serve()
			w.checkWorking(p, connections)
			p.stop()
			w.finish(len(connections))
		})
	}
}

// terminateDuringRefresh sends SIGTERM twice while a refresh is in flight, before or
// after the server's commit.
func (r *run) terminateDuringRefresh() {
	w := r.newEnv(simulator.Settings{})
	connections := w.connectExpired(r.trials)
	for i, l := range connections {
		when, phase := simulator.BeforeCommit, simulator.PhaseReceived
		if i%2 == 1 {
			when, phase = simulator.AfterCommit, simulator.PhaseCommitted
		}
		p := w.serve()
		w.fault(simulator.Fault{Kind: "hang", When: when, Count: 1})
		pending := p.sendAsync(l)
		w.await(phase, l)
		p.signal(syscall.SIGTERM)
		if !eventually(10*time.Second, func() bool { return p.operator("/readyz").status == http.StatusServiceUnavailable }) {
			r.violation("/readyz does not report the shutdown")
		}
		p.signal(syscall.SIGTERM)
		w.sim.ClearFaults()
		p.awaitExit()
		if a := <-pending; a.status != http.StatusOK {
			r.violation("the request in flight got %d %s, want 200", a.status, a.body)
		}
	}
	p := w.serve()
	w.checkWorking(p, connections)
	p.stop()
	w.finish(len(connections))
}
