//go:build browser

package main

import (
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/browsertest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// TestBrowserConsent is the way of a customer who does all right: from the link
// to the company's name.
func TestBrowserConsent(t *testing.T) {
	w := newConnectWorld(t, simulator.Settings{OAuth: simulator.OAuthSettings{Consent: "page"}})
	w.add("acme", "oauth", "Acme Holding A/S (customer 4711)")
	w.serve()
	link := w.connectLink("acme", "--return-url", returnURL)
	tab := browsertest.Start(t).Tab()
	tab.Open(link)
	tab.Inspect("consent")
	tab.Follow("main button")
	tab.Follow(`button[value="allow"]`)
	tab.Inspect("connected")
	tab.WantText("Company 1 ApS", "Acme Holding")
}

// key is what somebody types who does not take care.
func (w *connectWorld) key(k simulator.Key) string {
	w.t.Helper()
	made, err := w.sim.AddKey(k)
	if err != nil {
		w.t.Fatal(err)
	}
	return made.Value
}
