// Package repository_test holds the repository to the rules that no compiler
// knows: what imports what, which modules the program links, and what every
// package and every page must have.
package repository_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/pleo-auth-proxy/pleo-auth-proxy"

var update = flag.Bool("update", false, "write testdata/linked-modules.txt")

// goPackage is what go list tells about a package.
type goPackage struct {
	Dir        string
	ImportPath string
	Name       string
	Doc        string
	Export     string // file with export data, given -export
	GoFiles    []string
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
}

// relative returns the import path within the module.
func (p goPackage) relative() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// goTool runs the go command as a build of the program does: without cgo.
func goTool(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &problems)
	}
	return out
}

func listPackages(t *testing.T, args ...string) []goPackage {
	t.Helper()
	var packages []goPackage
	dec := json.NewDecoder(bytes.NewReader(goTool(t, append([]string{"list", "-json"}, args...)...)))
	for {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	for _, p := range listPackages(t, "./...") {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("package %s has no package comment", p.relative())
		}
	}
}

// TestNoReplace keeps the module one that others can depend on: a replace
// directive counts in the main module only.
func TestNoReplace(t *testing.T) {
	var mod struct{ Replace []any }
	if err := json.Unmarshal(goTool(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	if len(mod.Replace) > 0 {
		t.Errorf("go.mod has %d replace directives, want none", len(mod.Replace))
	}
}

// TestLinkedModules makes every new dependency of the program a line that
// somebody writes and somebody reads.
func TestLinkedModules(t *testing.T) {
	const golden = "testdata/linked-modules.txt"
	var modules []string
	for _, p := range listPackages(t, "-deps", "./cmd/pleo-auth-proxy") {
		if p.Module != nil && p.Module.Path != module {
			modules = append(modules, p.Module.Path+"\n")
		}
	}
	slices.Sort(modules)
	got := strings.Join(slices.Compact(modules), "")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the program links other modules than %s says; if that is meant, run `go test -run TestLinkedModules . -update` and give the reason in the commit (-want +got):\n%s", golden, diff)
	}
}

// mayImport maps each package to what it may import of this module, in any
// number of steps. A package stands for itself and all below it.
var mayImport = map[string][]string{
	"cmd/pleo-sim":          {"internal/simulator"},
	"internal/simulator":    {},
	"internal/faults":       {},                    // tests alone, which run the programs
	"internal/freeport":     {},                    // for tests and benchmarks alone
	"internal/postgrestest": {"internal/freeport"}, // for tests alone
	"internal/browsertest":  {},                    // for tests alone, which use the pages
	"internal/acmetest":     {"internal/freeport"}, // for tests alone
	"demo":                  {},
	"examples":              {},                    // tests alone, which run the programs
	"bench":                 {"internal/freeport"}, // runs the program beside others

	"cmd/pleo-auth-proxy":       {"proxy", "internal/connect", "internal/api", "internal/dashboard", "internal/manage", "internal/webhook", "internal/refresh", "internal/refresh/breaker", "internal/refresh/rollback", "internal/refresh/spool", "internal/pleo", "credstore", "internal/broadcast", "internal/durable", "internal/webguard", "internal/outbound"},
	"proxy":                     {"internal/refresh", "internal/refresh/breaker", "internal/refresh/rollback", "internal/refresh/spool", "internal/pleo", "credstore", "internal/broadcast", "internal/durable", "internal/webguard", "internal/outbound"},
	"internal/connect":          {"internal/refresh", "internal/refresh/breaker", "internal/refresh/rollback", "internal/refresh/spool", "internal/pleo", "credstore", "internal/broadcast", "internal/durable", "internal/webguard", "internal/outbound"},
	"internal/api":              {"internal/manage", "internal/refresh", "internal/refresh/breaker", "internal/refresh/rollback", "internal/refresh/spool", "internal/pleo", "credstore", "internal/broadcast", "internal/durable", "internal/webguard", "internal/outbound"},
	"internal/dashboard":        {"internal/manage", "internal/refresh", "internal/refresh/breaker", "internal/refresh/rollback", "internal/refresh/spool", "internal/pleo", "credstore", "internal/broadcast", "internal/durable", "internal/webguard", "internal/outbound"},
	"internal/manage":           {"internal/refresh", "internal/refresh/breaker", "internal/refresh/rollback", "internal/refresh/spool", "internal/pleo", "credstore", "internal/broadcast", "internal/durable", "internal/webguard", "internal/outbound"},
	"internal/webhook":          {"credstore", "internal/broadcast", "internal/durable", "internal/outbound"},
	"internal/refresh/breaker":  {"internal/broadcast"},
	"internal/refresh/rollback": {"credstore", "internal/broadcast", "internal/durable"},
	"internal/refresh/spool":    {"credstore", "internal/broadcast", "internal/durable"},
	"internal/refresh":          {"internal/refresh/breaker", "internal/refresh/rollback", "internal/refresh/spool", "internal/pleo", "credstore", "internal/broadcast", "internal/durable", "internal/outbound"},
	"internal/pleo":             {"credstore", "internal/durable", "internal/outbound"},
	"credstore":                 {"internal/broadcast", "internal/durable"},
	"internal/broadcast":        {},
	"internal/webguard":         {},
	"internal/durable":          {},
	"internal/outbound":         {},
}

// room returns the entry of mayImport that a package falls under: its own, or
// that of the nearest folder above it. A package at credstore/sqlstore falls
// under credstore.
func room(relative string) string {
	for ; relative != "."; relative = filepath.Dir(relative) {
		if _, ok := mayImport[relative]; ok {
			return relative
		}
	}
	return ""
}

func TestArrowsPointOneWay(t *testing.T) {
	for _, p := range listPackages(t, "./...") {
		if len(p.GoFiles) == 0 {
			continue // tests alone, which may look at everything
		}
		home := room(p.relative())
		if home == "" {
			t.Errorf("package %s has no place among the arrows; give it one in docs/architecture.md and here", p.relative())
			continue
		}
		for _, path := range p.Deps {
			inside, ours := strings.CutPrefix(path, module+"/")
			if ours && room(inside) != home && !slices.Contains(mayImport[home], room(inside)) {
				t.Errorf("package %s imports %s, against the arrows", p.relative(), inside)
			}
		}
	}
}

// TestCredstoreStandsAlone: a program of somebody else's can use the package
// that says what a store is without the database that comes with ours.
func TestCredstoreStandsAlone(t *testing.T) {
	for _, p := range listPackages(t, "./credstore") {
		for _, path := range p.Deps {
			if strings.HasPrefix(path, module) {
				t.Errorf("package credstore imports %s, want nothing of ours", path)
			}
		}
	}
}

// TestSimulatorIsForTestsOnly: no program that talks to the real Pleo holds a
// false one.
func TestSimulatorIsForTestsOnly(t *testing.T) {
	for _, p := range listPackages(t, "./...") {
		if slices.Contains(p.Imports, module+"/internal/simulator") && p.relative() != "cmd/pleo-sim" {
			t.Errorf("package %s imports the simulator, which is for cmd/pleo-sim and tests", p.relative())
		}
	}
}

// files calls look with each file of the tree that was not built from it.
func files(t *testing.T, look func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch path {
			case ".git", "bin", "dist", ".demo":
				return fs.SkipDir
			}
			if d.Name() == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			look(filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestNothingIsLeftToDo: work that is not done is an issue, where it is seen
// and can be planned, and not a comment.
func TestNothingIsLeftToDo(t *testing.T) {
	marker := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)
	files(t, func(path string) {
		if path == ".golangci.yml" {
			return // names the markers it looks for
		}
		for i, line := range strings.Split(read(t, path), "\n") {
			if marker.MatchString(line) {
				t.Errorf("%s:%d: %s", path, i+1, strings.TrimSpace(line))
			}
		}
	})
}

// link is a link in Markdown that is not to another site: its target, less a
// fragment.
var link = regexp.MustCompile(`\]\(([^)#\s:]+)(#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	checked := 0
	files(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		for _, m := range link.FindAllStringSubmatch(read(t, path), -1) {
			checked++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			}
		}
	})
	if checked == 0 {
		t.Error("no link was found in any page, so none was checked")
	}
}

// TestNothingRunsAtLoad: a second server in the same process must not share
// anything with the first by accident, so nothing runs when a package is loaded.
func TestNothingRunsAtLoad(t *testing.T) {
	files(t, func(path string) {
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("parsing %s: %v", path, err)
			return
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function", path)
			}
		}
	})
}
