package admin

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// probeTimeout bounds each check, so that a store that hangs does not hang the
// page that is to show it.
const probeTimeout = 2 * time.Second

// livez says that the process answers, and nothing more: killing it helps
// against nothing that could be tested here.
func (a *Admin) livez(w http.ResponseWriter, _ *http.Request) {
	writeText(w, http.StatusOK, "ok\n")
}

// readyz says whether requests should be sent here: started, the keyset has
// opened the store, not draining.
func (a *Admin) readyz(w http.ResponseWriter, r *http.Request) {
	status, verdict := http.StatusOK, "ready\n"
	if err := a.ready(); err != nil {
		status, verdict = http.StatusServiceUnavailable, fmt.Sprintf("not ready: %v\n", err)
	}
	if r.URL.Query().Has("verbose") {
		verdict = strings.Join(a.probe(r.Context()), "") + verdict
	}
	writeText(w, status, verdict)
}

// probe runs all checks at once and returns a line for each, in their order.
func (a *Admin) probe(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	lines := make([]string, len(a.checks))
	var running sync.WaitGroup
	for i, check := range a.checks {
		running.Go(func() { lines[i] = check.line(ctx) })
	}
	running.Wait()
	return lines
}

func (c Check) line(ctx context.Context) string {
	if err := c.Probe(ctx); err != nil {
		return fmt.Sprintf("[-] %s: %v\n", c.Name, err)
	}
	return fmt.Sprintf("[+] %s: ok\n", c.Name)
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // only a client that has left makes this fail
}
