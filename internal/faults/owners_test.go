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
	if !eventually(10*time.Second, func() bool { return len(w.spooledPairs()) == 0 }) {
		r.wrong("pairs of removed connections are left in the spool: %q", w.spooledPairs())
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

// oldBackup is F26: a token of an old store may be spent. Nothing is presented
// before an operator accepts the store; then introspection is asked about each
// token, and what it calls inactive is not presented either.
func oldBackup(r *run) {
	w := r.world(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 1s}`)
	half := max(1, r.trials/2)
	rotated, untouched, before := w.expired(half), w.expired(half), w.expired(1)
	p := w.serve()
	w.kept(p, before) // and introspection has proven itself
	p.stop()
	backup, err := os.ReadFile(w.data("store.db"))
	if err != nil {
		r.Fatal(err)
	}
	p = w.serve()
	w.kept(p, rotated)
	w.awaitWitness()
	p.stop()
	if err := os.WriteFile(w.data("store.db"), backup, 0o600); err != nil {
		r.Fatal(err)
	}
	p = w.serve()
	w.heldUp(p, append(rotated, untouched...))
	if code, out := w.command("store", "accept-restore"); code != 0 {
		r.Fatalf("store accept-restore exits %d, want 0:\n%s", code, out)
	}
	w.settled(p, append(untouched, rotated...))
	w.spentOnce(rotated)
	p.stop()
	w.tally(2 * half)
}

// awaitWitness waits until the witness beside the spool has seen everything that
// is in the store.
func (w *world) awaitWitness() {
	w.Helper()
	now := time.Now()
	w.expired(1) // a change that it has not seen yet
	followed := eventually(patience, func() bool {
		info, err := os.Stat(w.data("spool/witness.json"))
		return err == nil && info.ModTime().After(now)
	})
	if !followed {
		w.Fatal("the witness does not follow the store")
	}
}

// heldUp checks that nothing is presented from a store that nobody has accepted.
func (w *world) heldUp(p *process, links []link) {
	w.Helper()
	before := w.sim.Counters().Refreshes
	for i, c := range p.askAll(links) {
		if a := <-c; a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			w.wrong("%s of a restored store: %d %s, want 503 with Retry-After\n%s", links[i].name, a.status, a.body, p.log)
		}
	}
	if after := w.sim.Counters().Refreshes; after != before {
		w.wrong("%d tokens of a restored store were presented before it was accepted", after-before)
	}
}

// spentOnce checks that tokens which a restored store had spent before were asked
// about and not presented again.
func (w *world) spentOnce(links []link) {
	w.Helper()
	grants := w.sim.Counters().Grants
	for _, l := range links {
		if g := grants[l.grant.ID]; g.Introspections == 0 || g.Presentations != 1 {
			w.wrong("%s was asked about %d times and presented %d times, want at least once and once", l.name, g.Introspections, g.Presentations)
		}
	}
	if got := w.row.read().Lost; got != len(links) {
		w.wrong("%d connections need a person, want the %d whose tokens were spent", got, len(links))
	}
}
