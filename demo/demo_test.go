package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run runs the demo and returns its output.
func run(t *testing.T, env ...string) (output string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "./demo.sh")
	cmd.Env = append(os.Environ(), append(env, "DEMO_WORK="+filepath.Join(t.TempDir(), "demo"))...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// tools returns a directory with what a machine without curl has, for PATH.
func tools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"sh", "cat", "cut", "dirname", "env", "go", "grep", "mkdir", "rm", "sed", "sleep", "tail", "tr"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDemo(t *testing.T) {
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../cmd/...")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	path := os.Getenv("PATH")
	for name, path := range map[string]string{
		"with curl":    path,
		"without curl": tools(t),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath("curl"); err != nil && name == "with curl" {
				t.Skip("curl is not installed")
			}
			output, err := run(t, "DEMO_BIN="+bin, "PATH="+path)
			if err != nil || !strings.Contains(output, "The demo succeeded") {
				t.Errorf("the demo ended with %v:\n%s", err, output)
			}
		})
	}
}

func TestDemoReportsAProgramThatDoesNotStart(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\necho no port is free >&2\nexit 1\n"
	if err := os.WriteFile(filepath.Join(bin, "pleo-sim"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	output, err := run(t, "DEMO_BIN="+bin, "DEMO_TIMEOUT=1")
	if err == nil {
		t.Error("the demo exits 0, want an error")
	}
	for _, want := range []string{"pleo-sim becomes ready", "no port is free"} {
		if !strings.Contains(output, want) {
			t.Errorf("output = %q, want %q in it", output, want)
		}
	}
}
