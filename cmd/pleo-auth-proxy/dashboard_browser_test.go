//go:build browser

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/browsertest"
)

// TestBrowserOperatorFixesConnection checks the path of an operator after a customer's
// grant has ended: from the overview to the connection, to a connect link, with which
// the customer connects.
func TestBrowserOperatorFixesConnection(t *testing.T) {
	w := newConnectEnv(t, consentPage())
	w.add("acme", "oauth", "Acme (4711)")
	w.add("beta", "oauth", "Beta (4712)")
	p := w.serve()
	browser := browsertest.Start(t)
	customer := browser.Tab()
	customer.Open(w.connectLink("acme"))
	w.approve(customer, ourButton, "Acme ApS")
	w.revoke("acme", p)

	token, err := os.ReadFile(filepath.Join(w.dir, "data", "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	operator := browser.Tab()
	operator.Open("http://" + p.addresses["admin"])
	operator.WantText("Reauthorization required", "acme", "Acme ApS", "Create a connect link and send it", "1 connection is waiting for the customer")
	operator.Inspect("story-overview")
	operator.Follow(".card .button") // the first thing there is to do
	operator.WantText("Sign in", "admin-token")
	operator.Fill("#token", strings.TrimSpace(string(token)))
	operator.Follow("main form button")
	operator.Follow("main form button") // to confirm
	link := operator.Attribute("#link", "value")
	if !strings.HasPrefix(link, w.public+"/connect/") {
		t.Fatalf("the page shows the link %q, want one to %s", link, w.public)
	}
	operator.Click("button[data-copies]")

	customer.Open(link)
	w.approve(customer, ourButton, "Acme ApS")
	customer.WantText("Acme ApS")

	operator.Follow("main a.button")
	operator.WantText("Working.", "Recovered", "customer", "Connect link created", "Reauthorization required")
	operator.Inspect("story-recovered")
	operator.Open("http://" + p.addresses["admin"])
	operator.WantText("No connection needs attention.")
	operator.Follow(".who button")
	operator.WantText("Sign in to make changes")
	if strings.Contains(p.log.String(), strings.TrimSpace(string(token))) || strings.Contains(p.log.String(), link[strings.LastIndexByte(link, '/')+1:]) {
		t.Errorf("the log shows the token or the link:\n%s", p.log)
	}
}
