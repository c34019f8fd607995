package faults

import (
	"net/http"
	"strconv"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// answerBroken is F4. What can be read of an answer is used; what cannot is
// asked for once more, and not more often.
func answerBroken(r *run) {
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
		{"cut behind the refresh token", simulator.Fault{Kind: "truncate", CutBehind: "refresh_token", Count: 1}, simulator.OAuthSettings{}, true},
		{
			"cut between the tokens", simulator.Fault{Kind: "truncate", CutBehind: "refresh_token", CutReset: true, Count: 1},
			simulator.OAuthSettings{RefreshTokenFirst: true}, true,
		},
		{"reset, server with a grace period", lost, simulator.OAuthSettings{Grace: simulator.Duration(time.Minute)}, true},
	} {
		r.variant(test.name, func(r *run) {
			r.Parallel()
			w := r.world(simulator.Settings{OAuth: test.oauth})
			links := w.expired(max(1, r.trials/6))
			for _, l := range links {
				test.fault.Grant = l.grant.ID
				w.fault(test.fault)
			}
			p := w.serve()
			if test.kept {
				for _, l := range links {
					if a := p.until(l, final); a.status != http.StatusOK {
						r.wrong("%s: %d %s, want 200: its refresh token can be had\n%s", l.name, a.status, a.body, p.log)
					}
				}
			}
			w.settled(p, links)
			if !test.kept {
				w.ended(p, links)
			}
			p.stop()
			w.tally(len(links))
		})
	}
}

// answerLate is F5. The refresh is waited for longer than clients wait.
func answerLate(r *run) {
	for _, when := range []string{simulator.BeforeCommit, simulator.AfterCommit} {
		r.variant(when, func(r *run) {
			r.Parallel()
			w := r.world(simulator.Settings{})
			links := w.expired(min(50, max(1, r.trials/2)))
			w.fault(simulator.Fault{Kind: "delay", When: when, Delay: simulator.Duration(30 * time.Second), Count: len(links)})
			p := w.serve()
			answers := p.askAll(links)
			for i, c := range answers {
				a := <-c
				wait, err := strconv.Atoi(a.header.Get("Retry-After"))
				if a.status != http.StatusServiceUnavailable || err != nil || wait < 1 {
					r.wrong("%s: %d %q, want 503 with Retry-After", links[i].name, a.status, a.header.Get("Retry-After"))
				}
				if a.took < 19*time.Second || a.took > 25*time.Second {
					r.wrong("%s: 503 after %v, want after 20 s", links[i].name, a.took)
				}
			}
			w.settled(p, links)
			p.stop()
			w.tally(len(links))
		})
	}
}
