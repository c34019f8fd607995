package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/doctor"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/testca"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// diagnose runs doctor with additional environment variables.
func (w *env) diagnose(environ []string, args ...string) (code int, d doctor.Diagnosis) {
	w.t.Helper()
	var out, errs bytes.Buffer
	p := program{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, environ: append(environ, "HOME="+w.dir)}
	code = p.Run(w.t.Context(), append([]string{"--config", w.config, "doctor", "--json"}, args...))
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		w.t.Fatalf("doctor prints %q and says %q: %v", &out, &errs, err)
	}
	return code, d
}

// reconfigure replaces a part of the configuration, which must exist.
func (w *env) reconfigure(old, replacement string) {
	w.t.Helper()
	whole, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	if !strings.Contains(string(whole), old) {
		w.t.Fatalf("the configuration does not hold %q:\n%s", old, whole)
	}
	w.write("config.yaml", strings.Replace(string(whole), old, replacement, 1))
}

// upstream configures other servers instead of the simulator.
func (w *env) upstream(api, auth, more string) {
	w.t.Helper()
	w.reconfigure(fmt.Sprintf("{api_url: %q, auth_url: %q}", w.url, w.url), fmt.Sprintf("{api_url: %q, auth_url: %q%s}", api, auth, more))
}

// secretInFile moves the client secret into a file.
func (w *env) secretInFile(content string, mode os.FileMode) {
	w.t.Helper()
	path := w.write("secret", content)
	if err := os.Chmod(path, mode); err != nil {
		w.t.Fatal(err)
	}
	w.reconfigure("client_secret: ", fmt.Sprintf("client_secret_file: %q, x: ", path))
	whole, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("config.yaml", regexp.MustCompile(`, x: "[^"]*"`).ReplaceAllString(string(whole), ""))
}

// statement executes an SQL statement on the store.
func (w *env) statement(s string) {
	w.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(w.dir, "data", config.StoreFileName))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = db.Close() }() // nothing depends on it
	if _, err := db.ExecContext(w.t.Context(), s); err != nil {
		w.t.Fatal(err)
	}
}

// serverFor starts a server over TLS with a certificate, and returns its URL and
// the file of the CA certificate.
func (w *env) serverFor(a *testca.Authority, template *x509.Certificate) (url, caFile string) {
	w.t.Helper()
	cert, key := a.Sign(template)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err != nil {
		w.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(w.sim.Handler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes fail intentionally
	server.StartTLS()
	w.t.Cleanup(server.Close)
	return server.URL, w.write("ca.pem", string(a.PEM))
}

// plain starts an HTTP server without TLS.
func (w *env) plain(handler http.HandlerFunc) (url string) {
	server := httptest.NewServer(handler)
	w.t.Cleanup(server.Close)
	return server.URL
}

// doctorCase is a mistake that doctor must find.
type doctorCase struct {
	name     string
	plant    func(w *env) (environ []string)
	check    string
	severity doctor.Severity
	subject  string // part of it
	message  string // part of it
	fix      string // part of it
	code     int
}

// setUp returns a plant function without environment variables.
func setUp(f func(w *env)) func(*env) []string {
	return func(w *env) []string { f(w); return nil }
}

func doctorCases() []doctorCase {
	var all []doctorCase
	for _, some := range [][]doctorCase{
		configurationCases(), keysetCases(), storeCases(), networkCases(), clientCases(),
		listenerCases(), connectionCases(),
	} {
		all = append(all, some...)
	}
	return all
}

func configurationCases() []doctorCase {
	return []doctorCase{
		{
			"a key that does not exist", setUp(func(w *env) { w.reconfigure("proxy: {listen:", "proxy: {lisen:") }),
			"configuration", doctor.Error, "proxy.lisen", "did you mean proxy.listen?", "line 4", exitUsage,
		},
		{
			"a variable that does not exist", func(*env) []string { return []string{"PLEO_PROXY_LISEN=:1"} },
			"configuration", doctor.Error, "", "did you mean PLEO_PROXY_LISTEN?", "variable PLEO_PROXY_LISEN", exitUsage,
		},
		{
			"variables of other programs",
			func(*env) []string { return []string{"PLEO_WORKSPACE=s3cret", "PLEO_API_KEY=s3cret", "PLEO_REGION=eu"} },
			"configuration", doctor.Warning, "PLEO_REGION, PLEO_WORKSPACE", "ignoring unknown environment variables", "check their spelling", exitDone,
		},
		{
			"hosts of two environments",
			setUp(func(w *env) { w.upstream("https://external.staging.pleo.io", "https://auth.pleo.io", "") }),
			"configuration", doctor.Error, "upstream", "do not belong together", "environment: staging", exitFailed,
		},
		{
			"a forward proxy in the environment", func(*env) []string { return []string{"HTTPS_PROXY=http://127.0.0.1:3128"} },
			"configuration", doctor.Warning, "HTTPS_PROXY", "are ignored", "upstream.proxy_url", exitDone,
		},
		{
			"a secret file that is not there",
			setUp(func(w *env) { w.secretInFile("s", 0o600); must(w, os.Remove(filepath.Join(w.dir, "secret"))) }),
			"files", doctor.Error, "oauth.client_secret_file", "no such file", "line 7", exitUsage,
		},
		{
			"a secret file that is empty", setUp(func(w *env) { w.secretInFile("\n", 0o600) }),
			"files", doctor.Error, "oauth.client_secret_file", "it is empty", "correct the file that it names", exitUsage,
		},
		{
			"a secret that every user can read", setUp(func(w *env) { w.secretInFile(simulator.DefaultClientSecret+"\n", 0o644) }),
			"files", doctor.Warning, "secret", "every user of this machine", "chmod o= ", exitDone,
		},
		{
			"a volume that is not mounted",
			setUp(func(w *env) { w.reconfigure(filepath.Join(w.dir, "data"), filepath.Join(w.dir, "volume", "data")) }),
			"store", doctor.Error, "volume/data", "volume does not exist", "mount the volume", exitFailed,
		},
	}
}

func keysetCases() []doctorCase {
	return []doctorCase{
		{
			"no keyset", setUp(func(w *env) { w.fill(1); must(w, os.Remove(w.keysetFile())) }),
			"store", doctor.Error, "store.db", "but not its keyset", "put the keyset back from its backup", exitUsage,
		},
		{
			"a damaged keyset", setUp(func(w *env) { w.fill(1); must(w, os.WriteFile(w.keysetFile(), []byte("{"), 0o600)) }),
			"keyset", doctor.Error, "keyset.json", "damaged", "restore the file from a backup", exitUsage,
		},
		{
			"another keyset", setUp(func(w *env) { w.fill(1); must(w, os.Remove(w.keysetFile())); w.keysetAlone() }),
			"store", doctor.Error, "store.db", "which the keyset, whose primary key is", "use the keyset that the store was created with", exitUsage,
		},
		{
			"a keyset that every user can read", setUp(func(w *env) { w.fill(1); must(w, os.Chmod(w.keysetFile(), 0o644)) }),
			"keyset", doctor.Warning, "keyset.json", "every user of this machine", "chmod o= ", exitDone,
		},
		{
			"a keyset beside the store", setUp(func(w *env) { w.fill(1) }),
			"keyset", doctor.Warning, "keyset.json", "beside the store", "store.keyset_file", exitDone,
		},
		{
			"a rotation that was not finished", setUp(func(w *env) { w.fill(1); w.keyset("add"); w.halfPromote() }),
			"keyset", doctor.Note, "", "1 connection still encrypted", "keyset promote", exitDone,
		},
	}
}

func storeCases() []doctorCase {
	return []doctorCase{
		{
			"a store of another client",
			setUp(func(w *env) { w.fill(1); w.reconfigure(simulator.DefaultClientID, "another-client") }),
			"store", doctor.Error, "store.db", "another-client", "oauth.client_id", exitUsage,
		},
		{
			"a store of a newer program", setUp(func(w *env) { w.fill(1); w.statement("PRAGMA user_version = 9999") }),
			"store", doctor.Error, "store.db", "9999", "newer", exitUsage,
		},
		{
			"a file that is no store",
			setUp(func(w *env) { w.fill(1); w.write("data/store.db", strings.Repeat("no database ", 100)) }),
			"store", doctor.Error, "store.db", "", "backup", exitUsage,
		},
		{
			"a restored store",
			setUp(func(w *env) {
				w.fill(1)
				must(w, os.MkdirAll(filepath.Join(w.dir, "data/spool"), 0o700))
				w.write("data/spool/high-water-mark.json", `{"store":"another","change":7}`)
			}),
			"store", doctor.Error, "store.db", "older than its high-water mark", "store accept-restore", exitFailed,
		},
		{
			"a store that has gone",
			setUp(func(w *env) {
				must(w, os.MkdirAll(filepath.Join(w.dir, "data/spool"), 0o700))
				w.write("data/spool/high-water-mark.json", `{"store":"another","change":7}`)
			}),
			"store", doctor.Error, "store.db", "the store is missing", "put the store back", exitFailed,
		},
		{
			"a token pair that waits in the spool", setUp(func(w *env) { w.fill(1); w.spoolPair(w.readKeyset()) }),
			"store", doctor.Warning, "spool", "1 token pair not saved yet", "start the server", exitDone,
		},
		{
			"a spool that cannot be written",
			setUp(func(w *env) { w.fill(1); w.write("data/spool", "a file") }),
			"store", doctor.Error, "spool", "not a directory", "spool directory", exitFailed,
		},
		{
			"a file system that does not last",
			setUp(func(w *env) {
				dir, err := os.MkdirTemp("/dev/shm", "doctor")
				must(w, err)
				w.t.Cleanup(func() { _ = os.RemoveAll(dir) })
				w.reconfigure(filepath.Join(w.dir, "data"), filepath.Join(dir, "data"))
				w.fill(1)
			}),
			"store", doctor.Warning, "", "may not survive a restart", "local disk", exitDone,
		},
	}
}

func networkCases() []doctorCase {
	loopback := []net.IP{net.IPv4(127, 0, 0, 1)}
	reached := func(api func(w *env) string, more string) func(*env) []string {
		return setUp(func(w *env) { w.upstream(api(w), w.url, more) })
	}
	return []doctorCase{
		{
			"a host that does not exist", reached(func(*env) string { return "https://pleo.invalid" }, ""),
			"network", doctor.Error, "pleo.invalid", "looking up", "name servers", exitFailed,
		},
		{
			"a port where nothing listens", reached(func(*env) string { return "http://127.0.0.1:1" }, ""),
			"network", doctor.Error, "127.0.0.1:1", "connection refused", "no program listens there", exitFailed,
		},
		{
			"an unknown certificate authority", reached(func(w *env) string {
				url, _ := w.serverFor(testca.New(w.t.(*testing.T)), &x509.Certificate{IPAddresses: loopback})
				return url
			}, ""),
			"network", doctor.Error, "127.0.0.1:", "unknown authority", "upstream.ca_file", exitFailed,
		},
		{
			"the certificate of another host", setUp(func(w *env) {
				url, ca := w.serverFor(testca.New(w.t.(*testing.T)), &x509.Certificate{DNSNames: []string{"elsewhere.example"}})
				w.upstream(url, url, fmt.Sprintf(", ca_file: %q", ca))
			}),
			"network", doctor.Error, "127.0.0.1:", "it is not valid for", "check the URL", exitFailed,
		},
		{
			"a certificate that has expired", setUp(func(w *env) {
				old := &x509.Certificate{IPAddresses: loopback, NotAfter: time.Now().Add(-time.Minute)}
				url, ca := w.serverFor(testca.New(w.t.(*testing.T)), old)
				w.upstream(url, url, fmt.Sprintf(", ca_file: %q", ca))
			}),
			"network", doctor.Error, "127.0.0.1:", "expired or not yet valid", "clock", exitFailed,
		},
		{
			"plain HTTP where TLS is expected", reached(func(w *env) string { return strings.Replace(w.url, "http:", "https:", 1) }, ""),
			"network", doctor.Error, "127.0.0.1:", "does not use TLS", "http://", exitFailed,
		},
		{
			"an unreachable forward proxy", reached(func(w *env) string { return "http://127.0.0.1:1" }, `, proxy_url: "http://127.0.0.1:2"`),
			"network", doctor.Error, "127.0.0.1:1", "connection refused", "no program listens", exitFailed,
		},
		{
			"a clock that is behind", reached(func(w *env) string {
				return w.plain(func(rw http.ResponseWriter, _ *http.Request) {
					rw.Header().Set("Date", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))
				})
			}, ""),
			"clock", doctor.Warning, "127.0.0.1:", "s behind", "chrony", exitDone,
		},
	}
}

func clientCases() []doctorCase {
	return []doctorCase{
		{
			"a wrong client secret", setUp(func(w *env) { w.reconfigure(simulator.DefaultClientSecret, "of-staging") }),
			"client", doctor.Error, simulator.DefaultClientID, "rejects the client or its secret", "oauth.client_secret", exitFailed,
		},
		{
			"a wrong way to prove it", setUp(func(w *env) { w.reconfigure("client_secret:", "client_auth: post, client_secret:") }),
			"client", doctor.Error, simulator.DefaultClientID, "rejects the client", "oauth.client_auth", exitFailed,
		},
		{
			"a new secret before its time", setUp(func(w *env) {
				w.reconfigure("client_secret: ", `client_secret: "new", previous_client_secret: `)
			}),
			"client", doctor.Warning, simulator.DefaultClientID, "accepts oauth.previous_client_secret", "once Pleo accepts it", exitDone,
		},
		{
			"a server without introspection", setUp(func(w *env) { w.upstream(w.url, w.plain(http.NotFound), "") }),
			"client", doctor.Warning, "127.0.0.1:", "does not support token introspection", "upstream.auth_url", exitDone,
		},
	}
}

func listenerCases() []doctorCase {
	return []doctorCase{
		{
			"a port that another program has", setUp(func(w *env) {
				other := strings.TrimPrefix(w.plain(http.NotFound), "http://")
				w.reconfigure(`admin: {listen: "127.0.0.1:0"}`, fmt.Sprintf("admin: {listen: %q}", other))
			}),
			"listeners", doctor.Error, "admin.listen", "another program listens", "set admin.listen", exitFailed,
		},
		{
			"an address of another machine", setUp(func(w *env) {
				w.reconfigure(`health: {listen: "127.0.0.1:0"}`, `health: {listen: "192.0.2.1:8487"}`)
			}),
			"listeners", doctor.Error, "health.listen", "does not have the address", "set health.listen", exitFailed,
		},
		{
			"a socket in a directory that is not there", setUp(func(w *env) {
				w.reconfigure(`proxy: {listen: "127.0.0.1:0"}`, fmt.Sprintf("proxy: {listen: %q}", "unix:"+filepath.Join(w.dir, "run/pleo.sock")))
			}),
			"listeners", doctor.Error, "proxy.listen", "the directory does not exist", "set proxy.listen", exitFailed,
		},
	}
}

func connectionCases() []doctorCase {
	rejected := func(reason string) func(*env) []string {
		return setUp(func(w *env) {
			w.fill(1)
			w.statement(fmt.Sprintf("UPDATE connections SET status = 'reauthorization_required', reason = '%s'", reason))
		})
	}
	return []doctorCase{
		{
			"two owners of one grant", rejected(credstore.ReasonRefreshTokenInactive),
			"connections", doctor.Error, "c000", "used by another program", "another program that has the same tokens", exitFailed,
		},
		{
			"a key that was deleted", rejected(credstore.ReasonKeyRejected),
			"connections", doctor.Error, "c000", "key that Pleo no longer accepts", "new key", exitFailed,
		},
		{
			"tokens that another program has refreshed", setUp(func(w *env) {
				g, line := w.grant("acme", simulator.GrantRequest{})
				_, other := w.grant("bolt", simulator.GrantRequest{})
				w.importLines(line, other)
				p := w.serve() // learns that introspection can be trusted
				w.refreshed("bolt")
				p.stop()
				w.sim.ExpireRefreshTokens(g.ID, "")
			}),
			"connections", doctor.Error, "acme", "no server has used it", "another program that has the same tokens", exitFailed,
		},
		{
			"a key that was deleted since", setUp(func(w *env) { w.revokeKey(w.addKey("acme")) }),
			"connections", doctor.Error, "acme", "api key: the API rejects it", "new key", exitFailed,
		},
		{
			"a credential of another company", setUp(func(w *env) {
				w.addKey("acme")
				w.statement("UPDATE connections SET company_id = '00000000-0000-4000-8000-000000000000'")
			}),
			"connections", doctor.Error, "acme", "it belongs to company", "which company is right", exitFailed,
		},
		{
			"a key in the configuration of another environment", setUp(func(w *env) {
				w.write("config.yaml", fmt.Sprintf("environment: custom\nupstream: {api_url: %q, auth_url: %q}\n", w.url, w.url)+
					"store: {driver: memory}\nconnections: [{name: acme, kind: standalone_key, api_key: of-staging}]\n")
			}),
			"connections", doctor.Error, "acme", "does not accept its key", `for the environment "custom"`, exitFailed,
		},
		{
			"a connection without a credential", setUp(func(w *env) {
				if code, _, stderr := w.run("", "connections", "add", "new", "--kind", "oauth"); code != exitDone {
					w.t.Fatal(stderr)
				}
			}),
			"connections", doctor.Note, "new", "no credential yet", "consent", exitDone,
		},
		{
			"a store without a server", setUp(func(w *env) {
				w.fill(1)
				w.statement(fmt.Sprintf("UPDATE connections SET refreshed_at = %d", time.Now().Add(-30*24*time.Hour).UnixMilli()))
			}),
			"connections", doctor.Warning, "c000", "not been refreshed for two weeks", "keep a server running", exitDone,
		},
	}
}

// refreshed has a running server refresh a connection.
func (w *env) refreshed(name string) {
	w.t.Helper()
	if code, _, stderr := w.run("", "connections", "refresh", name); code != exitDone {
		w.t.Fatalf("connections refresh exits %d:\n%s", code, stderr)
	}
}

func must(w *env, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// keysetAlone creates a keyset without a store.
func (w *env) keysetAlone() {
	w.t.Helper()
	_, err := keyset.Create(w.keysetFile())
	must(w, err)
}

func (w *env) readKeyset() *keyset.Keyset {
	w.t.Helper()
	keyset, err := keyset.Open(w.keysetFile())
	must(w, err)
	return keyset
}

// halfPromote promotes the newest key in the file, and re-encrypts nothing.
func (w *env) halfPromote() {
	w.t.Helper()
	keys := w.readKeyset().Keys()
	_, err := keyset.Promote(w.keysetFile(), keys[len(keys)-1].Fingerprint)
	must(w, err)
}

// countCommands checks that the commands in the fixes exist, and returns their number.
func countCommands(t *testing.T, findings []doctor.Finding) (named int) {
	t.Helper()
	command := regexp.MustCompile(`pleo-auth-proxy ((?:[a-z0-9-]+ ?)+)`)
	for _, f := range findings {
		for _, c := range command.FindAllStringSubmatch(f.Fix, -1) {
			named++
			words := slices.DeleteFunc(strings.Fields(c[1]), func(word string) bool { return strings.HasPrefix(word, "-") })
			found, rest, err := newRootCommand(&program{}).Find(words)
			if err != nil || found.HasSubCommands() || len(rest) > 0 && found.ValidateArgs(rest) != nil {
				t.Errorf("the fix %q names a command that does not exist: %v", f.Fix, err)
			}
		}
	}
	return named
}

// TestDoctorFindings checks that doctor finds each mistake and its fix.
func TestDoctorFindings(t *testing.T) {
	commands := 0
	for _, m := range doctorCases() {
		t.Run(m.name, func(t *testing.T) {
			w := newEnv(t, simulator.Settings{})
			environ := m.plant(w)
			code, d := w.diagnose(environ)
			commands += countCommands(t, d.Findings)
			if code != m.code || d.Healthy != (m.code == exitDone) {
				t.Errorf("doctor exits %d, healthy %v, want %d", code, d.Healthy, m.code)
			}
			for _, f := range d.Findings {
				if f.Check == m.check && f.Severity == m.severity && strings.Contains(f.Subject, m.subject) &&
					strings.Contains(f.Message, m.message) && strings.Contains(f.Fix, m.fix) {
					return
				}
			}
			found, _ := json.MarshalIndent(d.Findings, "", "  ")
			t.Errorf("doctor finds\n%s\nwant %s in %s about %q: %q, and the fix %q", found, m.severity, m.check, m.subject, m.message, m.fix)
		})
	}
	if commands == 0 {
		t.Error("no fix names a command, so none was checked")
	}
}

// TestDoctorNeverRefreshes checks that doctor, beside a running server, finds no
// problem, sends no refresh token, and shows no secret.
func TestDoctorNeverRefreshes(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	g, line := w.grant("acme", simulator.GrantRequest{})
	w.importLines(line)
	w.serve()
	code, d := w.diagnose(nil)
	if code != exitDone || !d.Healthy {
		t.Errorf("doctor exits %d, want 0: %+v", code, d.Findings)
	}
	for _, f := range d.Findings {
		said := fmt.Sprint(f)
		for _, secret := range []string{g.AccessToken, g.RefreshToken, simulator.DefaultClientSecret} {
			if strings.Contains(said, secret) {
				t.Errorf("doctor shows a secret: %s", said)
			}
		}
	}
	if requests := w.sim.Counters().TokenRequests; len(requests) > 0 {
		t.Errorf("the token endpoint got requests: %v, want none", requests)
	}
}

// TestDoctorBesideRunningServer checks that a port in use by our own server is no
// problem.
func TestDoctorBesideRunningServer(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	p := w.serve()
	for _, name := range []string{"proxy", "admin", "health"} {
		w.reconfigure(name+`: {listen: "127.0.0.1:0"}`, fmt.Sprintf("%s: {listen: %q}", name, p.addresses[name]))
	}
	code, d := w.diagnose(nil)
	if code != exitDone {
		t.Errorf("doctor exits %d, want 0: %+v", code, d.Findings)
	}
	ours := 0
	for _, f := range d.Findings {
		if f.Check == "listeners" && f.Severity == doctor.OK && strings.Contains(f.Message, "a server of pleo-auth-proxy listens") {
			ours++
		}
	}
	if ours != 3 {
		t.Errorf("doctor finds %d listeners of ours, want 3: %+v", ours, d.Findings)
	}
}

// TestDoctorReportsReadyz checks that doctor reports what only a running server knows.
func TestDoctorReportsReadyz(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	server := w.plain(func(rw http.ResponseWriter, r *http.Request) {
		responses := map[string]string{"/livez": "ok\n", "/readyz?verbose": "[+] credentials: ok\n[-] store: the disk is full\nready\n"}
		_, _ = io.WriteString(rw, responses[r.URL.String()])
	})
	w.reconfigure(`admin: {listen: "127.0.0.1:0"}`, fmt.Sprintf("admin: {listen: %q}", strings.TrimPrefix(server, "http://")))
	_, d := w.diagnose(nil)
	for _, f := range d.Findings {
		if f.Check == "listeners" && strings.Contains(f.Message, "the running server reports: store: the disk is full") {
			return
		}
	}
	t.Errorf("doctor does not report what /readyz?verbose says: %+v", d.Findings)
}

// TestDoctorChecksPublicURL checks whether the public URL leads to our pages.
func TestDoctorChecksPublicURL(t *testing.T) {
	w := newEnv(t, simulator.Settings{}, `connect: {listen: "127.0.0.1:0", public_url: "http://localhost:1"}`)
	at := w.serve().addresses["connect"]
	w.reconfigure(`connect: {listen: "127.0.0.1:0"`, fmt.Sprintf("connect: {listen: %q", at))
	others := strings.Replace(w.plain(http.NotFound), "127.0.0.1", "localhost", 1)
	for _, test := range []struct {
		name, url string
		severity  doctor.Severity
		found     string
		code      int
	}{
		{"nothing", "http://localhost:1", doctor.Warning, "connection refused", exitDone},
		{"another site", others, doctor.Error, "another site responds", exitFailed},
		{"our pages", "http://localhost:" + at[strings.LastIndex(at, ":")+1:], doctor.OK, "is served by pleo-auth-proxy", exitDone},
	} {
		t.Run(test.name, func(t *testing.T) {
			whole, err := os.ReadFile(w.config)
			must(w, err)
			w.write("config.yaml", regexp.MustCompile(`public_url: "[^"]*"`).ReplaceAllString(string(whole), fmt.Sprintf("public_url: %q", test.url)))
			code, d := w.diagnose(nil)
			if code != test.code {
				t.Errorf("doctor exits %d, want %d", code, test.code)
			}
			if !slices.ContainsFunc(d.Findings, func(f doctor.Finding) bool {
				return f.Check == "connect" && f.Severity == test.severity && strings.Contains(f.Message, test.found)
			}) {
				t.Errorf("doctor finds %+v, want %s: %q", d.Findings, test.severity, test.found)
			}
		})
	}
}
