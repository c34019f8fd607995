package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// maxConcurrentRefreshes is how many refreshes a process has in flight before some have
// succeeded.
const maxConcurrentRefreshes = 16

// belowBreakerLimit is how many connections may be rejected without opening the circuit
// breaker.
const belowBreakerLimit = 4

// eventTimeout is how long tests wait for an event.
const eventTimeout = 2 * time.Minute

// env is a simulated Pleo and a data directory for proxies.
type env struct {
	*run
	dir    string
	config string // path of the configuration

	settings string // of every configuration
	sim      *simulator.Simulator
	server   *httptest.Server

	database *schema // of the store, where that is in PostgreSQL; nil elsewhere

	mu       sync.Mutex // guards all below
	arrivals map[string]int
	named    int
}

// newEnv returns an env. The lines are added to the configuration.
func (r *run) newEnv(settings simulator.Settings, lines ...string) *env {
	r.Helper()
	return r.newEnvWith(simulator.Config{Settings: settings}, nil, lines...)
}

// authServerMover serves the authorization server separately from the API, and returns
// its configuration: auth_url, and ca_file if needed.
type authServerMover func(*env) string

func (r *run) newEnvWith(c simulator.Config, move authServerMover, lines ...string) *env {
	r.Helper()
	sim, err := simulator.New(c)
	if err != nil {
		r.Fatal(err)
	}
	w := &env{run: r, dir: r.TempDir(), sim: sim, arrivals: map[string]int{}}
	w.server = httptest.NewServer(w.countRequests(sim.Handler()))
	r.Cleanup(w.server.Close)
	r.Cleanup(sim.Close)
	auth := fmt.Sprintf("auth_url: %q", w.server.URL)
	if move != nil {
		auth = move(w)
	}
	client := sim.DefaultClient()
	if r.fault.postgres {
		lines = append(lines, w.usePostgres(r.cluster))
	}
	w.settings = fmt.Sprintf(`environment: custom
upstream: {api_url: %q, %s}
health: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
oauth: {client_id: %q, client_secret: %q}
`, w.server.URL, auth, client.ID, client.Secret) + orDefault(lines, `proxy: {listen: "127.0.0.1:0"}`)
	w.config = w.configIn("data", w.settings)
	return w
}

// configIn writes a configuration with a data directory of the name.
func (w *env) configIn(name, settings string) string {
	w.Helper()
	return w.write(name+".yaml", settings+w.dataLine(name))
}

// dataLine is the line of the configuration for a data directory.
func (w *env) dataLine(name string) string {
	return fmt.Sprintf("data_dir: %q\n", filepath.Join(w.dir, name))
}

func orDefault(lines []string, line string) string {
	for _, l := range lines {
		if strings.HasPrefix(l, "proxy:") {
			line = ""
		}
	}
	return strings.Join(append(lines, line), "\n") + "\n"
}

// countRequests counts the requests by path.
func (w *env) countRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.arrivals[r.URL.Path]++
		w.mu.Unlock()
		next.ServeHTTP(rw, r)
	})
}

// requestCount returns the number of requests for the path.
func (w *env) requestCount(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.arrivals[path]
}

func (w *env) data(name string) string { return filepath.Join(w.dir, "data", name) }

func (w *env) write(name, content string) string {
	w.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.Fatal(err)
	}
	return path
}

// connection is a connection, and the grant that it began with.
type connection struct {
	name  string
	grant simulator.Grant
}

// connectExpired adds n connections whose access tokens have expired.
func (w *env) connectExpired(n int) []connection {
	w.Helper()
	return w.connect(n, simulator.GrantRequest{}, time.Unix(0, 0))
}

// connectValid adds n connections whose access tokens are valid.
func (w *env) connectValid(n int) []connection {
	w.Helper()
	return w.connect(n, simulator.GrantRequest{}, time.Time{})
}

// connect adds n connections, each with its own grant. A zero expires means that of the
// grant.
func (w *env) connect(n int, request simulator.GrantRequest, expires time.Time) []connection {
	w.Helper()
	var connections []connection
	var lines strings.Builder
	for range n {
		g, err := w.sim.IssueGrant(request)
		if err != nil {
			w.Fatal(err)
		}
		w.named++
		l := connection{fmt.Sprintf("c%d", w.named), g}
		connections = append(connections, l)
		lines.WriteString(l.line(expires) + "\n")
	}
	w.importLines(lines.String())
	return connections
}

// line is the connection in the format of the import.
func (l connection) line(expires time.Time) string {
	if expires.IsZero() {
		expires = l.grant.ExpiresAt
	}
	text, _ := json.Marshal(map[string]any{ // a map of strings and a time cannot fail
		"name": l.name, "kind": "oauth", "company_id": l.grant.Company, "expires_at": expires.UTC(),
		"refresh_token": l.grant.RefreshToken, "access_token": l.grant.AccessToken,
	})
	return string(text)
}

// importLines imports connections without checking them with the simulator.
func (w *env) importLines(lines string) {
	w.Helper()
	path := w.write("import.jsonl", lines)
	if code, out := w.command("connections", "import", "--offline", path); code != 0 {
		w.Fatalf("connections import: exit code %d, want 0:\n%s", code, out)
	}
}

// command runs a command of the program.
func (w *env) command(args ...string) (code int, output string) {
	w.Helper()
	cmd := exec.Command(*program, append([]string{"--config", w.config}, args...)...)
	cmd.Dir, cmd.Env = w.dir, []string{"HOME=" + w.dir}
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		w.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// fault sets a fault of the simulator.
func (w *env) fault(f simulator.Fault) simulator.Fault {
	w.Helper()
	set, err := w.sim.SetFault(f)
	if err != nil {
		w.Fatal(err)
	}
	return set
}

// await waits until a token request of the connection reaches a phase.
func (w *env) await(phase string, l connection) simulator.Event {
	w.Helper()
	return w.awaitNth(phase, l, 1)
}

// awaitNth waits until the nth token request of the connection reaches a phase.
func (w *env) awaitNth(phase string, l connection, n int) simulator.Event {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), eventTimeout)
	defer cancel()
	after := int64(0)
	for {
		e, err := w.sim.AwaitEvent(ctx, after, func(e simulator.Event) bool {
			return e.Phase == phase && e.Grant == l.grant.ID
		})
		if err != nil {
			w.Fatalf("waiting for token request %d of %s to be %s: %v", n, l.name, phase, err)
		}
		if n--; n == 0 {
			return e
		}
		after = e.Seq
	}
}

// finish records the trials and the counters of the simulator.
func (w *env) finish(trials int) {
	w.Helper()
	c := w.sim.Counters()
	w.row.update(func(r *row) {
		r.Trials += trials
		r.MaxSends = max(r.MaxSends, c.MaxTimesSent)
	})
	if c.AuthorizationNotOnce > 0 || c.WrongCompany > 0 {
		w.violation("%d requests had no or several Authorization fields, %d the credential of another company", c.AuthorizationNotOnce, c.WrongCompany)
	}
	for id, g := range c.Grants {
		if g.MaxRefreshesInFlight > 1 && !w.run.fault.overlaps {
			w.violation("%d refreshes of grant %s were in flight at once", g.MaxRefreshesInFlight, id)
		}
	}
}

// awaitFinal sends requests for each connection until the response is final, and counts
// lost connections.
func (w *env) awaitFinal(p *process, connections []connection) {
	w.Helper()
	for _, l := range connections {
		switch a := p.getUntil(l, isFinal); {
		case a.status == http.StatusOK:
		case a.code() == "reauthorization_required":
			w.row.update(func(r *row) { r.Lost++ })
			if w.run.fault.mayLose == "" {
				w.Errorf("%s was lost: %s\n%s", l.name, a.body, p.log)
			}
		default:
			w.violation("%s: %d %s, want 200\n%s", l.name, a.status, a.body, p.log)
		}
	}
}

// checkWorking sends one request for each connection, which must succeed.
func (w *env) checkWorking(p *process, connections []connection) {
	w.Helper()
	for _, l := range connections {
		if a := p.get(l); a.status != http.StatusOK {
			w.violation("%s: %d %s, want 200\n%s", l.name, a.status, a.body, p.log)
			if a.code() == "reauthorization_required" {
				w.row.update(func(r *row) { r.Lost++ })
			}
		}
	}
}

// replaceLine replaces the line with the prefix.
func replaceLine(text, begin, line string) string {
	var lines []string
	for old := range strings.Lines(text) {
		if strings.HasPrefix(old, begin) {
			old = line + "\n"
		}
		lines = append(lines, old)
	}
	return strings.Join(lines, "")
}
