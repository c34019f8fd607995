package main

import (
	"strings"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// reasonOf returns why the grant is not active.
func (w *env) reasonOf(grant string) string {
	w.t.Helper()
	for _, g := range w.sim.Grants() {
		if g.ID == grant {
			return g.Reason
		}
	}
	w.t.Fatalf("the simulator knows no grant %s", grant)
	return ""
}

func (w *env) wantRemoved(name string) {
	w.t.Helper()
	if code, _, stderr := w.run("", "connections", "show", name); code != exitNotFound {
		w.t.Errorf("connections show %s exits %d after the removal, want 3:\n%s", name, code, stderr)
	}
}

// TestRemoveUninstallsAfterARefresh: only servers send refresh tokens, so a
// connection whose access token has expired needs one to be uninstalled.
func TestRemoveUninstallsAfterARefresh(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	grant, line := w.expired("acme")
	w.importLines(line)
	p := w.serve()
	code, stdout, stderr := w.run("", "connections", "remove", "acme", "--uninstall", "--json")
	if code != exitDone || !strings.Contains(stderr, `removed connection "acme". The integration was uninstalled at Pleo.`) {
		t.Fatalf("connections remove --uninstall exits %d, want 0:\n%s", code, stderr)
	}
	if !strings.Contains(stdout, `"name": "acme"`) {
		t.Errorf("it prints %s, want the connection", stdout)
	}
	if got := w.reasonOf(grant.ID); got != "uninstalled" {
		t.Errorf("the grant ended because of %q, want uninstalled", got)
	}
	w.wantRemoved("acme")
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d", code)
	}
}

func TestRemoveUninstalls(t *testing.T) {
	for _, tt := range []struct {
		name    string
		expired bool
		fault   *simulator.Fault
		code    int
		stderr  string
		ended   bool
	}{
		{name: "done", code: exitDone, stderr: "The integration was uninstalled at Pleo.", ended: true},
		{
			name: "Pleo fails", fault: &simulator.Fault{Target: "api", Kind: "status", Status: 502}, code: exitFailed,
			stderr: "could not be uninstalled at Pleo (uninstalling the integration: the server returned status 502). Ask the customer to remove it there",
		},
		{
			name: "nothing is installed", fault: &simulator.Fault{Target: "api", Kind: "status", Status: 404}, code: exitDone,
			stderr: "the integration is not installed at Pleo",
		},
		{
			name: "Pleo hangs up", fault: &simulator.Fault{Target: "api", Kind: "reset"}, code: exitFailed,
			stderr: `error: removed connection "`,
		},
		{
			name: "expired and no server to refresh it", expired: true, code: exitFailed,
			stderr: "no server has started it within 5s",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newEnv(t, simulator.Settings{})
			grant, line := w.grant("acme", simulator.GrantRequest{})
			if tt.expired {
				grant, line = w.expired("acme")
			}
			w.importLines(line)
			if tt.fault != nil {
				w.fault(*tt.fault)
			}
			code, _, stderr := w.run("", "connections", "remove", "acme", "--uninstall")
			if code != tt.code || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("connections remove --uninstall exits %d, want %d and %q:\n%s", code, tt.code, tt.stderr, stderr)
			}
			if ended := w.reasonOf(grant.ID) == "uninstalled"; ended != tt.ended {
				t.Errorf("the grant has ended: %v, want %v", ended, tt.ended)
			}
			w.wantRemoved("acme")
			if n := w.sim.Counters().MaxTimesSent; n != 0 {
				t.Errorf("the command has sent a refresh token %d times", n)
			}
		})
	}
}

func TestRemoveUninstallsWithAKey(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	if code, _, stderr := w.run("", "connections", "add", "waiting", "--kind", "oauth"); code != exitDone {
		t.Fatal(stderr)
	}
	code, _, stderr := w.run("", "connections", "remove", "waiting", "--uninstall")
	if code != exitDone || !strings.Contains(stderr, "never had a credential") {
		t.Errorf("removing a pending connection exits %d, want 0 and why nothing is uninstalled:\n%s", code, stderr)
	}
	k, err := w.sim.IssueKey(simulator.Key{Company: w.sim.Companies()[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := w.run(k.Value, "connections", "add", "shop", "--kind", "standalone_key", "--key-file", "-"); code != exitDone {
		t.Fatal(stderr)
	}
	code, _, stderr = w.run("", "connections", "remove", "shop", "--uninstall")
	if code != exitDone || !strings.Contains(stderr, "the integration is not installed at Pleo") {
		t.Errorf("connections remove --uninstall with a key exits %d, want 0 and that nothing was installed:\n%s", code, stderr)
	}
	w.wantRemoved("shop")
}
