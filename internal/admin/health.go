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
		verdict = a.verbose(r.Context()) + verdict
	}
	writeText(w, status, verdict)
}

// verbose returns a line about each check.
func (a *Admin) verbose(ctx context.Context) string {
	var lines strings.Builder
	for i, err := range a.probe(ctx) {
		if err != nil {
			fmt.Fprintf(&lines, "[-] %s: %v\n", a.checks[i].Name, err)
			continue
		}
		fmt.Fprintf(&lines, "[+] %s: ok\n", a.checks[i].Name)
	}
	return lines.String()
}

// probe runs all checks at once and returns what each says, in their order.
func (a *Admin) probe(ctx context.Context) []error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	results := make([]error, len(a.checks))
	var running sync.WaitGroup
	for i, check := range a.checks {
		running.Go(func() { results[i] = check.Probe(ctx) })
	}
	running.Wait()
	return results
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // only a client that has left makes this fail
}
