package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// probeTimeout bounds each check, so that a store that hangs does not also hang
// the page that shows it.
const probeTimeout = 2 * time.Second

// Check is a condition of the running program that operators should know. Checks
// never make the program unready: a process that has an unsaved token pair is the
// only one that can serve it.
type Check struct {
	Name  string
	Probe func(context.Context) error // nil: passed; the error contains no secret
}

// CheckResult is the outcome of a [Check].
type CheckResult struct {
	Name string
	Err  error // nil: passed
}

// health serves the health endpoints.
type health struct {
	ready  func() error
	checks []Check
}

// register adds the health endpoints. They require no token on any listener, since
// they show only whether requests should be sent here.
func (h health) register(mux *http.ServeMux) {
	handleGet(mux, "/livez", livez)
	handleGet(mux, "/readyz", h.readyz)
}

// livez serves /livez. It checks nothing: no condition that could be checked here is
// fixed by killing the process.
func livez(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") }

// readyz serves /readyz: whether requests should be sent to this process.
func (h health) readyz(w http.ResponseWriter, r *http.Request) {
	var body strings.Builder
	if r.URL.Query().Has("verbose") {
		for _, result := range h.run(r.Context()) {
			if result.Err != nil {
				fmt.Fprintf(&body, "[-] %s: %v\n", result.Name, result.Err)
			} else {
				fmt.Fprintf(&body, "[+] %s: ok\n", result.Name)
			}
		}
	}
	status := http.StatusOK
	if err := h.ready(); err != nil {
		status = http.StatusServiceUnavailable
		fmt.Fprintf(&body, "not ready: %v\n", err)
	} else {
		body.WriteString("ready\n")
	}
	writeText(w, status, body.String())
}

// run runs all checks at the same time and returns their results in their order.
func (h health) run(ctx context.Context) []CheckResult {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	results := make([]CheckResult, len(h.checks))
	var running sync.WaitGroup
	for i, check := range h.checks {
		running.Go(func() { results[i] = CheckResult{check.Name, check.Probe(ctx)} })
	}
	running.Wait()
	return results
}

// Health returns the readiness of the program and the results of its checks.
func (a *API) Health(ctx context.Context) []CheckResult {
	return append([]CheckResult{{Name: "program", Err: a.health.ready()}}, a.health.run(ctx)...)
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // fails only if the client has left
}
