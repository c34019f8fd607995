package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// do runs a command that must succeed.
func (w *env) do(stdin string, args ...string) {
	w.t.Helper()
	if code, _, stderr := w.run(stdin, args...); code != exitDone {
		w.t.Fatalf("%v exits %d, want 0:\n%s", args, code, stderr)
	}
}

// waitForStatus waits until requests of the connection get the status.
func (p *process) waitForStatus(connection string, status int) {
	p.t.Helper()
	c := client(p.t)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		a, err := p.get(c, connection, "/v2/employees")
		if err == nil && a.status == status {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("requests of %s get %d, %v, want %d", connection, a.status, err, status)
		}
	}
}

// TestCommandsBesideRunningServer checks that a running server applies what commands
// change, without a restart.
func TestCommandsBesideRunningServer(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	_, line := w.grant("acme", simulator.GrantRequest{})
	w.importLines(line)
	first, err := w.sim.IssueKey(simulator.Key{ID: "first", Company: w.sim.Companies()[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.sim.IssueKey(simulator.Key{ID: "second", Company: w.sim.Companies()[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	w.do(first.Value, "connections", "add", "shop", "--kind", "standalone_key", "--key-file", "-")
	p := w.serve()
	p.waitForStatus("acme", http.StatusOK)
	w.do("", "connections", "disable", "acme")
	p.waitForStatus("acme", http.StatusForbidden)
	w.do("", "connections", "enable", "acme")
	p.waitForStatus("acme", http.StatusOK)
	p.waitForStatus("shop", http.StatusOK)
	w.do(second.Value, "connections", "set-key", "shop")
	if err := w.sim.RevokeKey("first"); err != nil {
		t.Fatal(err)
	}
	p.waitForStatus("shop", http.StatusOK)
	w.do("", "connections", "check", "shop")
	w.do("", "connections", "export", "acme", "--with-secrets")
	p.waitForStatus("acme", http.StatusForbidden)
	w.checkAlive(1)
}

// TestExportSkipsUnknownOutcomes: while the outcome of a refresh is not
// known, no other program may get the token, and the connection stays in use here.
func TestExportSkipsUnknownOutcomes(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	_, line := w.expired("acme")
	w.importLines(line)
	w.fault(simulator.Fault{Kind: simulator.FaultTruncate, Cut: 10})
	p := w.serve()
	if a, err := p.get(client(t), "acme", "/v2/employees"); err != nil || a.status != http.StatusServiceUnavailable {
		t.Fatalf("a request while responses are lost: %d, %v, want 503", a.status, err)
	}
	code, stdout, stderr := w.run("", "connections", "export", "--with-secrets")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, `skipped: connection "acme" has a refresh of unknown outcome`) {
		t.Errorf("connections export exits %d with %q, want 1 and why acme is skipped:\n%s", code, stdout, stderr)
	}
	if c := w.show("acme"); c.Status == string(credstore.Disabled) {
		t.Errorf("acme is %s although it was skipped", c.Status)
	}
}
