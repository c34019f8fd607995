package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// env is a simulated Pleo, and a directory with the configuration of a proxy.
type env struct {
	t      testing.TB
	dir    string
	sim    *simulator.Simulator
	url    string
	config string // path of the configuration

	arrived chan string // the paths of requests, while awaitRequest reads them
}

// newEnv starts a simulator. lines are added to the configuration that every test
// needs.
func newEnv(t testing.TB, settings simulator.Settings, lines ...string) *env {
	t.Helper()
	sim, err := simulator.New(simulator.Config{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	w := &env{t: t, dir: t.TempDir(), sim: sim, arrived: make(chan string, 1024)}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		select {
		case w.arrived <- r.URL.Path:
		default:
		}
		sim.Handler().ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(sim.Close)
	w.url = server.URL
	w.config = filepath.Join(w.dir, "config.yaml")
	w.write("config.yaml", configFor(sim, server.URL, filepath.Join(w.dir, "data"))+strings.Join(lines, "\n")+"\n")
	return w
}

// configFor returns a configuration for the simulator at url.
func configFor(sim *simulator.Simulator, url, dataDir string) string {
	client := sim.DefaultClient()
	return fmt.Sprintf(`environment: custom
data_dir: %q
upstream: {api_url: %q, auth_url: %q}
proxy: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
health: {listen: "127.0.0.1:0"}
oauth: {client_id: %q, client_secret: %q}
`, dataDir, url, url, client.ID, client.Secret)
}

// awaitRequest waits until a request for the path has arrived at the simulator.
func (w *env) awaitRequest(path string) {
	w.t.Helper()
	for {
		select {
		case got := <-w.arrived:
			if got == path {
				return
			}
		case <-time.After(time.Minute):
			w.t.Fatalf("no request for %s has arrived", path)
		}
	}
}

func (w *env) write(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// grant issues a grant, and returns its line for an import.
func (w *env) grant(name string, r simulator.GrantRequest) (simulator.Grant, string) {
	w.t.Helper()
	g, err := w.sim.IssueGrant(r)
	if err != nil {
		w.t.Fatal(err)
	}
	line, err := json.Marshal(map[string]any{
		"name": name, "kind": "oauth", "refresh_token": g.RefreshToken,
		"access_token": g.AccessToken, "expires_at": g.ExpiresAt, "company_id": g.Company,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return g, string(line)
}

// importLines imports connections offline.
func (w *env) importLines(lines ...string) {
	w.t.Helper()
	path := w.write("import.jsonl", strings.Join(lines, "\n"))
	code, _, stderr := w.run("", "connections", "import", "--offline", path)
	if code != exitDone {
		w.t.Fatalf("connections import exits %d, want 0:\n%s", code, stderr)
	}
}

// run runs the program within the test's process.
func (w *env) run(stdin string, args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	var out, errs bytes.Buffer
	p := program{
		stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs,
		environ: []string{"HOME=" + w.dir},
	}
	code = p.Run(w.t.Context(), append([]string{"--config", w.config}, args...))
	return code, out.String(), errs.String()
}

// process is a running server: the real program, in a process of its own.
type process struct {
	t         testing.TB
	cmd       *exec.Cmd
	log       *output
	addresses map[string]string // listener → address
	exited    chan struct{}     // closed when the process has ended
	took      time.Duration     // until it was ready
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// serve starts the server and waits until it is ready.
func (w *env) serve() *process {
	w.t.Helper()
	return startServer(w.t, os.Args[0], w.dir, w.config)
}

// startServer starts the executable as a server, with the variables of environ
// besides those that it needs.
func startServer(t testing.TB, executable, dir, config string, environ ...string) *process {
	t.Helper()
	p := &process{t: t, log: &output{}, exited: make(chan struct{})}
	p.start(executable, dir, config, p.log, environ...)
	return p
}

// start starts the server, which logs to log.
func (p *process) start(executable, dir, config string, log io.Writer, environ ...string) {
	t := p.t
	t.Helper()
	began := time.Now()
	p.cmd = exec.Command(executable, "serve", "--json", "--config", config)
	p.cmd.Dir = dir
	p.cmd.Env = append([]string{asProgram + "=1", quickExit, "HOME=" + dir}, environ...)
	p.cmd.Stderr = log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	p.took = time.Since(began)
	go func() {
		_ = p.cmd.Wait() // the exit code is in ProcessState
		close(p.exited)
	}()
	if err != nil {
		<-p.exited
		t.Fatalf("the server did not become ready:\n%s", p.log)
	}
	if err := json.Unmarshal(line, &p.addresses); err != nil {
		t.Fatal(err)
	}
}

// kill ends the process like a crash.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.exited
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// stop sends SIGTERM to the process and returns its exit code.
func (p *process) stop() int {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	return p.wait()
}

// wait waits for the process to end, and returns its exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(time.Minute):
		p.t.Fatalf("the server does not end:\n%s", p.log)
	}
	return p.cmd.ProcessState.ExitCode()
}

// response is a response that has been read.
type response struct {
	status int
	body   string
	header http.Header
}

// client returns a client that shares no connections.
func client(t testing.TB) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// get requests a path of the API for a connection.
func (p *process) get(c *http.Client, connection, path string) (response, error) {
	r, err := http.NewRequest(http.MethodGet, "http://"+p.addresses["proxy"]+path, nil)
	if err != nil {
		return response{}, err
	}
	r.Header.Set("Pleo-Connection", connection)
	return send(c, r)
}

// admin requests a path of the admin listener.
func (p *process) admin(path string) response {
	p.t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://"+p.addresses["admin"]+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	a, err := send(client(p.t), r)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

func send(c *http.Client, r *http.Request) (response, error) {
	resp, err := c.Do(r)
	if err != nil {
		return response{}, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read to the end
	body, err := io.ReadAll(resp.Body)
	return response{status: resp.StatusCode, body: string(body), header: resp.Header}, err
}
