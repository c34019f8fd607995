package faults

import (
	"net/http"
	"os"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// removedMeanwhile is F23: a pair for a connection that no longer exists is dropped,
// even if another connection has its name by then.
func removedMeanwhile(r *run) {
	w := r.newEnv(simulator.Settings{})
	connections := w.connectExpired(r.trials)
	p := w.serve()
	for i, l := range connections {
		w.fault(simulator.Fault{Kind: "hang", When: simulator.AfterCommit, Grant: l.grant.ID})
		pending := p.sendAsync(l)
		w.await(simulator.PhaseCommitted, l)
		if code, out := w.command("connections", "remove", l.name); code != 0 {
			r.Fatalf("connections remove: exit code %d, want 0:\n%s", code, out)
		}
		reused := i%2 == 1
		successor := connection{name: l.name}
		if reused {
			successor = w.reuseName(l.name)
		}
		w.sim.ClearFaults()
		<-pending
		if reused {
			w.checkWorking(p, []connection{successor})
		} else if code, out := w.command("connections", "show", l.name); code != 3 {
			r.violation("connections show of a removed connection: exit code %d, want 3:\n%s", code, out)
		}
	}
	if !eventually(10*time.Second, func() bool { return len(w.spooledPairs()) == 0 }) {
		r.violation("the spool contains pairs of removed connections: %q", w.spooledPairs())
	}
	p.stop()
	w.finish(len(connections))
}

// reuseName adds a connection with a name that was used before.
func (w *env) reuseName(name string) connection {
	w.Helper()
	g, err := w.sim.IssueGrant(simulator.GrantRequest{})
	if err != nil {
		w.Fatal(err)
	}
	l := connection{name, g}
	w.importLines(l.line(time.Time{}))
	return l
}

// twoProcesses is F25: two processes share one file under load, while every
// connection is refreshed several times.
func twoProcesses(r *run) {
	w := r.newEnv(simulator.Settings{})
	connections := w.connect(r.trials, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(2 * time.Second)}, time.Time{})
	first, second := w.serve(), w.serve()
	load := w.load([]*process{first, second}, connections, 2)
	for _, l := range connections {
		w.awaitNth(simulator.PhaseResponded, l, 4)
	}
	load.stop()
	w.checkSends(load)
	w.checkWorking(first, connections)
	w.checkWorking(second, connections)
	first.stop()
	second.stop()
	w.finish(len(connections))
}

// storeRestored is F26: the tokens of an old store may have been used. None is sent
// before an operator accepts the store. Then each is introspected first, and
// inactive ones are not sent.
func storeRestored(r *run) {
	w := r.newEnv(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 1s}`)
	half := max(1, r.trials/2)
	used, untouched, before := w.connectExpired(half), w.connectExpired(half), w.connectExpired(1)
	p := w.serve()
	w.checkWorking(p, before) // now introspection is trusted
	p.stop()
	backup, err := os.ReadFile(w.data("store.db"))
	if err != nil {
		r.Fatal(err)
	}
	p = w.serve()
	w.checkWorking(p, used)
	w.awaitHighWaterMark()
	p.stop()
	if err := os.WriteFile(w.data("store.db"), backup, 0o600); err != nil {
		r.Fatal(err)
	}
	p = w.serve()
	w.checkSuspended(p, append(used, untouched...))
	if code, out := w.command("store", "accept-restore"); code != 0 {
		r.Fatalf("store accept-restore exits %d, want 0:\n%s", code, out)
	}
	w.awaitFinal(p, append(untouched, used...))
	w.checkSentOnce(used)
	p.stop()
	w.finish(2 * half)
}

// awaitHighWaterMark waits until the high-water mark includes everything in the
// store.
func (w *env) awaitHighWaterMark() {
	w.Helper()
	now := time.Now()
	w.connectExpired(1) // a change that it does not include yet
	followed := eventually(eventTimeout, func() bool {
		info, err := os.Stat(w.data("spool/high-water-mark.json"))
		return err == nil && info.ModTime().After(now)
	})
	if !followed {
		w.Fatal("timeout while waiting for the high-water mark")
	}
}

// checkSuspended checks that no token is sent before the restored store is accepted.
func (w *env) checkSuspended(p *process, connections []connection) {
	w.Helper()
	before := w.sim.Counters().Refreshes
	for i, c := range p.sendAll(connections) {
		if a := <-c; a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			w.violation("%s of a restored store: %d %s, want 503 with Retry-After\n%s", connections[i].name, a.status, a.body, p.log)
		}
	}
	if after := w.sim.Counters().Refreshes; after != before {
		w.violation("%d tokens of a restored store were sent before it was accepted", after-before)
	}
}

// checkSentOnce checks that tokens that were used before the restore were
// introspected, and not sent again.
func (w *env) checkSentOnce(connections []connection) {
	w.Helper()
	grants := w.sim.Counters().Grants
	for _, l := range connections {
		if g := grants[l.grant.ID]; g.Introspections == 0 || g.RefreshTokensSent != 1 {
			w.violation("%s: %d introspections and sent %d times, want at least one and once", l.name, g.Introspections, g.RefreshTokensSent)
		}
	}
	if got := w.row.snapshot().Lost; got != len(connections) {
		w.violation("%d connections need a person, want the %d whose tokens were used", got, len(connections))
	}
}
