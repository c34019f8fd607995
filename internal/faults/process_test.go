package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a running proxy.
type process struct {
	*env
	cmd       *exec.Cmd
	log       *output
	addresses map[string]string // listener → address
	client    *http.Client
	exited    chan struct{} // closed when it has exited
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

// serve starts a proxy on the data directory and waits until it is ready.
func (w *env) serve() *process {
	w.Helper()
	return w.startWith(w.config)
}

func (w *env) start(cmd *exec.Cmd) *process {
	w.Helper()
	p := &process{env: w, cmd: cmd, log: &output{}, exited: make(chan struct{})}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	p.client = &http.Client{Transport: transport, Timeout: eventTimeout}
	w.Cleanup(transport.CloseIdleConnections)
	cmd.Dir, cmd.Env, cmd.Stderr = w.dir, []string{"HOME=" + w.dir}, p.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(p.kill)
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	go func() {
		_ = cmd.Wait() // the exit code is in ProcessState
		close(p.exited)
	}()
	if err != nil {
		<-p.exited
		w.Fatalf("the proxy exited before it was ready:\n%s", p.log)
	}
	if err := json.Unmarshal(line, &p.addresses); err != nil {
		w.Fatal(err)
	}
	return p
}

// kill sends SIGKILL and waits until the process has exited.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have exited already
	<-p.exited
}

func (p *process) signal(s syscall.Signal) {
	p.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.Fatal(err)
	}
}

// pause sends SIGSTOP and returns once the process has stopped.
func (p *process) pause() {
	p.Helper()
	p.signal(syscall.SIGSTOP)
	for p.state() != "T" {
		time.Sleep(time.Millisecond) // only wait would be notified, and it is in use
	}
}

// state returns the state of the process in /proc: "R", "S", "T" and so on.
func (p *process) state() string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/stat")
	if err != nil {
		p.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	state, _, _ := strings.Cut(rest, " ")
	return state
}

// stop sends SIGTERM. The process must exit with code 0.
func (p *process) stop() {
	p.Helper()
	p.signal(syscall.SIGTERM)
	p.awaitExit()
}

// awaitExit waits until the process exits, which must be with code 0.
func (p *process) awaitExit() {
	p.Helper()
	select {
	case <-p.exited:
	case <-time.After(eventTimeout):
		p.Fatalf("timeout while waiting for the proxy to exit:\n%s", p.log)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.violation("exit code %d, want 0:\n%s", code, p.log)
	}
}

// response is the response to a request; status 0: there was none, and body says why.
type response struct {
	status int
	body   string
	header http.Header
	took   time.Duration
}

// code is the code of a problem document.
func (a response) code() string {
	var problem struct{ Code string }
	_ = json.Unmarshal([]byte(a.body), &problem) // other bodies have none
	return problem.Code
}

// get sends a request on behalf of the connection.
func (p *process) get(l connection) response {
	return p.getPath(p.Context(), l, "/v1/companies")
}

func (p *process) getPath(ctx context.Context, l connection, path string) response {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addresses["proxy"]+path, nil)
	if err != nil {
		return response{body: err.Error()}
	}
	r.Header.Set("Pleo-Connection", l.name)
	r.Header.Set("Simulator-Expect-Company", l.grant.Company)
	return p.send(r)
}

func (p *process) send(r *http.Request) response {
	began := time.Now()
	res, err := p.client.Do(r)
	if err != nil {
		return response{body: err.Error()}
	}
	defer func() { _ = res.Body.Close() }() // it is read to the end
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return response{body: err.Error()}
	}
	return response{res.StatusCode, string(body), res.Header, time.Since(began)}
}

// sendAsync sends a request in the background.
func (p *process) sendAsync(l connection) <-chan response {
	c := make(chan response, 1)
	go func() { c <- p.get(l) }()
	return c
}

// sendAll sends a request for each connection in the background.
func (p *process) sendAll(connections []connection) []<-chan response {
	responses := make([]<-chan response, len(connections))
	for i, l := range connections {
		responses[i] = p.sendAsync(l)
	}
	return responses
}

// isFinal reports whether the response will not change by itself.
func isFinal(a response) bool {
	return a.status == http.StatusOK || a.status == http.StatusUnauthorized
}

// getUntil sends requests until done accepts a response, and returns the last one.
func (p *process) getUntil(l connection, done func(response) bool) response {
	p.Helper()
	for began := time.Now(); ; {
		a := p.get(l)
		if done(a) || time.Since(began) > eventTimeout {
			return a
		}
		if a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") == "" {
			p.violation("503 without Retry-After: %s", a.body)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// operator sends a request to the health listener.
func (p *process) operator(path string) response {
	r, err := http.NewRequestWithContext(p.Context(), http.MethodGet, "http://"+p.addresses["health"]+path, nil)
	if err != nil {
		p.Fatal(err)
	}
	return p.send(r)
}

// metric returns the value of a metric. The name includes its labels.
func (p *process) metric(name string) float64 {
	p.Helper()
	for line := range strings.Lines(p.operator("/metrics").body) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				p.Fatal(err)
			}
			return number
		}
	}
	p.Fatalf("there is no metric %s", name)
	return 0
}

// eventually waits until done returns true, and reports whether it did within the limit.
func eventually(limit time.Duration, done func() bool) bool {
	for began := time.Now(); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > limit {
			return false
		}
	}
	return true
}
