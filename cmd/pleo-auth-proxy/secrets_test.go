package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// The planted secrets. The simulator's tokens all begin alike, so that those
// which a refresh brings are found too.
const (
	plantedClientSecret = "canary+client/secret %:42"
	plantedPrevious     = "canary-previous-secret"
	plantedKey          = "canary_api_key"
	accessTokenMark     = "sim-access."
	refreshTokenMark    = "sim-refresh."
)

// secretForms are the secrets in every form in which they travel.
func secretForms(clientID string) []string {
	encode := base64.StdEncoding.EncodeToString
	return []string{
		plantedClientSecret, url.QueryEscape(plantedClientSecret), plantedPrevious, plantedKey,
		accessTokenMark, refreshTokenMark,
		encode([]byte(plantedKey + ":")),
		encode([]byte(url.QueryEscape(clientID) + ":" + url.QueryEscape(plantedClientSecret))),
		encode([]byte(clientID + ":" + plantedClientSecret)),
	}
}

// TestNoSecretInOutput plants secrets, uses them in every way, and searches for them in
// everything that the program logs at debug level or leaves on disk.
func TestNoSecretInOutput(t *testing.T) {
	w := newEnv(t, simulator.Settings{}, "log: {level: debug}")
	w.plantClientSecret()
	var said strings.Builder
	w.plantConnections(&said)
	p := w.serve()
	w.causeFailures(p, &said)
	for _, path := range []string{
		"/", "/connections", "/connections/acme", "/connections/rejected", "/connections/acme/key", "/api/v1/connections/rejected/history",
		"/metrics", "/readyz?verbose", "/api/v1/connections", "/api/v1/connections/acme", "/api/v1/connections/rejected",
		"/api/v1/connections/unknown", "/api/v1/connections?cursor=" + plantedKey,
	} {
		a := p.admin(path)
		fmt.Fprintf(&said, "%v %s\n", a.header, a.body)
	}
	for _, args := range [][]string{{"connections", "list"}, {"connections", "list", "--json"}, {"connections", "show", "rejected"}, {"config", "validate", "--json"}} {
		_, stdout, stderr := w.run("", args...)
		said.WriteString(stdout + stderr)
	}
	w.searchFiles(filepath.Join(w.dir, "data")) // while the server is running, with the write-ahead log
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	w.search("what the program said", said.String())
	w.search("the log", p.log.String())
	w.searchFiles(filepath.Join(w.dir, "data"))
	for _, happened := range []string{`"msg":"refreshed"`, `"connection":"failing"`, `"code":"reauthorization_required"`, `"msg":"stopped"`} {
		if !strings.Contains(p.log.String(), happened) {
			t.Errorf("the log lacks %s, so that did not happen and was not tested:\n%s", happened, p.log)
		}
	}
}

// TestUnsolicitedResponseIsNotLogged has the API send more than the length of its
// response.
func TestUnsolicitedResponseIsNotLogged(t *testing.T) {
	const unsolicited = "expenses of a customer"
	w := newEnv(t, simulator.Settings{})
	api, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = api.Close() }()
	config, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.write("config.yaml", strings.Replace(string(config), fmt.Sprintf("api_url: %q", w.url), fmt.Sprintf("api_url: %q", "http://"+api.Addr().String()), 1))
	_, acme := w.grant("acme", simulator.GrantRequest{})
	w.importLines(acme)
	p := w.serve()
	hungUp := make(chan struct{})
	go func() {
		defer close(hungUp)
		conn, err := api.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"+unsolicited)
		_, _ = io.Copy(io.Discard, conn) // until the proxy has seen it
	}()
	if a, err := p.get(client(t), "acme", "/v1/x"); a.body != "ok" || err != nil {
		t.Errorf("response = %q, %v, want ok", a.body, err)
	}
	<-hungUp
	p.stop()
	if strings.Contains(p.log.String(), unsolicited) {
		t.Errorf("the log quotes the API:\n%s", p.log)
	}
}

// plantClientSecret gives the client a known secret, and the configuration too.
func (w *env) plantClientSecret() {
	w.t.Helper()
	client := w.sim.DefaultClient()
	old := client.Secret
	client.Secret = plantedClientSecret
	if err := w.sim.SetClient(client); err != nil {
		w.t.Fatal(err)
	}
	config, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	changed := strings.Replace(string(config), fmt.Sprintf("client_secret: %q", old),
		fmt.Sprintf("client_secret: %q, previous_client_secret: %q", plantedClientSecret, plantedPrevious), 1)
	w.write("config.yaml", changed)
}

// plantConnections makes one connection of each kind, one of them with a grant
// that is revoked later.
func (w *env) plantConnections(said *strings.Builder) {
	w.t.Helper()
	_, acme := w.expired("acme")
	_, failing := w.expired("failing")
	grant, rejected := w.expired("rejected")
	if err := w.sim.RevokeGrant(grant.ID); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.sim.IssueKey(simulator.Key{ID: "k", Value: plantedKey, Company: w.sim.Companies()[0].ID}); err != nil {
		w.t.Fatal(err)
	}
	for _, step := range []struct {
		stdin string
		args  []string
	}{
		{strings.Join([]string{acme, rejected, failing, "broken " + acme, `{"name":"` + plantedKey}, "\n"), []string{"connections", "import", "-"}},
		{acme, []string{"connections", "import", "-", "--json"}},
		{plantedKey, []string{"connections", "add", "key", "--kind", "standalone_key", "--key-file", "-"}},
		{plantedKey + "\nmore", []string{"connections", "add", "key2", "--kind", "standalone_key", "--key-file", "-"}},
		{"", []string{"connections", "show", plantedKey + "/"}},
		{"", []string{"connections", "list", plantedKey}},
	} {
		_, stdout, stderr := w.run(step.stdin, step.args...)
		said.WriteString(stdout + stderr)
	}
}

// causeFailures sends requests that succeed, and requests that fail.
func (w *env) causeFailures(p *process, said *strings.Builder) {
	w.t.Helper()
	c := client(w.t)
	request := func(connection, path string, want int) {
		w.t.Helper()
		a, err := p.get(c, connection, path)
		if err != nil || a.status != want {
			w.t.Errorf("GET %s as %s: %d %v, want %d", path, connection, a.status, err, want)
		}
		fmt.Fprintf(said, "%d %v %s\n", a.status, a.header, a.body)
	}
	request("acme", "/v2/employees", 200)
	request("acme", "/v2/employees?q="+url.QueryEscape(plantedClientSecret), 200)
	request("rejected", "/v2/employees", 401)
	request("key", "/echo/x", 200)
	request("unknown", "/echo", 400)
	for _, f := range []simulator.Fault{{Kind: "status", Status: 429, Count: 1}, {Kind: "html", Count: 1}} {
		w.fault(f)
		request("failing", "/v2/employees", 503)
	}
	w.fault(simulator.Fault{Target: "api", Kind: "reset", Count: 2}) // a GET is sent again, once
	request("key", "/v2/employees", 502)
	if err := w.sim.RevokeKey("k"); err != nil {
		w.t.Fatal(err)
	}
	request("key", "/v2/employees", 401)
	r, err := http.NewRequest(http.MethodGet, "http://"+p.addresses["proxy"]+"/echo", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Pleo-Connection", "acme")
	r.Header.Set("Authorization", "Bearer "+plantedKey)
	a, err := send(c, r)
	if err != nil {
		w.t.Fatal(err)
	}
	said.WriteString(a.body)
}

// search reports every planted secret in text.
func (w *env) search(where, text string) {
	w.t.Helper()
	for _, secret := range secretForms(w.sim.DefaultClient().ID) {
		if i := strings.Index(text, secret); i >= 0 {
			w.t.Errorf("%s shows %q: …%s…", where, secret, text[max(0, i-100):min(len(text), i+100)])
		}
	}
}

func (w *env) searchFiles(dir string) {
	w.t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		w.search(path, string(data))
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			w.t.Errorf("%s has mode %v, want nothing for group and others", path, info.Mode())
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if files < 2 {
		w.t.Errorf("%s holds %d files, want a keyset and a store at least", dir, files)
	}
}
