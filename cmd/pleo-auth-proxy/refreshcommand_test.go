package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// rejectAll makes the authorization server reject every refresh token.
func (w *env) rejectAll() {
	w.t.Helper()
	w.fault(simulator.Fault{Kind: simulator.FaultStatus, Status: http.StatusBadRequest, Body: `{"error":"invalid_grant"}`})
}

func (w *env) show(name string) (c manage.Connection) {
	w.t.Helper()
	code, stdout, stderr := w.run("", "connections", "show", name, "--json")
	if code != exitDone {
		w.t.Fatalf("connections show exits %d:\n%s", code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &c); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// awaitStatus waits until the connection has the status.
func (w *env) awaitStatus(name string, want credstore.Status) manage.Connection {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c := w.show(name)
		if c.Status == string(want) {
			return c
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("connection %q = %+v, want status %s", name, c, want)
		}
	}
}

func TestRefreshCommandUsesRunningServer(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	w.fill(1)
	w.serve()
	for want := range 3 {
		code, stdout, stderr := w.run("", "connections", "refresh", "c000", "--json")
		var c manage.Connection
		if err := json.Unmarshal([]byte(stdout), &c); code != exitDone || err != nil {
			t.Fatalf("connections refresh exits %d, %v, want 0 and the connection:\n%s", code, err, stderr)
		}
		if *c.Version != int64(want+2) || c.Status != "active" {
			t.Errorf("refreshed = version %d, %s, want %d, active", *c.Version, c.Status, want+2)
		}
	}
	w.checkAlive(1)
}

// TestRefreshCommandDoesNotRefreshItself: without a server no token is sent, and
// the next server refreshes.
func TestRefreshCommandDoesNotRefreshItself(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	w.fill(1)
	code, stdout, stderr := w.run("", "connections", "refresh", "c000", "--wait", "100ms")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "no server has started it within 100ms") {
		t.Errorf("connections refresh without a server exits %d, want 1 and why:\n%s", code, stderr)
	}
	if got := w.sim.Counters().MaxTimesSent; got != 0 {
		t.Errorf("the command has sent a refresh token %d times", got)
	}
	w.serve()
	for deadline := time.Now().Add(time.Minute); *w.show("c000").Version != 2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server does not refresh what was requested before it started")
		}
	}
	w.checkAlive(1)
}

func TestRefreshCommandReportsFailure(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	w.fill(1)
	w.fault(simulator.Fault{Kind: simulator.FaultStatus, Status: http.StatusTooManyRequests, RetryAfter: "seconds", Wait: simulator.Duration(time.Minute)})
	w.serve()
	code, stdout, stderr := w.run("", "connections", "refresh", "c000")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, `error: refreshing connection "c000": `) || !strings.Contains(stderr, "429") {
		t.Errorf("connections refresh during a 429 exits %d, want 1 and why:\n%s", code, stderr)
	}
}

func TestRetrySendsRejectedTokenAgain(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	w.fill(3)
	w.rejectAll()
	w.serve()
	for _, name := range []string{"c000", "c001"} {
		if code, _, stderr := w.run("", "connections", "refresh", name); code != exitFailed || !strings.Contains(stderr, "invalid_grant") || !strings.Contains(stderr, "; let the customer give consent again: pleo-auth-proxy connect "+name) {
			t.Fatalf("connections refresh during rejections exits %d, want 1, why and what to do:\n%s", code, stderr)
		}
		w.awaitStatus(name, credstore.ReauthorizationRequired)
	}
	code, _, stderr := w.run("", "connections", "refresh", "c000")
	if code != exitFailed || !strings.Contains(stderr, "use retry") {
		t.Errorf("connections refresh of a rejected one exits %d, want 1 and a pointer to retry:\n%s", code, stderr)
	}

	w.sim.ClearFaults()
	code, _, stderr = w.run("", "connections", "retry", "c000")
	if code != exitDone || !strings.Contains(stderr, `requested a retry for connection "c000"`) {
		t.Fatalf("connections retry exits %d, want 0:\n%s", code, stderr)
	}
	if c := w.awaitStatus("c000", credstore.Active); *c.Version != 2 {
		t.Errorf("retried = version %d, want 2", *c.Version)
	}
	code, _, stderr = w.run("", "connections", "retry", "--all")
	if code != exitDone || !strings.Contains(stderr, "for 1 connection; 0 others") {
		t.Fatalf("connections retry --all exits %d, want 0 and 1 connection:\n%s", code, stderr)
	}
	w.awaitStatus("c001", credstore.Active)
	if c := w.show("c002"); *c.Version != 1 {
		t.Errorf("the connection that was not named has version %d, want 1", *c.Version)
	}
}
