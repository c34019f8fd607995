package faults

import (
	"net/http"
	"os"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// removedMeanwhile is F23: what comes for a connection that is gone is dropped,
// also where another has its name by then.
func removedMeanwhile(r *run) {
	w := r.world(simulator.Settings{})
	links := w.expired(r.trials)
	p := w.serve()
	for i, l := range links {
		w.fault(simulator.Fault{Kind: "hang", When: simulator.AfterCommit, Grant: l.grant.ID})
		asked := p.ask(l)
		w.await(simulator.PhaseCommitted, l)
		if code, out := w.command("connections", "remove", l.name); code != 0 {
			r.Fatalf("connections remove exits %d, want 0:\n%s", code, out)
		}
		reused := i%2 == 1
		heir := link{name: l.name}
		if reused {
			heir = w.takeName(l.name)
		}
		w.sim.ClearFaults()
		<-asked
		if reused {
			w.kept(p, []link{heir})
		} else if code, out := w.command("connections", "show", l.name); code != 3 {
			r.wrong("connections show of a removed connection exits %d, want 3:\n%s", code, out)
		}
	}
	if pairs := w.spooledPairs(); len(pairs) > 0 {
		r.wrong("pairs of removed connections are left in the spool: %q", pairs)
	}
	p.stop()
	w.tally(len(links))
}

// takeName makes a connection with a name that was used before.
func (w *world) takeName(name string) link {
	w.Helper()
	g, err := w.sim.IssueGrant(simulator.GrantRequest{})
	if err != nil {
		w.Fatal(err)
	}
	l := link{name, g}
	w.imports(l.line(time.Time{}))
	return l
}

// twoProcesses is F25: two processes share one file under load, over several
// rotations of every token.
func twoProcesses(r *run) {
	w := r.world(simulator.Settings{})
	links := w.connect(r.trials, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(2 * time.Second)}, time.Time{})
	first, second := w.serve(), w.serve()
	load := w.load([]*process{first, second}, links, 2)
	for _, l := range links {
		w.awaitNth(simulator.PhaseAnswered, l, 4)
	}
	load.stop()
	w.checkSends(load)
	w.kept(first, links)
	w.kept(second, links)
	first.stop()
	second.stop()
	w.tally(len(links))
}

// oldBackup is F26: a token of an old store may be spent. Introspection tells,
// and what it calls inactive is not presented.
func oldBackup(r *run) {
	w := r.world(simulator.Settings{})
	rotated, untouched := w.expired(max(1, r.trials/2)), w.expired(max(1, r.trials/2))
	before := w.expired(1)
	p := w.serve()
	w.kept(p, before) // and introspection has proven itself
	p.stop()
	backup, err := os.ReadFile(w.data("store.db"))
	if err != nil {
		r.Fatal(err)
	}
	p = w.serve()
	w.kept(p, rotated)
	p.stop()
	if err := os.WriteFile(w.data("store.db"), backup, 0o600); err != nil {
		r.Fatal(err)
	}
	p = w.serve()
	w.kept(p, untouched)
	for _, l := range rotated {
		if a := p.until(l, final); a.code() != "reauthorization_required" || a.status != http.StatusUnauthorized {
			r.wrong("%s: %d %s, want our 401: the restored token is spent", l.name, a.status, a.body)
		}
		r.row.add(func(row *row) { row.Lost++ })
	}
	w.introspectedFirst(append(rotated, untouched...))
	p.stop()
	w.tally(len(rotated) + len(untouched))
}

// introspectedFirst checks that introspection was asked about each connection.
func (w *world) introspectedFirst(links []link) {
	w.Helper()
	grants := w.sim.Counters().Grants
	for _, l := range links {
		if grants[l.grant.ID].Introspections == 0 {
			w.wrong("%s was refreshed from a restored store without asking introspection first", l.name)
		}
	}
}
