package faults

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// clientDisconnects is F6: the refresh continues without the client that caused it.
func clientDisconnects(r *run) {
	w := r.newEnv(simulator.Settings{})
	connections := w.connectExpired(r.trials)
	p := w.serve()
	for batch := connections; len(batch) > 0; {
		n := min(len(batch), maxConcurrentRefreshes)
		w.abandonRequests(p, batch[:n])
		batch = batch[n:]
	}
	w.checkWorking(p, connections)
	p.stop()
	w.finish(len(connections))
}

// abandonRequests sends a request for each connection and cancels it during its refresh.
func (w *env) abandonRequests(p *process, connections []connection) {
	w.Helper()
	w.fault(simulator.Fault{Kind: "hang", When: simulator.AfterCommit})
	ctx, cancel := context.WithCancel(w.Context())
	responses := make(chan response, len(connections))
	for _, l := range connections {
		go func() { responses <- p.getPath(ctx, l, "/v1/companies") }()
	}
	for _, l := range connections {
		w.await(simulator.PhaseCommitted, l)
	}
	cancel()
	for range connections {
		<-responses
	}
	w.sim.ClearFaults()
}

// unusualLifetimes is F19: whatever the form of expires_in and the clocks, each token is
// refreshed once and then used.
func unusualLifetimes(r *run) {
	for _, form := range []string{"absent", "null", "zero", "negative", "string", "fraction", "huge"} {
		r.variant("expires_in "+form, func(r *run) {
			r.Parallel()
			w := r.newEnv(simulator.Settings{OAuth: simulator.OAuthSettings{ExpiresIn: form}})
			connections := w.connectExpired(max(1, r.trials/10))
			p := w.serve()
			for range 5 {
				w.checkWorking(p, connections)
				time.Sleep(200 * time.Millisecond) // a refresh loop would show meanwhile
			}
			w.checkRefreshedOnce(connections)
			p.stop()
			w.finish(len(connections))
		})
	}
	for _, off := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		r.variant("server's clock off by "+off.String(), func(r *run) {
			r.Parallel()
			now := func() time.Time { return time.Now().Add(off) }
			w := r.newEnvWith(simulator.Config{Now: now}, nil)
			// The tokens expire in 3 minutes by the server's clock, and are no longer
			// valid.
			connections := w.connect(max(1, r.trials/10), simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(3 * time.Minute)}, time.Time{})
			w.sim.KillAccessTokens("", "")
			p := w.serve()
			for range 5 {
				w.checkWorking(p, connections)
				time.Sleep(200 * time.Millisecond) // a refresh loop would show meanwhile
			}
			w.checkRefreshedOnce(connections)
			p.stop()
			w.finish(len(connections))
		})
	}
}

// checkRefreshedOnce checks that each connection was refreshed exactly once.
func (w *env) checkRefreshedOnce(connections []connection) {
	w.Helper()
	grants := w.sim.Counters().Grants
	for _, l := range connections {
		if got := grants[l.grant.ID].Refreshes; got != 1 {
			w.violation("%s was refreshed %d times, want once", l.name, got)
		}
	}
}

// accessTokenRevoked is F20: under load, access tokens become invalid by refreshes and
// once without any. No client gets an error.
func accessTokenRevoked(r *run) {
	const life = 3 * time.Second
	w := r.newEnv(simulator.Settings{Latency: simulator.Duration(20 * time.Millisecond)})
	connections := w.connect(r.trials, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(life)}, time.Time{})
	p := w.serve()
	load := w.load([]*process{p}, connections, 4)
	time.Sleep(life) // refreshes happen ahead of expiry
	w.sim.KillAccessTokens("", "")
	time.Sleep(life)
	load.stop()
	sent := w.checkSends(load)
	refreshes := w.sim.Counters().Refreshes
	// Each token is refreshed ahead of its expiry, or after the kill.
	if most := len(connections) * (int(2*life/(life*4/5)) + 1 + 1); refreshes > most {
		r.violation("%d refreshes of %d connections, want at most %d", refreshes, len(connections), most)
	}
	r.row.update(func(row *row) { row.Note = fmt.Sprintf("%d requests, %d refreshes", sent, refreshes) })
	w.checkWorking(p, connections)
	p.stop()
	w.finish(len(connections))
}

// load is clients that send requests until they are stopped.
type load struct {
	end     chan struct{}
	pause   time.Duration
	running sync.WaitGroup
	sent    atomic.Int64
}

// load starts clients for each connection at each process. Every response must be
// 200.
func (w *env) load(processes []*process, connections []connection, clients int) *load {
	return w.loadEvery(processes, connections, clients, 5*time.Millisecond)
}

// loadEvery is load with a pause between the requests of each client.
func (w *env) loadEvery(processes []*process, connections []connection, clients int, pause time.Duration) *load {
	l := &load{end: make(chan struct{}), pause: pause}
	for _, p := range processes {
		for _, to := range connections {
			for range clients {
				l.running.Go(func() { l.client(p, to) })
			}
		}
	}
	return l
}

func (l *load) client(p *process, to connection) {
	for {
		select {
		case <-l.end:
			return
		default:
		}
		path := fmt.Sprintf("/echo/%d", l.sent.Add(1))
		if a := p.getPath(context.Background(), to, path); a.status != http.StatusOK {
			p.violation("%s under load: %d %s, want 200", to.name, a.status, a.body)
		}
		time.Sleep(l.pause) // between requests
	}
}

func (l *load) stop() {
	close(l.end)
	l.running.Wait()
}

// checkSends checks that no request of the load reached the API more than twice, and
// returns the number of requests.
func (w *env) checkSends(l *load) int64 {
	w.Helper()
	sent := l.sent.Load()
	for i := range sent {
		if n := w.requestCount(fmt.Sprintf("/echo/%d", i+1)); n > 2 {
			w.violation("request %d was sent %d times, want at most twice", i+1, n)
		}
	}
	return sent
}

// apiAlwaysUnauthorized is F21: a 401 for reasons other than the token causes one
// refresh, and clients get the 401.
func apiAlwaysUnauthorized(r *run) {
	w := r.newEnv(simulator.Settings{})
	connections := w.connectValid(r.trials)
	w.fault(simulator.Fault{Target: "api", Kind: "unauthorized"})
	p := w.serve()
	for n := range 50 {
		for _, l := range connections {
			path := fmt.Sprintf("/echo/%s/%d", l.name, n)
			if a := p.getPath(r.Context(), l, path); a.status != http.StatusUnauthorized || a.code() != "" {
				r.violation("%s: %d %s, want Pleo's 401", l.name, a.status, a.body)
			}
			if sends := w.requestCount(path); sends > 2 {
				r.violation("one request was sent %d times, want at most twice", sends)
			}
		}
	}
	w.checkRefreshedOnce(connections)
	w.sim.ClearFaults()
	w.checkWorking(p, connections)
	p.stop()
	w.finish(len(connections))
}
