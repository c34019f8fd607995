package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// returnURL is where links may lead back to in the tests.
const returnURL = "https://books.example.com/pleo/done?from=pleo"

// connectWorld is a world with pages for customers.
type connectWorld struct {
	*world
	public string // the URL of the pages
}

// newConnectWorld starts a simulator whose client may be redirected to the
// pages. The settings are lines of configuration.
func newConnectWorld(t testing.TB, settings simulator.Settings, lines ...string) *connectWorld {
	t.Helper()
	public := "http://" + freeAddress(t)
	if len(settings.Clients) == 0 {
		settings.Clients = []simulator.Client{{
			ID: simulator.DefaultClientID, Secret: simulator.DefaultClientSecret,
			Name: "Fjord Books", RedirectURIs: []string{public + "/oauth/callback"},
		}}
	}
	lines = append([]string{fmt.Sprintf(`connect:
  listen: %q
  public_url: %q
  return_urls: [%q]
  branding: {name: Fjord Books}`, strings.TrimPrefix(public, "http://"), public, returnURL)}, lines...)
	w := newWorld(t, settings, lines...)
	raw, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.write(filepath.Base(w.config), replaceOnce(t, string(raw), "oauth: {", "oauth: {scopes: [users:read, companies:read, export-jobs:read, export-jobs:write, export-items:read], "))
	return &connectWorld{world: w, public: public}
}

// freeAddress returns an address of this machine that nobody listens at: the
// pages have to know their own before they are served.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// add makes a connection without a credential.
func (w *connectWorld) add(name, kind, tenant string) {
	w.t.Helper()
	if code, _, stderr := w.run("", "connections", "add", name, "--kind", kind, "--external-tenant", tenant); code != exitDone {
		w.t.Fatalf("connections add %s exits %d:\n%s", name, code, stderr)
	}
}

// connectLink returns what the command connect prints.
func (w *connectWorld) connectLink(name string, flags ...string) string {
	w.t.Helper()
	code, stdout, stderr := w.run("", append([]string{"connect", name}, flags...)...)
	link, rest, _ := strings.Cut(stdout, "\n")
	if code != exitDone || rest != "" || !strings.HasPrefix(link, w.public+"/connect/") {
		w.t.Fatalf("connect %s exits %d and prints %q, want a link and nothing else:\n%s", name, code, stdout, stderr)
	}
	return link
}
