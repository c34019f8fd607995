package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/autocert"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// minimal is the smallest valid configuration.
const minimal = "environment: staging\n"

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, yaml string, environ ...string) (*Config, error) {
	t.Helper()
	path := writeFile(t, "c.yaml", yaml)
	return Load(Source{Path: path, Environ: append([]string{"HOME=/home/user"}, environ...)})
}

func mustLoad(t *testing.T, yaml string, environ ...string) *Config {
	t.Helper()
	c, err := load(t, yaml, environ...)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return c
}

// problems returns the messages of err without the directory of the file.
func problems(t *testing.T, err error) []string {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("Load returned %v, want an *Error", err)
	}
	var lines []string
	for _, m := range e.Mistakes {
		if m.File != "" {
			m.File = filepath.Base(m.File)
		}
		lines = append(lines, m.String())
	}
	return lines
}

func TestDefaults(t *testing.T) {
	c := mustLoad(t, minimal)
	got := map[string]any{
		"proxy":   c.Proxy.Listen.String(),
		"admin":   c.Admin.Listen.String(),
		"health":  c.Health.Listen.String(),
		"api":     c.Upstream.APIURL.String(),
		"auth":    c.Upstream.AuthURL.String(),
		"header":  c.Proxy.ConnectionHeader,
		"aliases": c.Proxy.ConnectionHeaderAliases,
		"wait":    c.Proxy.CredentialWait,
		"drain":   c.Shutdown.Drain,
		"margin":  c.OAuth.RefreshBeforeExpiry,
		"memory":  c.Replay.Memory,
		"total":   c.Replay.MemoryTotal,
		"auth_by": string(c.OAuth.ClientAuth),
		"log":     c.Log,
		"access":  c.Proxy.AccessLog,
		"store":   c.Store,
		"acme":    c.Connect.ACME.CAURL.String(),
	}
	dir := "/home/user/.local/state/pleo-auth-proxy"
	want := map[string]any{
		"proxy":   "127.0.0.1:8484",
		"admin":   "127.0.0.1:8485",
		"health":  "off",
		"api":     "https://external.staging.pleo.io",
		"auth":    "https://auth.staging.pleo.io",
		"header":  "Pleo-Connection",
		"aliases": []string{"Connection-Id"},
		"wait":    20 * time.Second,
		"drain":   20 * time.Second,
		"margin":  2 * time.Minute,
		"memory":  int64(1 << 20),
		"total":   int64(32 << 20),
		"auth_by": "basic",
		"log":     Log{Level: "info", Format: "json"},
		"acme":    autocert.LetsEncrypt,
		"access":  true,
		"store":   Store{Driver: DriverSQLite, Path: dir + "/store.db", KeysetFile: dir + "/keyset.json", SpoolDir: dir + "/spool"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(SecretSource{}, credstore.Secret{})); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

// TestExposedAdminListener: the admin listener may be reached from other machines
// with TLS, or with a token that the operator has configured behind a reverse proxy.
func TestExposedAdminListener(t *testing.T) {
	for _, admin := range []string{
		`{listen: "0.0.0.0:8485", tls: {cert_file: /c, key_file: /k}}`,
		`{listen: "0.0.0.0:8485", token_file: /t}`,
	} {
		if c := mustLoad(t, minimal+"admin: "+admin+"\n"); c.Admin.Listen.Local() {
			t.Errorf("the listener of %s counts as local", admin)
		}
	}
}

func TestDataDir(t *testing.T) {
	for _, test := range []struct {
		name    string
		root    bool
		environ []string
		want    string
	}{
		{name: "systemd", environ: []string{"STATE_DIRECTORY=/var/lib/a:/var/lib/b", "HOME=/h"}, want: "/var/lib/a"},
		{name: "root", root: true, environ: []string{"HOME=/root", "XDG_STATE_HOME=/x"}, want: "/var/lib/pleo-auth-proxy"},
		{name: "XDG", environ: []string{"HOME=/h", "XDG_STATE_HOME=/x"}, want: "/x/pleo-auth-proxy"},
		{name: "relative XDG does not count", environ: []string{"HOME=/h", "XDG_STATE_HOME=x"}, want: "/h/.local/state/pleo-auth-proxy"},
		{name: "PLEO_DATA_DIR first", environ: []string{"PLEO_DATA_DIR=/d", "STATE_DIRECTORY=/s"}, want: "/d"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Load(Source{Path: writeFile(t, "c.yaml", minimal), Environ: test.environ, Root: test.root})
			if err != nil {
				t.Fatal(err)
			}
			if c.DataDir != test.want {
				t.Errorf("DataDir = %q, want %q", c.DataDir, test.want)
			}
		})
	}
}

// mistakesCase is a configuration and its mistakes.
type mistakesCase struct {
	name, yaml string
	want       []string
}

func (test mistakesCase) check(t *testing.T) {
	_, err := load(t, test.yaml)
	if diff := cmp.Diff(test.want, problems(t, err)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

func TestMistakesInOneKey(t *testing.T) {
	for _, test := range []mistakesCase{
		{"unknown key", minimal + "proxy:\n  listn: 127.0.0.1:1\n",
			[]string{"c.yaml:3: proxy.listn: unknown key; did you mean proxy.listen?"}},
		{"unknown section", minimal + "proxi:\n  listen: 127.0.0.1:1\n",
			[]string{"c.yaml:2: proxi: unknown key; did you mean proxy?"}},
		{"key of another section", minimal + "client_id: x\n",
			[]string{"c.yaml:2: client_id: unknown key; did you mean oauth.client_id?"}},
		{"no similar key", minimal + "quux: 1\n", []string{"c.yaml:2: quux: unknown key"}},
		{"set twice", minimal + "log:\n  level: info\n  level: debug\n",
			[]string{"c.yaml:4: log.level: is set twice: here and on line 3"}},
		{"string for a section", minimal + "proxy: here\n", []string{"c.yaml:2: proxy: must be a mapping, not a string"}},
		{"list for a string", minimal + "data_dir: [a]\n", []string{"c.yaml:2: data_dir: must be a string, not a list"}},
		{"string for a list", minimal + "proxy: {allowed_hosts: a}\n",
			[]string{"c.yaml:2: proxy.allowed_hosts: must be a list such as [one, two], not a string"}},
		{"mapping in a list", minimal + "proxy:\n  allowed_hosts:\n  - a: b\n",
			[]string{"c.yaml:4: proxy.allowed_hosts: must be a list of strings, but contains a mapping"}},
		{"boolean in quotes", minimal + "proxy: {access_log: \"true\"}\n",
			[]string{"c.yaml:2: proxy.access_log: must be true or false, not a string"}},
		{"boolean for a string", minimal + "data_dir: true\n",
			[]string{"c.yaml:2: data_dir: must be a string, not true or false without quotes"}},
		{"no value", minimal + "data_dir:\n", []string{"c.yaml:2: data_dir: has no value; set one or remove the key"}},
		{"duration without unit", minimal + "shutdown: {drain: 20}\n",
			[]string{`c.yaml:2: shutdown.drain: must be a positive duration such as 20s, 2m or 1m30s (it is "20")`}},
		{"size in another unit", minimal + "replay: {memory: 1MB}\n",
			[]string{`c.yaml:2: replay.memory: must be a size such as 512KiB or 64MiB (it is "1MB")`}},
		{"size too large", minimal + "replay: {memory: 99999999999GiB}\n",
			[]string{`c.yaml:2: replay.memory: must be a size such as 512KiB or 64MiB (it is "99999999999GiB")`}},
		{"misspelled word", "environment: prodution\n",
			[]string{`c.yaml:1: environment: must be production, staging or custom; did you mean production? (it is "prodution")`}},
		{"listen without host", minimal + "proxy: {listen: 8484}\n",
			[]string{`c.yaml:2: proxy.listen: must be host:port such as 127.0.0.1:8484, or unix:/path/of/socket (it is "8484")`}},
		{"port too large", minimal + "proxy: {listen: \"127.0.0.1:84840\"}\n",
			[]string{`c.yaml:2: proxy.listen: must be host:port such as 127.0.0.1:8484, or unix:/path/of/socket (it is "127.0.0.1:84840")`}},
		{"relative socket", minimal + "proxy: {listen: \"unix:sock\"}\n",
			[]string{`c.yaml:2: proxy.listen: must have an absolute path, such as unix:/run/pleo.sock (it is "unix:sock")`}},
		{"invalid default connection", minimal + "proxy: {default_connection: a/b}\n",
			[]string{`c.yaml:2: proxy.default_connection: must be the name of a connection: 1 to 128 letters, digits and . _ ~ : -, starting with a letter or a digit (it is "a/b")`}},
		{"syntax", "environment: [\n", []string{"c.yaml:1: invalid YAML: did not find expected node content"}},
		{"second document", minimal + "---\nlog: {}\n", []string{"c.yaml:2: contains a second YAML document; only one is allowed"}},
	} {
		t.Run(test.name, test.check)
	}
}

func TestMistakesBetweenKeys(t *testing.T) {
	for _, test := range []mistakesCase{
		{"empty file", "", []string{"environment: is required: production, staging, or custom with upstream.api_url and upstream.auth_url"}},
		{"exposed listener", minimal + "proxy: {listen: \":8484\"}\n",
			[]string{"c.yaml:2: proxy.listen: can be reached from other machines, which would have access to every connection; set proxy.clients or proxy.client_networks, use a loopback address or unix:/path, or set proxy.dangerously_allow_anyone: true"}},
		{"exposed admin listener", minimal + "admin: {listen: \"0.0.0.0:8485\"}\n",
			[]string{"c.yaml:2: admin.listen: can be reached from other machines; set admin.tls, or admin.token_file if a reverse proxy terminates TLS; or use a loopback address or unix:/path, and health.listen for probes and metrics"}},
		{"admin certificate without key", minimal + "admin: {listen: \"0.0.0.0:8485\", tls: {cert_file: /c}}\n",
			[]string{"c.yaml:2: admin.tls.cert_file: requires admin.tls.key_file"}},
		{"same address twice", minimal + "admin: {listen: \"127.0.0.1:8484\"}\n",
			[]string{"c.yaml:2: admin.listen: is already the address of proxy.listen"}},
		{"path with a tilde", minimal + "data_dir: ~/pleo\n",
			[]string{`c.yaml:2: data_dir: must be a literal path; ~ and variables are not expanded (it is "~/pleo")`}},
		{"path with a variable", minimal + "store: {keyset_file: $HOME/keyset.json}\n",
			[]string{`c.yaml:2: store.keyset_file: must be a literal path; ~ and variables are not expanded (it is "$HOME/keyset.json")`}},
		{"same file twice", minimal + "store: {path: /a/b, keyset_file: /a/b}\n",
			[]string{"c.yaml:2: store.keyset_file: is already the path of store.path"}},
		{"same port on all addresses", minimal + "health: {listen: \":8484\"}\n",
			[]string{"c.yaml:2: health.listen: (:8484) overlaps with proxy.listen (127.0.0.1:8484)"}},
		{"same port on all IPv4 addresses", minimal + "health: {listen: \"0.0.0.0:8485\"}\n",
			[]string{"c.yaml:2: health.listen: (0.0.0.0:8485) overlaps with admin.listen (127.0.0.1:8485)"}},
		{"same address under two names", minimal + "health: {listen: \"localhost:8485\"}\n",
			[]string{"c.yaml:2: health.listen: (localhost:8485) overlaps with admin.listen (127.0.0.1:8485)"}},
		{"fixed URL", minimal + "upstream:\n  api_url: https://api.example.com\n",
			[]string{"c.yaml:3: upstream.api_url: is determined by environment staging; remove it, or use environment custom"}},
		{"custom without URLs", "environment: custom\n", []string{
			"upstream.api_url: is required with environment custom",
			"upstream.auth_url: is required with environment custom"}},
		{"plain http", "environment: custom\nupstream: {api_url: \"http://api.example.com\", auth_url: \"http://127.0.0.1:1\"}\n",
			[]string{`c.yaml:2: upstream.api_url: must begin with https://; plain http is accepted for loopback addresses only (it is "http://api.example.com")`}},
		{"URL with a path", "environment: custom\nupstream: {api_url: \"https://a.example/v1\", auth_url: \"https://a.example/\"}\n",
			[]string{`c.yaml:2: upstream.api_url: must be a URL without path and query, such as https://api.example.com (it is "https://a.example/v1")`}},
		{"two secrets", minimal + "oauth:\n  client_id: c\n  client_secret: s\n  client_secret_file: /f\n",
			[]string{"c.yaml:5: oauth.client_secret_file: cannot be combined with oauth.client_secret; remove one of them"}},
		{"id without secret", minimal + "oauth: {client_id: c}\n",
			[]string{"c.yaml:2: oauth.client_id: requires oauth.client_secret_file or oauth.client_secret"}},
		{"colon in the id", minimal + "oauth: {client_id: \"a:b\", client_secret: s, client_auth: basic_plain}\n",
			[]string{"c.yaml:2: oauth.client_id: must not contain a colon with basic_plain: use basic or post"}},
		{"secret without id", minimal + "oauth: {client_secret: s}\n",
			[]string{"oauth.client_id: is required with a client secret"}},
		{"postgres without a database", minimal + "store: {driver: postgres}\n",
			[]string{"c.yaml:2: store.driver: is postgres, which requires store.dsn_file or store.dsn"}},
		{"two connection strings", minimal + "store: {driver: postgres, dsn: \"postgres://h/d\", dsn_file: /f}\n",
			[]string{"c.yaml:2: store.dsn_file: cannot be combined with store.dsn; remove one of them"}},
		{"link TTL of years", minimal + "connect: {link_ttl: 87600h}\n",
			[]string{`c.yaml:2: connect.link_ttl: must be at most 2160h (90 days): a connect link lets its holder connect a company (it is "87600h")`}},
		{"connection string for SQLite", minimal + "store: {dsn: \"postgres://u:p@h/d\"}\n",
			[]string{"c.yaml:2: store.dsn: applies to store.driver postgres only; set that too, or remove this key"}},
		{"path of SQLite for postgres", minimal + "store: {driver: postgres, dsn_file: /f, path: /p}\n",
			[]string{"c.yaml:2: store.path: does not apply to store.driver postgres; remove it"}},
		{"standard header", minimal + "proxy: {connection_header: authorization}\n",
			[]string{`c.yaml:2: proxy.connection_header: "authorization" cannot name the connection because it is a standard header field`}},
	} {
		t.Run(test.name, test.check)
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, err := load(t, "environmet: staging\nlog:\n  level: loud\nshutdown:\n  drain: long\n",
		"PLEO_PROXY_LISTN=x", "PLEO_REPLAY_MEMORY=much")
	want := []string{
		"c.yaml:1: environmet: unknown key; did you mean environment?",
		`c.yaml:3: log.level: must be debug, info, warn or error (it is "loud")`,
		`c.yaml:5: shutdown.drain: must be a positive duration such as 20s, 2m or 1m30s (it is "long")`,
		`PLEO_REPLAY_MEMORY: must be a size such as 512KiB or 64MiB (it is "much")`,
		"PLEO_PROXY_LISTN: unknown variable; did you mean PLEO_PROXY_LISTEN?",
		"environment: is required: production, staging, or custom with upstream.api_url and upstream.auth_url",
	}
	if diff := cmp.Diff(want, problems(t, err)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

func TestEnvironmentWinsOverFile(t *testing.T) {
	c := mustLoad(t, minimal+"proxy:\n  listen: 127.0.0.1:1\n  allowed_hosts: [a]\n  connection_header: X-A\n",
		"PLEO_PROXY_LISTEN=unix:/run/p.sock", "PLEO_PROXY_ALLOWED_HOSTS=b.example, c.example",
		"PLEO_PROXY_CONNECTION_HEADER=", "PLEO_PROXY_ACCESS_LOG=false")
	if got, want := c.Proxy.Listen, (Listen{Network: "unix", Address: "/run/p.sock"}); got != want {
		t.Errorf("Listen = %v, want %v", got, want)
	}
	if diff := cmp.Diff([]string{"b.example", "c.example"}, c.Proxy.AllowedHosts); diff != "" {
		t.Errorf("AllowedHosts (-want +got):\n%s", diff)
	}
	if c.Proxy.ConnectionHeader != "X-A" {
		t.Errorf("an empty variable changed ConnectionHeader to %q, want X-A", c.Proxy.ConnectionHeader)
	}
	if c.Proxy.AccessLog {
		t.Error("AccessLog = true, want false from the environment")
	}
}

func TestUnknownVariables(t *testing.T) {
	tests := []struct {
		name     string
		environ  []string
		mistakes []string
		unknown  []string
	}{
		{name: "clients of the Pleo API", environ: []string{
			"PLEO_API_KEY=s3cret", "PLEO_API_BASE=https://a.example", "PLEO_BASE_URL=http://127.0.0.1:8484",
			"PLEO_COMPANY_ID=1", "PLEO_TOKEN=s3cret",
		}},
		{name: "Kubernetes Services", environ: []string{
			"PLEO_SERVICE_HOST=10.0.0.1", "PLEO_SERVICE_PORT=80", "PLEO_PORT=tcp://10.0.0.1:80",
			"PLEO_PROXY_SERVICE_HOST=10.0.0.1", "PLEO_PROXY_SERVICE_PORT_HTTP=80", "PLEO_PROXY_PORT=tcp://10.0.0.1:80",
			"PLEO_AUTH_PROXY_SERVICE_HOST=10.0.0.1", "PLEO_AUTH_PROXY_SERVICE_PORT=8484",
			"PLEO_AUTH_PROXY_PORT=tcp://10.0.0.1:8484", "PLEO_AUTH_PROXY_PORT_8484_TCP=tcp://10.0.0.1:8484",
			"PLEO_AUTH_PROXY_PORT_8484_TCP_ADDR=10.0.0.1", "PLEO_AUTH_PROXY_PORT_8484_TCP_PORT=8484",
			"PLEO_AUTH_PROXY_PORT_8484_TCP_PROTO=tcp",
		}},
		{name: "other prefix", environ: []string{"PLEOX=1", "pleo_proxy_listn=1"}},
		{
			name: "one edit", environ: []string{"PLEO_PROXY_LISTN=:1"},
			mistakes: []string{"PLEO_PROXY_LISTN: unknown variable; did you mean PLEO_PROXY_LISTEN?"},
		},
		{
			name: "two edits", environ: []string{"PLEO_PROXY_LITSEN=:1"},
			mistakes: []string{"PLEO_PROXY_LITSEN: unknown variable; did you mean PLEO_PROXY_LISTEN?"},
		},
		{name: "three edits", environ: []string{"PLEO_PROXY_LITSENS=:1"}, unknown: []string{"PLEO_PROXY_LITSENS"}},
		{
			name: "variable of the file", environ: []string{"PLEO_CONFIGS=c.yaml"},
			mistakes: []string{"PLEO_CONFIGS: unknown variable; did you mean PLEO_CONFIG?"},
		},
		{
			name: "list of mappings", environ: []string{"PLEO_PROXY_CLIENTS=erp"},
			mistakes: []string{"PLEO_PROXY_CLIENTS: proxy.clients can only be set in the configuration file"},
		},
		{
			name:    "port of no Service",
			environ: []string{"PLEO_PROXY_PORT=8484"}, unknown: []string{"PLEO_PROXY_PORT"},
		},
		{
			name:    "other programs",
			environ: []string{"PLEO_WORKSPACE=s3cret", "PLEO_CONNECTION=acme", "PLEO_API_KEY=s3cret", "PLEO_REGION="},
			unknown: []string{"PLEO_CONNECTION", "PLEO_WORKSPACE"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := load(t, minimal, tt.environ...)
			if tt.mistakes != nil {
				if diff := cmp.Diff(tt.mistakes, problems(t, err)); diff != "" {
					t.Errorf("mistakes (-want +got):\n%s", diff)
				}
				return
			}
			if err != nil {
				t.Fatalf("Load: %v", err)
			}
			if diff := cmp.Diff(tt.unknown, c.UnknownVariables); diff != "" {
				t.Errorf("UnknownVariables (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNoSecretInAnyMistake puts a secret into every value that may hold one and be
// invalid.
func TestNoSecretInAnyMistake(t *testing.T) {
	const canary = "s3cr3t-canary"
	for _, yaml := range []string{
		"oauth: {client_secret: [" + canary + "]}",
		"oauth: {client_secret: *" + canary + "}",
		"oauth: {client_secret: {a: " + canary + "}}",
		"oauth: {client_secret: \"" + canary + "\\n" + canary + "\"}",
		"oauth: {client_secret: !x " + canary + "}",
		"environment: staging\nstore: {dsn: \"postgres://u:" + canary + "@h/d\"}",
		"environment: staging\nstore: {driver: postgres, dsn: [" + canary + "]}",
		"upstream: {proxy_url: \"ftp://u:" + canary + "@h\"}",
		"upstream: {proxy_url: \"http://u:" + canary + "@h/path\"}",
		"upstream: {proxy_url: \"http://u:" + canary + "%zz@h\"}",
		"environment: custom\nupstream: {api_url: \"https://u:" + canary + "@h\"}",
	} {
		_, err := load(t, yaml)
		if err == nil {
			t.Errorf("Load(%q) = nil, want an error", yaml)
			continue
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("Load(%q) shows the secret in %v", yaml, err)
		}
	}
}

func TestProxyURLKeepsItsUser(t *testing.T) {
	c := mustLoad(t, minimal+"upstream: {proxy_url: \"http://u:p@proxy.example:3128\"}\n")
	if got, want := c.Upstream.ProxyURL.String(), "http://u:p@proxy.example:3128"; got != want {
		t.Errorf("ProxyURL = %q, want %q", got, want)
	}
}

func TestSearchOrder(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("pleo-auth-proxy.yaml", []byte("environment: staging\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	named := writeFile(t, "named.yaml", "environment: production\n")
	environ := []string{"HOME=/h"}
	for _, test := range []struct {
		name string
		src  Source
		want string
	}{
		{"working directory", Source{Environ: environ}, "staging"},
		{"PLEO_CONFIG", Source{Environ: append([]string{"PLEO_CONFIG=" + named}, environ...)}, "production"},
		{"flag", Source{Path: named, Environ: append([]string{"PLEO_CONFIG=/nowhere"}, environ...)}, "production"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Load(test.src)
			if err != nil {
				t.Fatal(err)
			}
			if c.Environment != test.want {
				t.Errorf("Environment = %q, want %q", c.Environment, test.want)
			}
		})
	}
	_, err := Load(Source{Environ: append([]string{"PLEO_CONFIG=/nowhere", "PLEO_ENVIRONMENT=staging"}, environ...)})
	if diff := cmp.Diff([]string{"nowhere: reading the configuration: no such file or directory"}, problems(t, err)); diff != "" {
		t.Errorf("a named file that does not exist (-want +got):\n%s", diff)
	}
}

// TestExampleContainsTheDefaults loads the example: it is equivalent to a file that
// sets only the environment.
func TestExampleContainsTheDefaults(t *testing.T) {
	got, want := mustLoad(t, readFile(t, examplePath)), mustLoad(t, "environment: production\n")
	got.File, want.File = "", ""
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(SecretSource{}), cmp.Comparer(equalSecrets), cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("example (-defaults +got):\n%s", diff)
	}
}

func TestMissingFileIsReported(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := Load(Source{Environ: []string{"HOME=/home/user"}})
	want := []string{"environment: is required: production, staging, or custom with upstream.api_url and upstream.auth_url" +
		"; found no configuration file, neither pleo-auth-proxy.yaml nor /etc/pleo-auth-proxy/config.yaml"}
	if diff := cmp.Diff(want, problems(t, err)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}
