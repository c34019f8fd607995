package main

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// addKey adds a connection with a new key of the first company.
func (w *env) addKey(name string) simulator.Key {
	w.t.Helper()
	k := w.issueKey(w.sim.Companies()[0].ID)
	code, _, stderr := w.run(k.Value, "connections", "add", name, "--kind", "standalone_key", "--key-file", "-")
	if code != exitDone {
		w.t.Fatalf("connections add exits %d, want 0:\n%s", code, stderr)
	}
	return k
}

func (w *env) issueKey(company string) simulator.Key {
	w.t.Helper()
	k, err := w.sim.IssueKey(simulator.Key{Company: company})
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

func (w *env) revokeKey(k simulator.Key) {
	w.t.Helper()
	if err := w.sim.RevokeKey(k.ID); err != nil {
		w.t.Fatal(err)
	}
}

// stage stages the next key of the connection.
func (w *env) stage(name string, k simulator.Key) {
	w.t.Helper()
	v := w.openStore()
	c, err := v.Store.Connections.Find(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := v.Store.Connections.StageKey(w.t.Context(), c.ID, credstore.NewSecret(k.Value), time.Time{}); err != nil {
		w.t.Fatal(err)
	}
}

// connection returns a connection as the server's API shows it.
func (p *process) connection(name string) manage.Connection {
	p.t.Helper()
	a := p.admin("/api/v1/connections/" + name)
	var c manage.Connection
	if err := json.Unmarshal([]byte(a.body), &c); err != nil {
		p.t.Fatalf("the server responds %d %s: %v", a.status, a.body, err)
	}
	return c
}

// A key that Pleo no longer accepts is checked once, however many
// requests it has failed; then the connection requires reauthorization, and clients get
// Pleo's own 401 or ours.
func TestRevokedKeyIsRejectedAfterOneCheck(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	k := w.addKey("acme")
	p := w.serve()
	if got := p.requestConcurrently(5, "acme"); got[http.StatusOK] != 5 {
		t.Fatalf("before the revocation the statuses are %v, want 5 times 200", got)
	}
	w.revokeKey(k)
	before := w.sim.Counters().APIIntrospections
	if got := p.requestConcurrently(50, "acme"); got[http.StatusUnauthorized] != 50 {
		t.Errorf("after the revocation the statuses are %v, want 50 times 401", got)
	}
	if checks := w.sim.Counters().APIIntrospections - before; checks != 1 {
		t.Errorf("the key was checked %d times, want once", checks)
	}
	if c := p.connection("acme"); c.Status != "reauthorization_required" || c.Reason == nil || *c.Reason != credstore.ReasonKeyRejected {
		t.Errorf("the connection is %s, want reauthorization_required with reason %s", c.Status, credstore.ReasonKeyRejected)
	}
}

// A staged key takes over within the request in which the old one is rejected.
func TestStagedKeyTakesOver(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	k := w.addKey("acme")
	w.stage("acme", w.issueKey(k.Company))
	p := w.serve()
	w.revokeKey(k)
	if got := p.requestConcurrently(50, "acme"); got[http.StatusOK] != 50 {
		t.Errorf("the statuses are %v, want 50 times 200", got)
	}
	if c := p.connection("acme"); c.Status != "active" || c.Version == nil || *c.Version != 2 {
		t.Errorf("the connection is %s, version %v, want active, version 2", c.Status, c.Version)
	}
}

// A staged key of another company would book one company's expenses in another
// company's ledger.
func TestStagedKeyOfAnotherCompanyIsNotUsed(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	k := w.addKey("acme")
	other, err := w.sim.AddCompany(simulator.Company{Name: "Other"})
	if err != nil {
		t.Fatal(err)
	}
	w.stage("acme", w.issueKey(other.ID))
	p := w.serve()
	w.revokeKey(k)
	if got := p.requestConcurrently(10, "acme"); got[http.StatusUnauthorized] != 10 {
		t.Errorf("the statuses are %v, want 10 times 401", got)
	}
	if c := p.connection("acme"); c.Status != "reauthorization_required" || *c.Version != 1 {
		t.Errorf("the connection is %s, version %d, want reauthorization_required, version 1", c.Status, *c.Version)
	}
}

// An API that responds 401 to everything but introspection does not reject the
// key.
func TestKeyIsNotRejectedForOneFailedRequest(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	w.addKey("acme")
	p := w.serve()
	w.fault(simulator.Fault{
		Target: simulator.TargetAPI, Kind: simulator.FaultStatus, Path: "/v2/employees", Status: http.StatusUnauthorized,
	})
	if got := p.requestConcurrently(10, "acme"); got[http.StatusUnauthorized] != 10 {
		t.Errorf("the statuses are %v, want 10 times Pleo's 401", got)
	}
	if c := p.connection("acme"); c.Status != "active" {
		t.Errorf("the connection is %s, want active", c.Status)
	}
}
