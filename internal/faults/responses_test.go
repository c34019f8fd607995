package faults

import (
	"net/http"
	"strconv"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// responseTruncated is F4. A refresh token that can be read is used. Otherwise the token
// is sent once more, and not again.
func responseTruncated(r *run) {
	after := simulator.AfterCommit
	lost := simulator.Fault{Kind: "reset", When: after, Count: 1}
	for _, test := range []struct {
		name  string
		fault simulator.Fault
		oauth simulator.OAuthSettings
		kept  bool
	}{
		{"reset", lost, simulator.OAuthSettings{}, false},
		{"closed", simulator.Fault{Kind: "drop", When: after, Count: 1}, simulator.OAuthSettings{}, false},
		{"cut before the refresh token", simulator.Fault{Kind: "truncate", Cut: 40, Count: 1}, simulator.OAuthSettings{}, false},
		{"cut after the refresh token", simulator.Fault{Kind: "truncate", CutAfter: "refresh_token", Count: 1}, simulator.OAuthSettings{}, true},
		{
			"cut between the tokens", simulator.Fault{Kind: "truncate", CutAfter: "refresh_token", CutReset: true, Count: 1},
			simulator.OAuthSettings{RefreshTokenFirst: true}, true,
		},
		{"reset, server with a grace period", lost, simulator.OAuthSettings{Grace: simulator.Duration(time.Minute)}, true},
	} {
		r.variant(test.name, func(r *run) {
			r.trials = max(1, r.trials/6)
			r.parallelEnvs((r.trials+belowBreakerLimit-1)/belowBreakerLimit, func(r *run) { r.truncateResponses(test.fault, test.oauth, test.kept) })
		})
	}
}

// truncateResponses truncates the first response to each refresh.
func (r *run) truncateResponses(broken simulator.Fault, oauth simulator.OAuthSettings, kept bool) {
	w := r.newEnv(simulator.Settings{OAuth: oauth})
	connections := w.connectExpired(r.trials)
	for _, l := range connections {
		broken.Grant = l.grant.ID
		w.fault(broken)
	}
	p := w.serve()
	for _, l := range connections {
		if a := p.getUntil(l, isFinal); kept && a.status != http.StatusOK {
			r.violation("%s: %d %s, want 200: its refresh token is readable\n%s", l.name, a.status, a.body, p.log)
		}
	}
	w.awaitFinal(p, connections)
	if !kept {
		w.checkRejected(p, connections)
	}
	p.stop()
	w.finish(len(connections))
}

// responseLate is F5. The refresh takes longer than requests wait.
func responseLate(r *run) {
	for _, when := range []string{simulator.BeforeCommit, simulator.AfterCommit} {
		r.variant(when, func(r *run) {
			r.Parallel()
			w := r.newEnv(simulator.Settings{})
			connections := w.connectExpired(min(maxConcurrentRefreshes, max(1, r.trials/2)))
			w.fault(simulator.Fault{Kind: "delay", When: when, Delay: simulator.Duration(30 * time.Second), Count: len(connections)})
			p := w.serve()
			responses := p.sendAll(connections)
			for i, c := range responses {
				a := <-c
				wait, err := strconv.Atoi(a.header.Get("Retry-After"))
				if a.status != http.StatusServiceUnavailable || err != nil || wait < 1 {
					r.violation("%s: %d %q, want 503 with Retry-After", connections[i].name, a.status, a.header.Get("Retry-After"))
				}
				if a.took < 19*time.Second || a.took > 25*time.Second {
					r.violation("%s: 503 after %v, want after 20 s", connections[i].name, a.took)
				}
			}
			w.awaitFinal(p, connections)
			p.stop()
			w.finish(len(connections))
		})
	}
}

// serverErrors is F9: a response that is not about the token loses no token, and an
// access token that is still valid is used meanwhile.
func serverErrors(r *run) {
	const wait = 35 * time.Second // longer than its own retry delay
	for _, test := range []struct {
		name  string
		fault simulator.Fault
		wait  time.Duration // in Retry-After
	}{
		{"429", simulator.Fault{Kind: "status", Status: 429, RetryAfter: "seconds", Wait: simulator.Duration(wait)}, wait},
		{"429 with a date", simulator.Fault{Kind: "status", Status: 429, RetryAfter: "date", Wait: simulator.Duration(wait)}, wait - time.Second},
		{"503", simulator.Fault{Kind: "status", Status: 503}, time.Second},
		{"500", simulator.Fault{Kind: "status", Status: 500}, time.Second},
		{"page", simulator.Fault{Kind: "html"}, time.Second},
		{"garbage", simulator.Fault{Kind: "garbage"}, time.Second},
	} {
		r.variant(test.name, func(r *run) {
			r.Parallel()
			w := r.newEnv(simulator.Settings{})
			each := max(1, r.trials/12)
			expired := w.connectExpired(each)
			// These are refreshed after 16 of their 20 s.
			good := w.connect(each, simulator.GrantRequest{AccessTokenLifetime: simulator.Duration(20 * time.Second)}, time.Time{})
			p := w.serve()
			w.checkWorking(p, good)
			w.fault(test.fault)
			responses := p.sendAll(expired)
			for _, l := range good {
				w.await(simulator.PhaseResponded, l)
			}
			w.checkWorking(p, good)
			for i, c := range responses {
				if a := <-c; a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
					r.violation("%s: %d %q, want 503 with Retry-After: %s", expired[i].name, a.status, a.header.Get("Retry-After"), a.body)
				}
			}
			w.sim.ClearFaults()
			connections := append(expired, good...)
			w.awaitFinal(p, connections)
			for _, l := range connections {
				w.checkWait(l, test.wait)
			}
			p.stop()
			w.finish(len(connections))
		})
	}
}

// checkWait checks how long after the first response the token was sent again.
func (w *env) checkWait(l connection, atLeast time.Duration) {
	w.Helper()
	responded := w.await(simulator.PhaseResponded, l)
	again := w.awaitNth(simulator.PhaseReceived, l, 2)
	if wait := again.Time.Sub(responded.Time); wait < atLeast-10*time.Millisecond {
		w.violation("%s was sent again after %v, want at least %v", l.name, wait, atLeast)
	}
}
