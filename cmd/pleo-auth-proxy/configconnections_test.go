package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// configureKey writes a configuration of one connection whose key is in a file, with
// further settings, and returns the path of that file.
func (w *env) configureKey(k simulator.Key, settings ...string) (keyFile string) {
	w.t.Helper()
	keyFile = w.write("acme.key", k.Value+"\n")
	w.write("config.yaml", fmt.Sprintf(`environment: custom
upstream: {api_url: %q, auth_url: %q}
proxy: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
connections:
  - {name: acme, kind: %s, api_key_file: %q, external_tenant: "4711"}
%s
`, w.url, w.url, simulator.StandaloneKey, keyFile, strings.Join(settings, "\n")))
	return keyFile
}

// replaceFile replaces a file atomically, as Kubernetes does.
func (w *env) replaceFile(path, content string) {
	w.t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		w.t.Fatal(err)
	}
}

// awaitCompany waits until the connection's company is known.
func (p *process) awaitCompany(name string) string {
	p.t.Helper()
	for ends := time.Now().Add(time.Minute); time.Now().Before(ends); time.Sleep(10 * time.Millisecond) {
		if c := p.connection(name); c.CompanyID != nil {
			return *c.CompanyID
		}
	}
	p.t.Fatalf("the company of %s did not become known:\n%s", name, p.log)
	return ""
}

// inMemory configures a store in memory.
const inMemory = "store: {driver: memory}"

func TestConfigKeysWithMemoryStore(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	company := w.sim.Companies()[0].ID
	w.configureKey(w.issueKey(company), inMemory)
	p := w.serve()
	if got := p.requestConcurrently(20, "acme"); got[http.StatusOK] != 20 {
		t.Errorf("the statuses are %v, want 20 times 200", got)
	}
	if got := p.awaitCompany("acme"); got != company {
		t.Errorf("the company is %s, want %s", got, company)
	}
	if c := p.connection("acme"); c.ExternalTenant == nil || *c.ExternalTenant != "4711" {
		t.Errorf("the external tenant is %v, want 4711", c.ExternalTenant)
	}
	for _, name := range []string{".local", "data"} {
		if _, err := os.Stat(filepath.Join(w.dir, name)); !os.IsNotExist(err) {
			t.Errorf("the program has made %s", name)
		}
	}
	if strings.Contains(p.log.String(), `"level":"warn"`) {
		t.Errorf("the start is warned of:\n%s", p.log)
	}
	code, _, stderr := w.run("", "connections", "list")
	if code != exitUsage || !strings.Contains(stderr, "GET /api/v1/connections on its admin listener") {
		t.Errorf("connections list exits %d, want 2 and where to look:\n%s", code, stderr)
	}
}

// A key is rotated by replacing its file, without a restart, and no
// request fails.
func TestConfigKeyFollowsItsFile(t *testing.T) {
	for _, settings := range []string{inMemory, "data_dir: DIR"} {
		t.Run(settings, func(t *testing.T) {
			w := newEnv(t, simulator.Settings{})
			company := w.sim.Companies()[0].ID
			old := w.issueKey(company)
			file := w.configureKey(old, strings.Replace(settings, "DIR", filepath.Join(w.dir, "data"), 1))
			p := w.serve()
			p.awaitCompany("acme")
			w.replaceFile(file, w.issueKey(company).Value)
			p.waitForLog("a connection of the configuration has a new key")
			w.revokeKey(old)
			if got := p.requestConcurrently(20, "acme"); got[http.StatusOK] != 20 {
				t.Errorf("the statuses are %v, want 20 times 200", got)
			}
			if c := p.connection("acme"); *c.Version != 2 || c.Status != "active" {
				t.Errorf("the connection is %s, version %d, want active, version 2", c.Status, *c.Version)
			}
		})
	}
}

// A file with the key of another company is a mix-up, not a rotation.
func TestConfigKeyOfAnotherCompanyIsNotUsed(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	file := w.configureKey(w.issueKey(w.sim.Companies()[0].ID), inMemory)
	other, err := w.sim.AddCompany(simulator.Company{Name: "Other"})
	if err != nil {
		t.Fatal(err)
	}
	p := w.serve()
	before := p.awaitCompany("acme")
	w.replaceFile(file, w.issueKey(other.ID).Value)
	p.waitForLog("cannot apply a connection of the configuration")
	if got := p.requestConcurrently(20, "acme"); got[http.StatusOK] != 20 {
		t.Errorf("the statuses are %v, want 20 times 200 with the old key", got)
	}
	if c := p.connection("acme"); *c.Version != 1 || *c.CompanyID != before {
		t.Errorf("the connection has version %d of company %s, want 1 of %s", *c.Version, *c.CompanyID, before)
	}
}

// A key that was revoked before its file was replaced is replaced by the file.
func TestConfigKeyReplacesRejectedKey(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	company := w.sim.Companies()[0].ID
	old := w.issueKey(company)
	file := w.configureKey(old, inMemory)
	p := w.serve()
	p.awaitCompany("acme")
	w.revokeKey(old)
	if got := p.requestConcurrently(5, "acme"); got[http.StatusUnauthorized] != 5 {
		t.Fatalf("the statuses are %v, want 5 times 401", got)
	}
	w.replaceFile(file, w.issueKey(company).Value)
	p.waitForLog("a connection of the configuration has a new key")
	if c := p.connection("acme"); c.Status != "active" || c.LastError != nil {
		t.Errorf("the connection is %s with last error %v, want active without one", c.Status, c.LastError)
	}
	if got := p.requestConcurrently(5, "acme"); got[http.StatusOK] != 5 {
		t.Errorf("the statuses are %v, want 5 times 200", got)
	}
}

// The configuration takes precedence over what a command has stored.
func TestConfigKeyCannotBeChangedElsewhere(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	k := w.issueKey(w.sim.Companies()[0].ID)
	dataDir := "data_dir: " + filepath.Join(w.dir, "data")
	w.configureKey(k, dataDir)
	if code := w.serve().stop(); code != exitDone {
		t.Fatalf("serve exits %d, want 0", code)
	}

	t.Run("a connection of another kind is in the way", func(t *testing.T) {
		file := w.write("shop.key", k.Value)
		code, _, stderr := w.run(k.Value, "connections", "add", "shop", "--kind", "integrated_key", "--key-file", "-", "--offline")
		if code != exitDone {
			t.Fatal(stderr)
		}
		w.configureKey(k, "  - {name: shop, kind: standalone_key, api_key_file: "+file+"}", dataDir)
		code, _, stderr = w.run("", "serve")
		if code != exitUsage || !strings.Contains(stderr, "remove the one in the store") {
			t.Errorf("serve exits %d, want 2 and what to do:\n%s", code, stderr)
		}
	})
	t.Run("a name that differs by case is in the way", func(t *testing.T) {
		w.configureKey(k, "  - {name: Shop, kind: integrated_key, api_key: "+k.Value+"}", dataDir)
		code, _, stderr := w.run("", "serve")
		if code != exitUsage || !strings.Contains(stderr, `"Shop"`) || !strings.Contains(stderr, `"shop"`) {
			t.Errorf("serve exits %d, want 2 and both names:\n%s", code, stderr)
		}
	})
	t.Run("another key would be gone after the next start", func(t *testing.T) {
		w.configureKey(k, dataDir, `connect: {listen: "127.0.0.1:0", public_url: "http://127.0.0.1:1"}`)
		const want = `connection "acme" has its key in the configuration`
		for _, command := range [][]string{{"connections", "set-key", "acme"}, {"connections", "set-key", "acme", "--next"}, {"connect", "acme"}} {
			if code, _, stderr := w.run(k.Value, command...); code != exitFailed || !strings.Contains(stderr, want) {
				t.Errorf("%s exits %d, want 1 and where the key is:\n%s", strings.Join(command, " "), code, stderr)
			}
		}
		p := w.serve()
		b := w.adminAPI(p)
		for path, body := range map[string]string{"/acme/key": `{"api_key":"k"}`, "/acme/link": "{}"} {
			if got := b.request("POST", path, body, http.StatusConflict, nil); !strings.Contains(got, "has its key in the configuration") {
				t.Errorf("POST %s = %s, want where the key is", path, got)
			}
		}
		const back = "the next start brings it back unless you delete it there"
		if got := b.request("DELETE", "/acme", "", http.StatusOK, nil); !strings.Contains(got, back) {
			t.Errorf("DELETE = %s, want that the connection comes back", got)
		}
		p.stop()
		w.serve().stop()
		if code, _, stderr := w.run("", "connections", "remove", "acme"); code != exitDone || !strings.Contains(stderr, back) {
			t.Errorf("connections remove exits %d, want 0 and that the connection comes back:\n%s", code, stderr)
		}
		w.serve().stop()
	})
	t.Run("one that is no longer in the configuration stays", func(t *testing.T) {
		w.write("config.yaml", strings.Replace(configFor(w.sim, w.url, filepath.Join(w.dir, "data")), "oauth:", "#", 1))
		p := w.serve()
		p.waitForLog("a connection is no longer in the configuration")
		if got := p.requestConcurrently(1, "acme"); got[http.StatusOK] != 1 {
			t.Errorf("the statuses are %v, want 200", got)
		}
	})
}

func TestUnusableConfigKeyFiles(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	for name, content := range map[string]string{"empty": "", "two lines": "a\nb", "spaces": "a b"} {
		t.Run(name, func(t *testing.T) {
			file := w.configureKey(simulator.Key{Value: "k"}, inMemory)
			w.replaceFile(file, content)
			for _, command := range [][]string{{"serve"}, {"config", "validate"}} {
				code, _, stderr := w.run("", command...)
				if code != exitUsage || !strings.Contains(stderr, "connections[0].api_key_file") {
					t.Errorf("%v exits %d, want 2 and the key:\n%s", command, code, stderr)
				}
			}
		})
	}
}
