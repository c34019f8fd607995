// Package examples runs the clients of this folder, each in its language,
// against the real proxy and a simulated Pleo.
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
	// command returns how a user runs it for a connection.
	command func(w *world, connection string) *exec.Cmd
	// lost is the exit code once the connection needs a person, and says what it
	// prints then beside that.
	lost int
	says string
}

func examples() []example {
	const reconnect = "acme has to be connected again: http://127.0.0.1:1/connect/"
	jackson := strings.Join([]string{
		"/usr/share/java/jackson-databind.jar", "/usr/share/java/jackson-core.jar", "/usr/share/java/jackson-annotations.jar",
	}, ":")
	plain := func(name string, args ...string) func(*world, string) *exec.Cmd {
		return func(w *world, connection string) *exec.Cmd {
			return exec.Command(name, append(args, connection, w.proxy)...)
		}
	}
	return []example{
		{"curl", plain("curl/employees.sh"), 2, reconnect},
		{"PHP", plain("php", "php/employees.php"), 2, reconnect},
		{"Python", plain("/usr/bin/python3", "python/employees.py"), 2, reconnect},
		{"Node.js", plain("node", "node/employees.mjs"), 2, reconnect},
		{"Java", plain("java", "-cp", jackson, "java/Employees.java"), 2, reconnect},
		{"base URL only", onlyBaseURL, 1, "Pleo says: "},
	}
}

// onlyBaseURL runs the old program with its settings as they are, but for the
// port.
func onlyBaseURL(w *world, connection string) *exec.Cmd {
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

// TestClientsListEmployees: each client pages through everything, and tells its
// user when a person has to act.
func TestClientsListEmployees(t *testing.T) {
	if !*clients {
		t.Skip("the clients need the runtimes of their languages: make clients runs them")
	}
	w := newWorld(t)
	grant := w.connect("acme")
	want := w.employees(grant.Company)
	for _, e := range examples() {
		t.Run(e.name, func(t *testing.T) {
			before := w.pages.Load()
			got := run(t, e.command(w, "acme"), 0)
			if got.stdout != want {
				t.Errorf("it prints\n%s\nwant\n%s\n%s", got.stdout, want, got.stderr)
			}
			if n := w.pages.Load() - before; n < 3 {
				t.Errorf("it asked for %d pages, want at least 3", n)
			}
		})
	}
	if err := w.sim.RevokeGrant(grant.ID); err != nil {
		t.Fatal(err)
	}
	for _, e := range examples() {
		t.Run(e.name+", reauthorization required", func(t *testing.T) {
			got := run(t, e.command(w, "acme"), e.lost)
			if got.stdout != "" || !strings.Contains(got.stderr, e.says) {
				t.Errorf("it prints %q and %q, want nothing and %q", got.stdout, got.stderr, e.says)
			}
		})
	}
}

// world is a simulated Pleo and a proxy before it.
type world struct {
	t     *testing.T
	dir   string
	bin   string // the program
	sim   *simulator.Simulator
	url   string       // of the simulator
	proxy string       // URL
	pages atomic.Int64 // lists of employees that the simulator was asked for
}

func newWorld(t *testing.T) *world {
	t.Helper()
	sim, err := simulator.New(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	w := &world{t: t, dir: t.TempDir(), sim: sim}
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

func (w *world) configure() {
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

func (w *world) command(args ...string) *exec.Cmd {
	return exec.Command(w.bin, append([]string{"--config", filepath.Join(w.dir, "config.yaml")}, args...)...)
}

// serve starts the proxy, which ends with the test.
func (w *world) serve() {
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
		w.t.Fatalf("the proxy does not start: %v\n%s", err, &log)
	}
	w.proxy = "http://" + addresses.Proxy
}

// connect makes a connection by OAuth.
func (w *world) connect(name string) simulator.Grant {
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

// employees returns what a client is to print: all of the company, in order.
func (w *world) employees(company string) string {
	w.t.Helper()
	key, err := w.sim.IssueKey(simulator.Key{Company: company})
	if err != nil {
		w.t.Fatal(err)
	}
	request := httptest.NewRequest(http.MethodGet, "/v2/employees?limit=100", nil)
	request.SetBasicAuth(key.Value, "")
	answer := httptest.NewRecorder()
	w.sim.Handler().ServeHTTP(answer, request)
	var page struct {
		Data []struct{ FirstName, LastName, Email string }
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &page); err != nil || len(page.Data) < 21 {
		w.t.Fatalf("the simulator answers %d with %d employees (%v), want enough for 3 pages", answer.Code, len(page.Data), err)
	}
	var all strings.Builder
	for _, e := range page.Data {
		fmt.Fprintf(&all, "%s %s <%s>\n", e.FirstName, e.LastName, e.Email)
	}
	return all.String()
}

type result struct{ stdout, stderr string }

// run runs a command that has to end with the exit code.
func run(t *testing.T, cmd *exec.Cmd, want int) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "no_proxy=*") // nothing leaves this machine
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Fatalf("%v exits %d, want %d:\n%s%s", cmd.Args, got, want, &stdout, &stderr)
	}
	return result{stdout.String(), stderr.String()}
}
