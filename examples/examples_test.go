// Package examples tests the example clients with the proxy and a simulated
// Pleo.
package examples

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

var clients = flag.Bool("clients", false, "run the clients, which need the runtimes of their languages")

// example is one client.
type example struct {
	name string
	// command returns the command that a user runs for a connection.
	command func(w *env, connection string) *exec.Cmd
	// exitCode and message are the exit code, and what the client prints to stderr,
	// once the connection requires reauthorization.
	exitCode int
	message  string
}

func examples() []example {
	const reconnect = "acme must be connected again: http://127.0.0.1:1/connect/"
	jackson := strings.Join([]string{
		"/usr/share/java/jackson-databind.jar", "/usr/share/java/jackson-core.jar", "/usr/share/java/jackson-annotations.jar",
	}, ":")
	plain := func(name string, args ...string) func(*env, string) *exec.Cmd {
		return func(w *env, connection string) *exec.Cmd {
			return exec.Command(name, append(args, connection, w.proxy)...)
		}
	}
	return []example{
		{"curl", plain("curl/employees.sh"), 2, reconnect},
		{"PHP", plain("php", "php/employees.php"), 2, reconnect},
		{"Python", plain("/usr/bin/python3", "python/employees.py"), 2, reconnect},
		{"Node.js", plain("node", "node/employees.mjs"), 2, reconnect},
		{"Java", plain("java", "-cp", jackson, "java/Employees.java"), 2, reconnect},
		{"base URL only", baseURLOnly, 1, "Pleo: "},
	}
}

// baseURLOnly runs the old program with its settings, of which only the address of
// the proxy differs.
func baseURLOnly(w *env, connection string) *exec.Cmd {
	settings, err := os.ReadFile("base-url/pleo.ini")
	if err != nil {
		w.t.Fatal(err)
	}
	moved := strings.Replace(string(settings), "http://127.0.0.1:8484/@acme", w.proxy+"/@"+connection, 1)
	path := filepath.Join(w.dir, "pleo.ini")
	if err := os.WriteFile(path, []byte(moved), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return exec.Command("php", "base-url/employees.php", path)
}

// TestClientsListEmployees checks that each client reads all pages, and reports
// when a person must act.
func TestClientsListEmployees(t *testing.T) {
	if !*clients {
		t.Skip("requires the languages of the clients; make clients runs this")
	}
	w := newEnv(t)
	grant := w.connect("acme")
	want := w.employees(grant.Company)
	for _, e := range examples() {
		t.Run(e.name, func(t *testing.T) {
			before := w.pages.Load()
			got := run(t, e.command(w, "acme"), 0)
			if got.stdout != want {
				t.Errorf("stdout =\n%s\nwant\n%s\nstderr = %s", got.stdout, want, got.stderr)
			}
			if n := w.pages.Load() - before; n < 3 {
				t.Errorf("the client requested %d pages, want at least 3", n)
			}
		})
	}
	if err := w.sim.RevokeGrant(grant.ID); err != nil {
		t.Fatal(err)
	}
	for _, e := range examples() {
		t.Run(e.name+", reauthorization required", func(t *testing.T) {
			got := run(t, e.command(w, "acme"), e.exitCode)
			if got.stdout != "" || !strings.Contains(got.stderr, e.message) {
				t.Errorf("stdout = %q, stderr = %q, want no output and %q", got.stdout, got.stderr, e.message)
			}
		})
	}
}

// env is a simulated Pleo with a proxy in front of it.
type env struct {
	t     *testing.T
	dir   string
	bin   string // the program
	sim   *simulator.Simulator
	url   string       // of the simulator
	proxy string       // URL
	pages atomic.Int64 // requests for lists of employees
}

func newEnv(t *testing.T) *env {
	t.Helper()
	sim, err := simulator.New(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	w := &env{t: t, dir: t.TempDir(), sim: sim}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/employees" {
			w.pages.Add(1)
		}
		sim.Handler().ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	w.url = server.URL
	w.bin = filepath.Join(w.dir, "pleo-auth-proxy")
	run(t, exec.Command("go", "build", "-o", w.bin, "../cmd/pleo-auth-proxy"), 0)
	w.configure()
	w.serve()
	return w
}

func (w *env) configure() {
	w.t.Helper()
	client := w.sim.DefaultClient()
	config := fmt.Sprintf(`environment: custom
data_dir: %q
upstream: {api_url: %q, auth_url: %q}
proxy: {listen: "127.0.0.1:0"}
admin: {listen: "off"}
connect: {listen: "127.0.0.1:0", public_url: "http://127.0.0.1:1"}
oauth: {client_id: %q, client_secret: %q}
`, filepath.Join(w.dir, "data"), w.url, w.url, client.ID, client.Secret)
	if err := os.WriteFile(filepath.Join(w.dir, "config.yaml"), []byte(config), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *env) command(args ...string) *exec.Cmd {
	return exec.Command(w.bin, append([]string{"--config", filepath.Join(w.dir, "config.yaml")}, args...)...)
}

// serve starts the proxy, which runs until the test ends.
func (w *env) serve() {
	w.t.Helper()
	cmd := w.command("serve", "--json")
	var log bytes.Buffer
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil || w.t.Failed() {
			w.t.Logf("the proxy ended with %v:\n%s", err, &log)
		}
	})
	var addresses struct{ Proxy string }
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &addresses)
	}
	if err != nil {
		w.t.Fatalf("starting the proxy: %v\n%s", err, &log)
	}
	w.proxy = "http://" + addresses.Proxy
}

// connect adds an OAuth connection.
func (w *env) connect(name string) simulator.Grant {
	w.t.Helper()
	grant, err := w.sim.IssueGrant(simulator.GrantRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	line, err := json.Marshal(map[string]string{"name": name, "kind": "oauth", "refresh_token": grant.RefreshToken})
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := w.command("connections", "import", "-")
	cmd.Stdin = bytes.NewReader(line)
	run(w.t, cmd, 0)
	return grant
}

// employees returns the expected output: all employees of the company, in order.
func (w *env) employees(company string) string {
	w.t.Helper()
	key, err := w.sim.IssueKey(simulator.Key{Company: company})
	if err != nil {
		w.t.Fatal(err)
	}
	request := httptest.NewRequest(http.MethodGet, "/v2/employees?limit=100", nil)
	request.SetBasicAuth(key.Value, "")
	recorder := httptest.NewRecorder()
	w.sim.Handler().ServeHTTP(recorder, request)
	var page struct {
		Data []struct{ FirstName, LastName, Email string }
	}
	if err := json.Unmarshal(recorder.Body.Bytes(), &page); err != nil || len(page.Data) < 21 {
		w.t.Fatalf("the simulator responds %d with %d employees (%v), want enough for 3 pages", recorder.Code, len(page.Data), err)
	}
	var all strings.Builder
	for _, e := range page.Data {
		fmt.Fprintf(&all, "%s %s <%s>\n", e.FirstName, e.LastName, e.Email)
	}
	return all.String()
}

type result struct{ stdout, stderr string }

// run runs a command and checks its exit code.
func run(t *testing.T, cmd *exec.Cmd, want int) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "no_proxy=*") // the servers are on this machine
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Fatalf("%v: exit code %d, want %d:\n%s%s", cmd.Args, got, want, &stdout, &stderr)
	}
	return result{stdout.String(), stderr.String()}
}
