package faults

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// laggingFailover is F26P: the primary is killed, and a standby without the latest
// refreshes replaces it. A running replica saves its pairs again. The other tokens are
// introspected, and those that were used are not sent.
func laggingFailover(r *run) {
	r.ownCluster()
	w := r.newEnv(simulator.Settings{}, `proxy: {listen: "127.0.0.1:0", credential_wait: 3s}`)
	half := max(1, r.trials/2)
	before, kept, lost, untouched := w.connectExpired(1), w.connectExpired(half), w.connectExpired(half), w.connectExpired(half)
	remaining, killed, third := w.serve(), w.replica(1), w.replica(2)
	w.checkWorking(remaining, before) // now introspection is trusted
	stream, standby := w.standby()
	stream.Cut()
	w.checkWorking(remaining, kept)
	w.checkWorking(killed, lost)
	killed.kill()
	w.failOver(standby)

	// The third replica has never had the pairs in memory.
	w.awaitFinal(third, kept)
	w.awaitFinal(third, untouched)
	for _, l := range lost {
		if a := third.getUntil(l, isFinal); a.code() != "reauthorization_required" {
			r.violation("%s: %d %s, want the 401 of the proxy: its successor is lost", l.name, a.status, a.body)
		}
		w.row.update(func(row *row) { row.Lost++ })
	}
	grants := w.sim.Counters().Grants
	for _, l := range lost {
		if g := grants[l.grant.ID]; g.Introspections == 0 {
			r.violation("%s was not introspected", l.name)
		}
	}
	w.checkWorking(remaining, kept)
	r.row.update(func(row *row) {
		row.Note = fmt.Sprintf("%d of %d pairs saved again by their replica", len(kept), len(kept))
	})
	remaining.stop()
	third.stop()
	w.finish(len(kept) + len(lost) + len(untouched))
}

// standby starts a standby with all data so far, and the relay of its replication.
func (w *env) standby() (stream *postgrestest.Relay, standby *postgrestest.Server) {
	w.Helper()
	replication := w.relayTo(w.cluster.DSN())
	standby, err := w.cluster.Standby(w.Context(), replication.relay.Address())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = standby.Close() })
	return replication.relay, standby
}

// failOver kills the primary and promotes the standby.
func (w *env) failOver(standby *postgrestest.Server) {
	w.Helper()
	if err := w.cluster.Stop(w.Context(), "immediate"); err != nil {
		w.Fatal(err)
	}
	if err := standby.Promote(w.Context()); err != nil {
		w.Fatal(err)
	}
	w.database.relay.Turn(standby.Address())
}

// databaseKilled kills the database repeatedly while clients send requests to three
// replicas and tokens are refreshed.
func databaseKilled(r *run) {
	r.ownCluster()
	w := r.newEnv(simulator.Settings{}, `log: {level: error}`)
	connections := w.connect(6, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(6 * time.Second)}, time.Time{})
	replicas := w.replicas()
	for _, p := range replicas {
		w.checkWorking(p, connections)
	}
	load := &load{end: make(chan struct{}), pause: 50 * time.Millisecond}
	for _, p := range replicas {
		for _, l := range connections {
			load.running.Go(func() { w.persistentClient(load, p, l) })
		}
	}
	for range r.trials {
		time.Sleep(2 * time.Second) // during refreshes
		if err := w.cluster.Stop(context.Background(), "immediate"); err != nil {
			r.Fatal(err)
		}
		time.Sleep(time.Second) // an outage
		if err := w.cluster.Start(context.Background()); err != nil {
			r.Fatal(err)
		}
	}
	load.stop()
	for _, p := range replicas {
		w.awaitFinal(p, connections)
		p.stop()
	}
	w.row.update(func(row *row) {
		row.Note = fmt.Sprintf("%d requests, %d refreshes", load.sent.Load(), w.sim.Counters().Refreshes)
	})
	w.finish(r.trials)
}

// persistentClient is a client that accepts a 503 with Retry-After.
func (w *env) persistentClient(l *load, p *process, to connection) {
	for {
		select {
		case <-l.end:
			return
		default:
		}
		l.sent.Add(1)
		a := p.get(to)
		if a.status != http.StatusOK && (a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "") {
			w.violation("%s while the database was killed: %d %s, want 200, or 503 with Retry-After", to.name, a.status, a.body)
		}
		time.Sleep(l.pause) // between requests
	}
}
