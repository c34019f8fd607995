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

// clientLeaves is F6: the refresh goes on without the client that caused it.
func clientLeaves(r *run) {
	w := r.world(simulator.Settings{})
	links := w.expired(r.trials)
	p := w.serve()
	for batch := links; len(batch) > 0; {
		n := min(len(batch), atOnce)
		w.leave(p, batch[:n])
		batch = batch[n:]
	}
	w.kept(p, links)
	p.stop()
	w.tally(len(links))
}

// leave sends a request for each link and leaves while its refresh is under way.
func (w *world) leave(p *process, links []link) {
	w.Helper()
	w.fault(simulator.Fault{Kind: "hang", When: simulator.AfterCommit})
	ctx, leave := context.WithCancel(w.Context())
	answers := make(chan answer, len(links))
	for _, l := range links {
		go func() { answers <- p.getPath(ctx, l, "/v1/companies") }()
	}
	for _, l := range links {
		w.await(simulator.PhaseCommitted, l)
	}
	leave()
	for range links {
		<-answers
	}
	w.sim.ClearFaults()
}

// oddTimes is F19: whatever is said about the life of a token, each is refreshed
// once and then used.
func oddTimes(r *run) {
	for _, form := range []string{"absent", "null", "zero", "negative", "string", "fraction", "huge"} {
		r.variant("expires_in "+form, func(r *run) {
			r.Parallel()
			w := r.world(simulator.Settings{OAuth: simulator.OAuthSettings{ExpiresIn: form}})
			links := w.expired(max(1, r.trials/10))
			p := w.serve()
			for range 5 {
				w.kept(p, links)
				time.Sleep(200 * time.Millisecond) // a loop would show meanwhile
			}
			w.refreshedOnce(links)
			p.stop()
			w.tally(len(links))
		})
	}
	for _, off := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		r.variant("server's clock off by "+off.String(), func(r *run) {
			r.Parallel()
			now := func() time.Time { return time.Now().Add(off) }
			w := r.worldWith(simulator.Config{Now: now}, nil)
			// One sort ends 3 minutes from now by the server's clock; of the
			// other the server knows that it has ended.
			links := w.connect(max(1, r.trials/10), simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(3 * time.Minute)}, time.Time{})
			w.sim.KillAccessTokens("", "")
			p := w.serve()
			for range 5 {
				w.kept(p, links)
				time.Sleep(200 * time.Millisecond) // a loop would show meanwhile
			}
			w.refreshedOnce(links)
			p.stop()
			w.tally(len(links))
		})
	}
}

// refreshedOnce checks that each connection was refreshed exactly once.
func (w *world) refreshedOnce(links []link) {
	w.Helper()
	grants := w.sim.Counters().Grants
	for _, l := range links {
		if got := grants[l.grant.ID].Refreshes; got != 1 {
			w.wrong("%s was refreshed %d times, want once", l.name, got)
		}
	}
}

// oldTokenDies is F20: tokens die under load, at their rotation and once out of
// the blue. No client notices.
func oldTokenDies(r *run) {
	const life = 3 * time.Second
	w := r.world(simulator.Settings{Latency: simulator.Duration(20 * time.Millisecond)})
	links := w.connect(r.trials, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(life)}, time.Time{})
	p := w.serve()
	load := w.load([]*process{p}, links, 4)
	time.Sleep(life) // rotations happen meanwhile, by the program's own time
	w.sim.KillAccessTokens("", "")
	time.Sleep(life)
	load.stop()
	sent := w.checkSends(load)
	refreshes := w.sim.Counters().Refreshes
	// Each token lives until it is refreshed ahead of its expiry, or killed.
	if most := len(links) * (int(2*life/(life*4/5)) + 1 + 1); refreshes > most {
		r.wrong("%d refreshes of %d connections, want at most %d", refreshes, len(links), most)
	}
	r.row.add(func(row *row) { row.Note = fmt.Sprintf("%d requests, %d refreshes", sent, refreshes) })
	w.kept(p, links)
	p.stop()
	w.tally(len(links))
}

// load is what clients do until they are told to stop.
type load struct {
	end     chan struct{}
	pause   time.Duration
	running sync.WaitGroup
	sent    atomic.Int64
}

// load starts clients for each link at each process. Every answer must be 200.
func (w *world) load(processes []*process, links []link, clients int) *load {
	return w.loadEvery(processes, links, clients, 5*time.Millisecond)
}

// loadEvery is load with a pause between the requests of each client.
func (w *world) loadEvery(processes []*process, links []link, clients int, pause time.Duration) *load {
	l := &load{end: make(chan struct{}), pause: pause}
	for _, p := range processes {
		for _, to := range links {
			for range clients {
				l.running.Go(func() { l.client(p, to) })
			}
		}
	}
	return l
}

func (l *load) client(p *process, to link) {
	for {
		select {
		case <-l.end:
			return
		default:
		}
		path := fmt.Sprintf("/echo/%d", l.sent.Add(1))
		if a := p.getPath(context.Background(), to, path); a.status != http.StatusOK {
			p.wrong("%s under load: %d %s, want 200", to.name, a.status, a.body)
		}
		time.Sleep(l.pause) // a client has other things to do
	}
}

func (l *load) stop() {
	close(l.end)
	l.running.Wait()
}

// checkSends checks that no request of the load reached the API more than twice,
// and returns how many requests there were.
func (w *world) checkSends(l *load) int64 {
	w.Helper()
	sent := l.sent.Load()
	for i := range sent {
		if n := w.arrived(fmt.Sprintf("/echo/%d", i+1)); n > 2 {
			w.wrong("request %d was sent %d times, want at most twice", i+1, n)
		}
	}
	return sent
}

// apiRefuses is F21: a 401 that no new token cures leads to one refresh, and
// clients see it.
func apiRefuses(r *run) {
	w := r.world(simulator.Settings{})
	links := w.fresh(r.trials)
	w.fault(simulator.Fault{Target: "api", Kind: "unauthorized"})
	p := w.serve()
	for n := range 50 {
		for _, l := range links {
			path := fmt.Sprintf("/echo/%s/%d", l.name, n)
			if a := p.getPath(r.Context(), l, path); a.status != http.StatusUnauthorized || a.code() != "" {
				r.wrong("%s: %d %s, want Pleo's own 401", l.name, a.status, a.body)
			}
			if sends := w.arrived(path); sends > 2 {
				r.wrong("one request was sent %d times, want at most twice", sends)
			}
		}
	}
	w.refreshedOnce(links)
	w.sim.ClearFaults()
	w.kept(p, links)
	p.stop()
	w.tally(len(links))
}
