package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// storeUnavailable is F14: while the store is unavailable no refresh token is sent,
// tokens in memory are used, and the outage is reported.
func storeUnavailable(r *run) {
	r.needFailingStore()
	w := r.newEnv(simulator.Settings{})
	connections := w.connect(r.trials, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(10 * time.Second)}, time.Time{})
	p := w.serve()
	w.checkWorking(p, connections)
	back := p.disableStore()
	w.sim.ResetCounters()          // a slow machine may have begun to refresh already
	w.checkWorking(p, connections) // from memory
	if !eventually(10*time.Second, func() bool { return !p.storeIsUp() }) {
		r.violation("the outage of the store is not reported within 10 s")
	}
	for _, l := range connections {
		a := p.getUntil(l, func(a response) bool { return a.status != http.StatusOK }) // until it expires
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			r.violation("%s: %d %q with an expired token and no store, want 503 with Retry-After: %s",
				l.name, a.status, a.header.Get("Retry-After"), a.body)
		}
	}
	if a := p.operator("/readyz"); a.status != http.StatusOK {
		r.violation("not ready because the store is unavailable: %d %s", a.status, a.body)
	}
	if most := w.sim.Counters().MaxTimesSent; most != 0 {
		r.violation("a token was sent %d times without a store", most)
	}
	back()
	if !eventually(r.timeLimit(5*time.Second), p.storeIsUp) {
		r.violation("the recovery of the store is not reported within 5 s:\n%s", p.operator("/readyz?verbose").body)
	}
	w.awaitFinal(p, connections)
	p.stop()
	w.finish(len(connections))
}

// storeIsUp reports whether both the metric and /readyz say so.
func (p *process) storeIsUp() bool {
	return p.metric("pleo_store_up") == 1 && strings.Contains(p.operator("/readyz?verbose").body, "[+] store: ok")
}

// storeFailsAfterCommit is F15: the store fails once the token has been used.
func storeFailsAfterCommit(r *run) {
	r.needFailingStore()
	for _, killed := range []bool{false, true} {
		name := map[bool]string{false: "recovers", true: "process killed"}[killed]
		r.variant(name, func(r *run) {
			w := r.newEnv(simulator.Settings{})
			connections := w.connectExpired(max(1, r.trials/2))
			p := w.serve()
			for batch := connections; len(batch) > 0; {
				n := min(len(batch), 10)
				back := w.refreshWithoutStore(p, batch[:n])
				if killed {
					p.kill()
				}
				back()
				if killed {
					p = w.serve()
				}
				w.checkSavedSoon(p, batch[:n])
				batch = batch[n:]
			}
			w.checkWorking(p, connections)
			p.stop()
			w.finish(len(connections))
		})
	}
}

// refreshWithoutStore makes the store fail after the server's commit. Requests must
// be sent with the new token at once.
func (w *env) refreshWithoutStore(p *process, connections []connection) (back func()) {
	w.Helper()
	w.fault(simulator.Fault{Kind: "hang", When: simulator.AfterCommit})
	responses := p.sendAll(connections)
	for _, l := range connections {
		w.await(simulator.PhaseCommitted, l)
	}
	back = p.disableStore()
	w.sim.ClearFaults()
	released := time.Now()
	for i, c := range responses {
		if a := <-c; a.status != http.StatusOK {
			w.violation("%s: %d %s, want 200 with the new token\n%s", connections[i].name, a.status, a.body, p.log)
		}
	}
	if took := time.Since(released); took > w.timeLimit(time.Second) {
		w.violation("requests waited %v for the store", took)
	}
	return back
}

// checkSavedSoon checks that the second version of each credential is in the store
// within a second, in a full run.
func (w *env) checkSavedSoon(p *process, connections []connection) {
	w.Helper()
	began := time.Now()
	for _, l := range connections {
		if !eventually(w.timeLimit(time.Second)-time.Since(began), func() bool { return p.version(l) == 2 }) {
			w.violation("%s has version %d in the store after %v, want 2\n%s", l.name, p.version(l), time.Since(began), p.log)
		}
	}
}

// version returns the version of the stored credential.
func (p *process) version(l connection) int {
	r, err := http.NewRequestWithContext(p.Context(), http.MethodGet, "http://"+p.addresses["admin"]+"/api/v1/connections/"+l.name, nil)
	if err != nil {
		p.Fatal(err)
	}
	var connection struct{ Version int }
	_ = json.Unmarshal([]byte(p.send(r).body), &connection) // a problem has no version
	return connection.Version
}

// commitUnknown is F16: the sync that ends the transaction fails, so that its outcome
// is unknown.
func commitUnknown(r *run) {
	r.needStrace()
	w := r.newEnv(simulator.Settings{})
	connections := w.connectExpired(r.trials)
	p := w.serve()
	report, failed := filepath.Join(w.dir, "strace.txt"), 0
	for i, l := range connections {
		w.fault(simulator.Fault{Kind: "hang", When: simulator.AfterCommit, Count: 1})
		pending := p.sendAsync(l)
		w.await(simulator.PhaseCommitted, l)
		// The first sync of each thread fails.
		t := p.trace("-P", w.data("store.db-wal"), "-o", report, "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1")
		w.sim.ClearFaults()
		if a := <-pending; a.status != http.StatusOK {
			r.violation("%s: %d %s, want 200\n%s", l.name, a.status, a.body, p.log)
		}
		if i%2 == 1 {
			_ = p.cmd.Process.Kill()
		}
		t.detach()
		failed += min(w.injected(report, "fsync", 1), 1)
		if i%2 == 1 {
			<-p.exited
			p = w.serve()
		}
		w.checkSavedSoon(p, []connection{l})
	}
	if failed*10 < len(connections)*9 { // strace does not always report a call of a killed process
		r.violation("a sync failed in only %d of %d trials", failed, len(connections))
	}
	w.checkWorking(p, connections)
	if c := w.sim.Counters(); c.Refreshes != len(connections) {
		r.violation("%d refreshes, want %d", c.Refreshes, len(connections))
	}
	for _, l := range connections {
		if v := p.version(l); v != 2 {
			r.violation("%s has version %d after one refresh, want 2", l.name, v)
		}
	}
	p.stop()
	w.finish(len(connections))
}

// diskFault is a fault of the nth system call of a kind in each thread.
type diskFault struct {
	call, what string
	nth        int
}

func (f diskFault) kills() bool { return strings.HasPrefix(f.what, "signal") }

// injection is the fault as an argument of strace.
func (f diskFault) injection() string {
	return fmt.Sprintf("inject=%s:%s:when=%d", f.call, f.what, f.nth)
}

// diskFails is F18: each write, sync, open, truncation and removal of a file during a
// refresh fails in turn, or kills the process.
func diskFails(r *run) {
	r.needStrace()
	var points []diskFault
	for _, what := range []string{"error=EIO", "error=ENOSPC", "error=EROFS", "signal=KILL"} {
		for call, most := range map[string]int{"pwrite64": 12, "fsync": 6, "openat": 3, "unlinkat": 1, "ftruncate": 1} {
			for nth := range most {
				points = append(points, diskFault{call, what, nth + 1})
			}
		}
	}
	w := r.newEnv(simulator.Settings{})
	connections := w.connectExpired(1 + r.trials)
	p := w.serve()
	w.checkWorking(p, connections[:1]) // now introspection is trusted
	p.stop()
	hits := 0
	for i, l := range connections[1:] {
		at := points[i*len(points)/r.trials%len(points)]
		hits += min(w.failDisk(l, at), 1)
	}
	r.row.update(func(row *row) { row.Note = fmt.Sprintf("injected in %d trials; the others made no such call", hits) })
	w.finish(len(connections) - 1)
}

// failDisk refreshes one connection while the disk fails, checks the outcome, and
// returns how often it failed.
func (w *env) failDisk(l connection, f diskFault) (hits int) {
	w.Helper()
	p := w.serve()
	report := filepath.Join(w.dir, "strace.txt")
	t := p.trace("-y", "-o", report, "-e", "trace="+f.call, "-e", f.injection())
	a := <-p.sendAsync(l)
	if !f.kills() {
		t.detach()
		hits = w.injected(report, f.call, f.nth)
		w.checkReported(p, l, f, a, hits)
		w.checkAfterwards(p, l, f)
		return hits
	}
	_ = p.cmd.Process.Kill() // if the call was not made
	t.end()
	<-p.exited
	p = w.serve()
	w.checkAfterwards(p, l, f)
	return w.injected(report, f.call, f.nth)
}

// checkReported checks the response and the alarm after a failure of the disk. A file
// that could not be removed is found again at the next start.
func (w *env) checkReported(p *process, l connection, f diskFault, a response, hits int) {
	w.Helper()
	if a.status != http.StatusOK && a.status != http.StatusServiceUnavailable {
		w.violation("%s under %s: %d %s, want 200 or 503\n%s", l.name, f.injection(), a.status, a.body, p.log)
	}
	if hits > 0 && f.call != "unlinkat" && !p.hasAlarm() {
		w.violation("%s: an error (%s) was not reported: %d %s\n%s", l.name, f.injection(), a.status, a.body, p.log)
	}
}

// checkAfterwards checks that the connection works, and stops the process. A kill may
// fall into the interval in which a crash loses a token.
func (w *env) checkAfterwards(p *process, l connection, f diskFault) {
	w.Helper()
	if a := p.getUntil(l, isFinal); a.status != http.StatusOK {
		w.row.update(func(r *row) { r.Lost++ })
		if !f.kills() {
			w.violation("%s was lost by %s: %s\n%s", l.name, f.injection(), a.body, p.log)
		}
	}
	if f.kills() {
		w.checkSpoolEmpty(p)
	}
	p.stop()
}

// hasAlarm reports whether the log or a metric reports an error.
func (p *process) hasAlarm() bool {
	return strings.Contains(p.log.String(), `"level":"error"`) || p.metric("pleo_store_errors_total") > 0
}

// injected returns how many threads reached the nth call of the kind, which strace
// made fail, not counting calls whose failure has no effect.
func (w *env) injected(report, call string, nth int) (hits int) {
	w.Helper()
	text, err := os.ReadFile(report)
	if err != nil {
		w.Fatal(err)
	}
	calls := map[string]int{} // thread → calls
	for line := range strings.Lines(string(text)) {
		thread, rest, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(strings.TrimSpace(rest), call+"(") {
			continue
		}
		// SQLite ignores a failed sync of its directory.
		if calls[thread]++; calls[thread] == nth && !strings.Contains(rest, "<"+w.data("")+">") {
			hits++
		}
	}
	return hits
}
