package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestValidateAcceptsWhatServeAccepts runs both commands with configurations that
// some package rejects when it is given them, and with some that all accept.
func TestValidateAcceptsWhatServeAccepts(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bad, secret := file("bad", "not what it should be"), file("secret", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz")
	const oauth = "oauth: {client_id: c, client_secret: s}\n"
	tests := []struct {
		name, yaml string
		at         string // what the mistake must name, with the line; empty: accepted
	}{
		{"accepted", oauth, ""},
		{"a standard header", oauth + "proxy: {connection_header: User-Agent}\n", ":4: proxy.connection_header"},
		{"a header that is always removed", oauth + "proxy: {connection_header: Forwarded}\n", ":4: proxy.connection_header"},
		{"a header of the proxy", oauth + "proxy: {connection_header: Pleo-Priority}\n", ":4: proxy.connection_header"},
		{"a hop-by-hop header", oauth + "proxy: {connection_header_aliases: [Connection-Id, Keep-Alive]}\n", ":4: proxy.connection_header_aliases"},
		{"a header with a space", oauth + "proxy: {connection_header: Pleo Connection}\n", ":4: proxy.connection_header"},
		{"an allowed host with a port", oauth + "proxy: {allowed_hosts: [\"a.example:80\"]}\n", ":4: proxy.allowed_hosts"},
		{"an allowed IPv6 address", oauth + "proxy: {allowed_hosts: [\"::1\"]}\n", ""},
		{"an allowed host with a hyphen", oauth + "proxy: {allowed_hosts: [-a.example]}\n", ""},
		{"a default connection", oauth + "proxy: {default_connection: acme}\n", ""},
		{"a default connection that is no name", oauth + "proxy: {default_connection: a/b}\n", ":4: proxy.default_connection"},
		{"a client with a colon", oauth + "proxy: {clients: [{name: \"a:b\", token_file: " + secret + "}]}\n", ":4: proxy.clients[0].name"},
		{"a client pattern", oauth + "proxy: {clients: [{name: a, token_file: " + secret + ", connections: [\"[\"]}]}\n", ":4: proxy.clients[0].connections"},
		{"a client path", oauth + "proxy: {clients: [{name: a, token_file: " + secret + ", allow: [{paths: [v1]}]}]}\n", ":4: proxy.clients[0].allow[0].paths"},
		{"a client's file that does not exist", oauth + "proxy: {clients: [{name: a, token_file: " + dir + "/none}]}\n", ":4: proxy.clients[0].token_file"},
		{"no replay", oauth + "replay: {memory: 0, memory_total: 0, max_body: 0, files_total: 0}\n", ""},
		{"certificates that are none", oauth + "proxy: {tls: {cert_file: " + bad + ", key_file: " + bad + ", client_ca_file: " + bad + "}}\n", ":4: proxy.tls.cert_file"},
		{"CA certificates that are none", oauth + "upstream: {ca_file: " + bad + "}\n", ":4: upstream.ca_file"},
		{"an id with a colon", "oauth: {client_id: \"a:b\", client_secret: s, client_auth: basic_plain}\n", ":3: oauth.client_id"},
		{"a client secret file that does not exist", "oauth: {client_id: c, client_secret_file: " + dir + "/none}\n", ":3: oauth.client_secret_file"},
		{"a connection string that is none", oauth + "store: {driver: postgres, dsn: \"postgres://h:x/d\"}\n", ":4: store.dsn"},
		{"a logo that is no image", oauth + "connect: {public_url: \"http://localhost:8486\", branding: {logo_file: " + bad + "}}\n", ":4: connect.branding.logo_file"},
		{"a return URL without TLS", oauth + "connect: {public_url: \"http://localhost:8486\", return_urls: [\"http://a.example\"]}\n", ":4: connect.return_urls"},
		{"CA certificates for ACME that are none", oauth + "connect: {public_url: \"https://a.example\", tls: {acme: {domains: [a.example], ca_root_file: " + bad + "}}}\n", ":4: connect.tls.acme.ca_root_file"},
		{"a webhook secret that is none", oauth + "webhooks: [{url: \"https://a.example\", secret_file: " + bad + "}]\n", ":4: webhooks[0].secret_file"},
		{"a webhook's CA certificates that are none", oauth + "webhooks: [{url: \"https://a.example\", secret_file: " + secret + ", ca_file: " + bad + "}]\n", ":4: webhooks[0].ca_file"},
		{"an API key that cannot be sent", "store: {driver: memory}\nconnections: [{name: a, kind: standalone_key, api_key: \"a b\"}]\n", ":4: connections[0].api_key"},
		{"a short admin token", oauth + "admin: {token_file: " + file("short", "short") + "}\n", ":4: admin.token_file"},
		{"a group that does not exist", oauth + "proxy: {listen: \"unix:" + dir + "/s?group=no-such-group\"}\n", ":4: proxy.listen"},
		{"an admin token in no directory", oauth + "admin: {token_file: " + dir + "/none/token}\n", ":4: admin.token_file"},
		{"a keyset in no directory", oauth + "store: {keyset_file: " + dir + "/none/keyset.json}\n", ":4: store.keyset_file"},
		{"a data directory without a parent", oauth + "data_dir: " + dir + "/none/data\n", ":4: data_dir"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			head := "environment: staging\nlog: {level: error}\n"
			if !strings.Contains(tt.yaml, "data_dir") {
				tt.yaml += "data_dir: " + data + "\n"
			}
			for section, line := range map[string]string{
				"admin": "admin: {listen: \"127.0.0.1:0\"}\n", "proxy": "proxy: {listen: \"127.0.0.1:0\"}\n", "connect": "connect: {listen: \"127.0.0.1:0\"}\n",
			} {
				if !strings.Contains(tt.yaml, section+": {") {
					tt.yaml += line
				}
			}
			path := filepath.Join(t.TempDir(), "c.yaml")
			if err := os.WriteFile(path, []byte(head+tt.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			validated, mistakes := runWith(t, path, "config", "validate")
			served, same := runWith(t, path, "serve")
			if tt.at == "" {
				if validated != exitDone || served != exitDone {
					t.Fatalf("validate exits %d and serve %d, want 0 and 0:\n%s\n%s", validated, served, mistakes, same)
				}
				return
			}
			if validated != exitUsage || served != exitUsage {
				t.Errorf("validate exits %d and serve %d, want 2 and 2:\n%s\n%s", validated, served, mistakes, same)
			}
			if !strings.Contains(mistakes, tt.at) {
				t.Errorf("validate reports\n%s\nwant %q in it", mistakes, tt.at)
			}
			if diff := cmp.Diff(mistakes, same); diff != "" {
				t.Errorf("mistakes of validate and of serve (-validate +serve):\n%s", diff)
			}
			if _, err := os.Stat(data); err == nil {
				t.Error("serve created the data directory before it rejected the configuration")
			}
		})
	}
}

// runWith runs the program with the configuration and returns its exit code and
// its errors. A server ends as soon as it is ready.
func runWith(t *testing.T, path string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stderr bytes.Buffer
	p := &program{
		stdin: strings.NewReader(""), stdout: writerFunc(func([]byte) { cancel() }), stderr: &stderr,
		environ: []string{"HOME=" + t.TempDir()},
	}
	code := p.Run(ctx, append([]string{"--config", path, "--json"}, args...))
	return code, regexp.MustCompile(`(?m)^\{.*\n`).ReplaceAllString(stderr.String(), "") // without the log
}

// writerFunc is called with everything that is written.
type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }
