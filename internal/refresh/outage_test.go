package refresh

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// TestSimulationOfOutage lets the authorization server send no usable response
// for two hours, to twenty connections in use; to a thousand with as many schedules
// as in the fault suite.
func TestSimulationOfOutage(t *testing.T) {
	const busy = 10 * time.Minute
	connections := min(1000, max(20, *schedules/10))
	for _, test := range []struct {
		name     string
		response error
		maxSent  int           // how often one token may be sent
		recovers time.Duration // after the outage
	}{
		{"429", &pleo.ResponseError{Class: pleo.RateLimited, Status: 429, RetryAfter: busy}, int(2*time.Hour/busy) + 2, busy},
		{"503", &pleo.UnknownOutcomeError{Err: errors.New("503")}, 7, time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *env) {
				names := w.connectMany(connections)
				p := w.start("")
				defer p.stop()
				if n := p.useAll(names); n != len(names) {
					t.Fatalf("%d of %d connections work before the outage", n, len(names))
				}
				w.server.onArrival(func() error { return test.response })
				time.Sleep(12*time.Minute + 30*time.Second) // the refreshes ahead of expiry fail
				if n := p.useAll(names); n != len(names) {
					t.Errorf("%d of %d connections are served with tokens that are still valid", n, len(names))
				}
				time.Sleep(2 * time.Hour)
				w.server.onArrival(nil)
				time.Sleep(test.recovers + time.Minute)
				if n := p.useAll(names); n != len(names) {
					t.Errorf("%d of %d connections work after the outage", n, len(names))
				}
				if n := w.count(credstore.ReauthorizationRequired); n != 0 {
					t.Errorf("%d connections were rejected, want none", n)
				}
				if most := w.server.mostConcurrent(); most > 1 {
					t.Errorf("%d refreshes of one connection were in flight at once", most)
				}
				if tokens := w.server.sentMoreThan(test.maxSent); len(tokens) > 0 {
					t.Errorf("%d tokens were sent more than %d times, such as %s", len(tokens), test.maxSent, tokens[0])
				}
			})
		})
	}
}

// jumping is an authorization server whose responses are timed by a clock that jumps,
// as they are in a process whose clock does.
type jumping struct {
	AuthorizationServer
	now func() time.Time
}

func (j *jumping) Refresh(ctx context.Context, token credstore.Secret) (pleo.Tokens, error) {
	tokens, err := j.AuthorizationServer.Refresh(ctx, token)
	tokens.SentAt = j.now()
	return tokens, err
}

// The clock jumps forward and back. Each version is refreshed at most once, and
// requests succeed.
func TestClockJumpCausesNoLoop(t *testing.T) {
	bubble(t, func(t *testing.T, w *env) {
		w.connect("acme")
		var off atomic.Int64
		w.configure = func(c *Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
			c.Server = &jumping{c.Server, c.Now}
		}
		p := w.start("")
		defer p.stop()
		for _, jump := range []time.Duration{5 * time.Minute, -5 * time.Minute, time.Hour, -time.Hour, 24 * time.Hour, -24 * time.Hour} {
			before := w.server.count()
			off.Add(int64(jump))
			for range 30 {
				p.mustAuthorize("acme")
				time.Sleep(time.Second)
			}
			synctest.Wait()
			if n := w.server.count() - before; n > 1 {
				t.Errorf("%d refreshes in 30 s after the clock jumped by %v, want at most 1", n, jump)
			}
		}
		if tokens := w.server.sentMoreThan(1); len(tokens) > 0 {
			t.Errorf("tokens were tokens sent more than once: %v", tokens)
		}
	})
}
