// Package docs tests the documentation: every command in it is run as written.
package docs

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var commands = flag.Bool("commands", false, "run the commands in README and docs")

// A page is run from top to bottom, as one shell script in a copy of the
// repository:
//
//	```sh                 is run
//	```yaml some/file     is written to the file
//	<!-- sh … -->         is run too, but not shown: preparations, and checks of
//	                      what the page says
//
// Other blocks are ignored. The simulator stands in for Pleo. Both programs are in the
// PATH. If the system permits it, each page runs in a separate network, where its ports
// are free.
var block = regexp.MustCompile("(?ms)^```(sh|yaml) ?([^\n]*)\n(.*?)^```$|^<!-- sh\n(.*?)^-->$")

// page is a page with commands.
type page struct {
	path   string // from the root of the repository
	script string
}

// pages returns every page that has commands.
func pages(t *testing.T) []page {
	t.Helper()
	paths, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	paths = append(paths, "../README.md", "../examples/README.md")
	var found []page
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.ToSlash(filepath.Join("docs", path))
		if script := scriptOf(name, string(text)); script != "" {
			found = append(found, page{name, script})
		}
	}
	return found
}

// scriptOf returns the script of a page, empty if the page has no commands.
func scriptOf(name, text string) string {
	var script strings.Builder
	for _, m := range block.FindAllStringSubmatchIndex(text, -1) {
		part := func(i int) string {
			if m[2*i] < 0 {
				return ""
			}
			return text[m[2*i]:m[2*i+1]]
		}
		fmt.Fprintf(&script, "echo '=== %s:%d' >&2\n", name, strings.Count(text[:m[0]], "\n")+1)
		switch {
		case part(1) == "yaml" && part(2) == "":
			continue // an excerpt
		case part(1) == "yaml":
			fmt.Fprintf(&script, "mkdir -p \"$(dirname %[1]s)\"; cat > %[1]s <<'END OF FILE'\n%[2]sEND OF FILE\n", part(2), part(3))
		default:
			script.WriteString(part(3) + part(4))
		}
	}
	return script.String()
}

// prologue makes the shell stop at the first command that fails, and end the background
// jobs with it.
const prologue = `set -euo pipefail -m
trap 'jobs=$(jobs -p); [ -z "$jobs" ] || kill $jobs 2>/dev/null || true; wait' EXIT
`

// TestEveryCommandWorks runs each page.
func TestEveryCommandWorks(t *testing.T) {
	if !*commands {
		t.Skip("running the commands in README and docs takes a while: make docs runs them")
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "../cmd/...")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	for _, p := range pages(t) {
		t.Run(p.path, func(t *testing.T) {
			dir := copyOfRepository(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := isolated(ctx, prologue+p.script)
			cmd.Dir = dir
			cmd.Env = environment(bin)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			cmd.WaitDelay = 10 * time.Second
			if err := cmd.Run(); err != nil {
				t.Errorf("%s: %v:\n%s", p.path, err, tail(out.String()))
			}
		})
	}
}

// isolated returns the command that runs a script, in a separate network if the system
// permits it.
func isolated(ctx context.Context, script string) *exec.Cmd {
	own := []string{"unshare", "--net", "bash", "-c", "ip link set lo up && exec \"$@\"", "bash"}
	if exec.Command(own[0], append(own[1:], "true")...).Run() != nil { //nolint:gosec // G204: written above
		own = nil
	}
	args := append(own, "bash", "-c", script)
	return exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // G204: runs our documentation
}

// environment returns the environment without variables that configure the programs.
func environment(bin string) []string {
	environ := slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, "PLEO_") })
	return append(environ, "PATH="+bin+":"+os.Getenv("PATH"), "GOFLAGS=-buildvcs=false")
}

// copyOfRepository returns a directory with a copy of the files under version control.
func copyOfRepository(t *testing.T) string {
	t.Helper()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = ".."
	out, err := list.Output()
	if err != nil {
		t.Fatalf("listing the files of the repository: %v", err)
	}
	dir := t.TempDir()
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if err := copyFile(filepath.Join("..", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed, and not committed yet
	}
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, info.Mode().Perm())
}

// tail returns the last lines of a long text.
func tail(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

// TestPagesAreFound checks that the pattern for blocks matches.
func TestPagesAreFound(t *testing.T) {
	const text = "a\n```sh\necho 1\n```\n```yaml c.yaml\nx: 1\n```\n```yaml\nexcerpt\n```\n<!-- sh\necho 2\n-->\n"
	for _, want := range []string{"echo 1\n", "cat > c.yaml <<'END OF FILE'\nx: 1\nEND OF FILE\n", "echo 2\n", "=== p:2'"} {
		if got := scriptOf("p", text); !strings.Contains(got, want) || strings.Contains(got, "excerpt") {
			t.Errorf("scriptOf() = %q, want %q in it", got, want)
		}
	}
	if found := pages(t); !slices.ContainsFunc(found, func(p page) bool { return p.path == "README.md" }) {
		t.Errorf("README.md is not among the pages with commands: %v", found)
	}
}
