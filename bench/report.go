package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// report is the report of a run.
type report struct {
	plan    plan
	results []*result
	machine string
}

// machine describes the machine of the run.
func machine(ctx context.Context) string {
	cpu := "unknown processor"
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*:\s*(.*)$`).FindSubmatch(raw); m != nil {
			cpu = string(m[1])
		}
	}
	version := "nginx"
	if out, err := exec.CommandContext(ctx, "nginx", "-v").CombinedOutput(); err == nil {
		_, v, _ := strings.Cut(strings.TrimSpace(string(out)), ": ")
		version = v
	}
	return fmt.Sprintf("%d x %s, %s, %s, %s", runtime.NumCPU(), cpu, runtime.Version(), version, loadAverage())
}

// loadAverage describes other load on the machine. Under load response times mean little,
// and CPU times are still valid.
func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "load unknown"
	}
	load, _, _ := strings.Cut(string(raw), " ")
	return "load average " + load + " before the run"
}

func (r report) of(name string) *result {
	for _, one := range r.results {
		if one.name == name {
			return one
		}
	}
	return &result{}
}

// table returns the results in Markdown.
func (r report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s: %d rounds of %d requests on %d connections, a GET with a response of %d bytes; p50 and p99 at %.0f requests per second, half of the throughput of the slowest.\n\n",
		r.machine, r.plan.rounds, r.plan.requests, r.plan.concurrency, responseSize, r.results[0].rate)
	b.WriteString("| | CPU per request | against ReverseProxy | against nginx | requests/s | p50 | p99 | requests/s, reconnecting | against ReverseProxy |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, one := range r.results {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %.0f | %s | %s | %.0f | %s |\n", one.name,
			formatRange(one.cpu), r.cpuRatio(one, reverseProxySubject), r.cpuRatio(one, nginxSubject), median(one.throughput),
			formatDuration(one.p50), formatDuration(one.p99), one.reconnects, ratio(one.reconnects, r.of(reverseProxySubject).reconnects))
	}
	return b.String()
}

// formatRange formats the median, followed by minimum and maximum.
func formatRange(values []time.Duration) string {
	if len(values) == 0 {
		return "-"
	}
	least, most := values[0], values[0]
	for _, v := range values {
		least, most = min(least, v), max(most, v)
	}
	return fmt.Sprintf("%s (%s to %s)", formatDuration(median(values)), formatDuration(least), formatDuration(most))
}

func formatDuration(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%.0f µs", float64(d)/float64(time.Microsecond))
	}
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

func (r report) cpuRatio(one *result, to string) string {
	return ratio(float64(median(one.cpu)), float64(median(r.of(to).cpu)))
}

func ratio(a, b float64) string {
	if a == 0 || b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}

// check returns an error if the program uses too much CPU time.
func (r report) check() error {
	mine, theirs := median(r.of(proxySubject).cpu), median(r.of(reverseProxySubject).cpu)
	if r.plan.limit > 0 && float64(mine) > r.plan.limit*float64(theirs) {
		return fmt.Errorf("%w: %s against %s, which is %.2f and may be %.2f", errLimitExceeded, formatDuration(mine), formatDuration(theirs), float64(mine)/float64(theirs), r.plan.limit)
	}
	return nil
}

// The markers of the table in the page.
const (
	tableBegin = "<!-- made by make compare; do not edit -->\n"
	tableEnd   = "<!-- end -->\n"
)

var errNoTableMarks = errors.New("the page has no markers of the table")

// publish replaces the table in the page and the plot beside it.
func (r report) publish() error {
	page, err := os.ReadFile(r.plan.doc)
	if err != nil {
		return fmt.Errorf("reading the page: %w", err)
	}
	next, err := replaceTable(page, r.table())
	if err != nil {
		return err
	}
	const pageMode = 0o644                                                                                                              // as git keeps it
	if err := errors.Join(os.WriteFile(r.plan.doc, next, pageMode), os.WriteFile(r.plan.plot, []byte(r.svg()), pageMode)); err != nil { //nolint:gosec // public pages
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}

// replaceTable replaces the table between the markers.
func replaceTable(page []byte, table string) ([]byte, error) {
	before, rest, begun := bytes.Cut(page, []byte(tableBegin))
	_, after, ended := bytes.Cut(rest, []byte(tableEnd))
	if !begun || !ended {
		return nil, errNoTableMarks
	}
	return bytes.Join([][]byte{before, []byte(tableBegin), []byte(table), []byte(tableEnd), after}, nil), nil
}
