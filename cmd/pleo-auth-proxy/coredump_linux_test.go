package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// TestNoCoreDump checks that the memory of the server, which has tokens and keys, is
// never written to a file, even if the limit of its parent allows it.
func TestNoCoreDump(t *testing.T) {
	var given syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &given); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &given) })
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: given.Max, Max: given.Max}); err != nil {
		t.Fatal(err)
	}
	p := newEnv(t, simulator.Settings{}).serve()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		limit, ok := strings.CutPrefix(line, "Max core file size")
		if fields := strings.Fields(limit); ok && (fields[0] != "0" || fields[1] != "0") {
			t.Errorf("core files have up to %s bytes, and may have %s", fields[0], fields[1])
		}
	}
}
