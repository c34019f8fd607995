package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// The limits that the documentation promises.
const (
	maxStartTime      = 100 * time.Millisecond // from the start of the process, with 1,000 connections
	maxBinarySize     = 30 << 20               // bytes, stripped
	maxResidentMemory = 30 << 20               // bytes, idle
)

// BenchmarkStart measures a release build: the time until it is ready with 1,000
// connections in the store, its size, and its memory.
func BenchmarkStart(b *testing.B) {
	executable := buildProgram(b)
	w := newEnv(b, simulator.Settings{}, "log: {level: warn}")
	lines := make([]string, 0, 1000)
	for i := range 1000 {
		_, line := w.grant(fmt.Sprint("c", i), simulator.GrantRequest{})
		lines = append(lines, line)
	}
	w.importLines(lines...)
	var took time.Duration
	resident := 0
	for b.Loop() {
		p := startServer(b, executable, w.dir, w.config)
		took += p.took
		resident = max(resident, p.resident())
		p.kill()
	}
	took /= time.Duration(b.N)
	if took > maxStartTime || resident > maxResidentMemory {
		b.Errorf("ready after %v with %d bytes resident, want at most %v and %d", took, resident, maxStartTime, maxResidentMemory)
	}
	b.ReportMetric(float64(took.Microseconds())/1000, "ms/ready")
	b.ReportMetric(float64(resident)/(1<<20), "MB-resident")
	b.ReportMetric(float64(sizeOf(b, executable))/(1<<20), "MB-binary")
}

// buildProgram builds the program as releases are built.
func buildProgram(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "pleo-auth-proxy")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("building the program: %v\n%s", err, out)
	}
	if size := sizeOf(b, path); size > maxBinarySize {
		b.Errorf("the program has %d bytes, want at most %d", size, maxBinarySize)
	}
	return path
}

func sizeOf(b *testing.B, path string) int64 {
	b.Helper()
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}

var residentPattern = regexp.MustCompile(`(?m)^VmRSS:\s+([0-9]+) kB$`)

// resident returns the resident memory of the process in bytes; 0 if the
// system does not report it.
func (p *process) resident() int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	m := residentPattern.FindSubmatch(status)
	if m == nil {
		return 0
	}
	kilobytes, err := strconv.Atoi(string(m[1]))
	if err != nil {
		p.t.Fatal(err)
	}
	return kilobytes << 10
}
