package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// requestConcurrently sends n requests of one connection at once and counts the responses
// by status. 0 counts the requests without a response.
func (p *process) requestConcurrently(n int, connection string) map[int]int {
	c := client(p.t)
	var (
		mu       sync.Mutex // guards statuses
		statuses = map[int]int{}
		running  sync.WaitGroup
		begin    = make(chan struct{})
	)
	for range n {
		running.Go(func() {
			<-begin
			a, _ := p.get(c, connection, "/v2/employees") // an error counts as status 0
			mu.Lock()
			defer mu.Unlock()
			statuses[a.status]++
		})
	}
	close(begin)
	running.Wait()
	return statuses
}

// waitForRefresh waits for a step of a token request.
func (w *env) waitForRefresh(phase string) simulator.Event {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	e, err := w.sim.AwaitEvent(ctx, 0, func(e simulator.Event) bool { return e.Phase == phase })
	if err != nil {
		w.t.Fatalf("waiting for a token request to be %s: %v", phase, err)
	}
	return e
}

func (w *env) fault(f simulator.Fault) {
	w.t.Helper()
	if _, err := w.sim.SetFault(f); err != nil {
		w.t.Fatal(err)
	}
}

// expired returns an import line whose access token has expired.
func (w *env) expired(name string) (simulator.Grant, string) {
	g, line := w.grant(name, simulator.GrantRequest{})
	return g, strings.Replace(line, g.ExpiresAt.Format(time.RFC3339Nano), "2001-01-01T00:00:00Z", 1)
}

// checkAlive reports a grant that was revoked, and refresh tokens that were
// sent more often than allowed.
func (w *env) checkAlive(timesSent int) {
	w.t.Helper()
	for _, g := range w.sim.Grants() {
		if !g.Live {
			w.t.Errorf("grant %s was lost: %s", g.ID, g.Reason)
		}
	}
	if got := w.sim.Counters().MaxTimesSent; got > timesSent {
		w.t.Errorf("a refresh token was sent %d times, want at most %d", got, timesSent)
	}
}

func TestManyClientsShareOneRefresh(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(*env) string // returns the line to import
		api     map[string]int    // responses of the API by status
	}{
		{
			name:    "token has expired",
			prepare: func(w *env) string { _, line := w.expired("acme"); return line },
			api:     map[string]int{"200": 200},
		},
		{
			name: "API says 401",
			prepare: func(w *env) string {
				g, line := w.grant("acme", simulator.GrantRequest{})
				w.sim.KillAccessTokens(g.ID, "")
				return line
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newEnv(t, simulator.Settings{})
			w.importLines(test.prepare(w))
			p := w.serve()
			w.sim.ResetCounters()
			if diff := cmp.Diff(map[int]int{http.StatusOK: 200}, p.requestConcurrently(200, "acme")); diff != "" {
				t.Errorf("responses by status (-want +got):\n%s", diff)
			}
			counters := w.sim.Counters()
			if counters.Refreshes != 1 {
				t.Errorf("%d refreshes, want 1", counters.Refreshes)
			}
			if test.api != nil && !cmp.Equal(test.api, counters.APIRequests) {
				t.Errorf("the API responded %v, want %v", counters.APIRequests, test.api)
			}
			w.checkAlive(1)
		})
	}
}

// TestKilledBeforeTokenEndpointCommits kills the program while its refresh token is
// in flight and nothing has changed at the authorization server.
func TestKilledBeforeTokenEndpointCommits(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	_, line := w.expired("acme")
	w.importLines(line)
	w.fault(simulator.Fault{Kind: "hang", Abandon: true, Count: 1})
	p := w.serve()
	requested := make(chan struct{})
	go func() {
		defer close(requested)
		_, _ = p.get(client(t), "acme", "/v2/employees") // the program is killed during this request
	}()
	w.waitForRefresh(simulator.PhaseReceived)
	p.kill()
	<-requested
	w.checkServesAgain(2)
}

// TestKilledWhenNewTokenIsUsed kills the program at the moment when the first
// request with the new access token arrives: by then the refresh token that came with
// it is durable. The fault tests measure how soon after the commit that is.
func TestKilledWhenNewTokenIsUsed(t *testing.T) {
	for range 3 {
		w := newEnv(t, simulator.Settings{})
		_, line := w.expired("acme")
		w.importLines(line)
		p := w.serve()
		requested := make(chan struct{})
		go func() {
			defer close(requested)
			_, _ = p.get(client(t), "acme", "/v2/employees") // the program may be killed during this request
		}()
		w.awaitRequest("/v2/employees")
		p.kill()
		<-requested
		w.checkServesAgain(1)
	}
}

// checkServesAgain starts the program again with the same files and sends a request.
func (w *env) checkServesAgain(timesSent int) {
	w.t.Helper()
	p := w.serve()
	began := time.Now()
	a, err := p.get(client(w.t), "acme", "/v2/employees")
	if err != nil || a.status != http.StatusOK {
		w.t.Errorf("after the restart: %d %v, want 200\n%s\n%s", a.status, err, a.body, p.log)
	}
	w.t.Logf("first response %v after the restart was ready", time.Since(began).Round(time.Millisecond))
	if code := p.stop(); code != 0 {
		w.t.Errorf("exit code %d, want 0", code)
	}
	w.checkAlive(timesSent)
}

// TestShutdownDuringRefresh sends several signals during a refresh. The program
// serves probes, waits, saves, and then exits.
func TestShutdownDuringRefresh(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	_, line := w.expired("acme")
	w.importLines(line)
	w.fault(simulator.Fault{Kind: "hang", Count: 1})
	p := w.serve()
	var got response
	requested := make(chan struct{})
	go func() {
		defer close(requested)
		got, _ = p.get(client(t), "acme", "/v2/employees") // an error shows as status 0
	}()
	w.waitForRefresh(simulator.PhaseReceived)
	p.signal(syscall.SIGTERM)
	p.awaitNotReady()
	p.signal(syscall.SIGINT)
	p.signal(syscall.SIGTERM)
	w.sim.ClearFaults()
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d, want 0:\n%s", code, p.log)
	}
	<-requested
	if got.status != http.StatusOK {
		t.Errorf("the request under way got %d, want 200: %s", got.status, got.body)
	}
	w.checkServesAgain(1)
}

// awaitNotReady polls the health listener until the server is draining.
func (p *process) awaitNotReady() {
	p.t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://"+p.addresses["health"]+"/readyz", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for c, began := client(p.t), time.Now(); time.Since(began) < 20*time.Second; {
		a, err := send(c, r)
		if err != nil {
			p.t.Fatalf("asking a draining server: %v", err)
		}
		if a.status == http.StatusServiceUnavailable && a.body == "not ready: draining\n" {
			return
		}
	}
	p.t.Fatal("the server does not say that it drains")
}

func TestShutdownFinishesRequestsInFlight(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	_, line := w.grant("acme", simulator.GrantRequest{})
	w.importLines(line)
	w.fault(simulator.Fault{Target: "api", Kind: "hang", Count: 1})
	p := w.serve()
	var got response
	requested := make(chan struct{})
	go func() {
		defer close(requested)
		got, _ = p.get(client(t), "acme", "/v2/employees") // an error shows as status 0
	}()
	w.awaitRequest("/v2/employees")
	p.signal(syscall.SIGTERM)
	p.awaitNotReady()
	w.sim.ClearFaults()
	<-requested
	if got.status != http.StatusOK {
		t.Errorf("the request under way got %d, want 200: %s", got.status, got.body)
	}
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestClosedLogPipeDoesNotStopServer closes the pipe that the program logs to, as
// happens when the program that reads the log ends.
func TestClosedLogPipeDoesNotStopServer(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	_, line := w.expired("acme")
	w.importLines(line)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, log: &output{}, exited: make(chan struct{})}
	p.start(os.Args[0], w.dir, w.config, writer)
	if err := errors.Join(reader.Close(), writer.Close()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a, err := p.get(client(t), "acme", "/v2/employees")
		if err != nil || a.status != http.StatusOK {
			t.Errorf("without a log: %d %v, want 200", a.status, err)
		}
	}
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	w.checkAlive(1)
}
