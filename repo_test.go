// Package repository_test checks rules of the repository that the compiler does
// not: the import graph, the linked modules, package documentation, sizes, links
// and terms.
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

// goPackage is what go list reports about a package.
type goPackage struct {
	Dir        string
	ImportPath string
	Name       string
	Doc        string // the first sentence
	Export     string // file with export data, given -export
	GoFiles    []string
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
}

// relative returns the import path relative to the module.
func (p goPackage) relative() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// goTool runs the go command without cgo, as the build of the program does.
func goTool(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
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

// packageRow matches a row of the table of packages in docs/architecture.md.
var packageRow = regexp.MustCompile("(?m)^\\| `([a-z0-9/-]+)` \\| (.+) \\|$")

// TestOneSentencePerPackage checks that each package has one purpose: its
// documentation begins with a sentence, which is its row in docs/architecture.md.
func TestOneSentencePerPackage(t *testing.T) {
	rows := map[string]string{} // package → sentence
	for _, m := range packageRow.FindAllStringSubmatch(read(t, "docs/architecture.md"), -1) {
		rows[m[1]] = m[2]
	}
	for _, p := range listPackages(t, "./...") {
		if len(p.GoFiles) == 0 {
			continue
		}
		sentence, ended := strings.CutSuffix(p.Doc, ".")
		for _, prefix := range []string{"Package ", "Command "} {
			sentence = strings.TrimPrefix(sentence, prefix)
		}
		_, sentence, _ = strings.Cut(sentence, " ") // without its name
		if want := rows[p.relative()]; !ended || sentence != want {
			t.Errorf("the documentation of %s begins with %q, want the sentence of its row in docs/architecture.md: %q", p.relative(), p.Doc, want)
		}
	}
}

// TestNoReplace keeps the module usable as a dependency: replace directives apply
// in the main module only.
func TestNoReplace(t *testing.T) {
	var mod struct{ Replace []any }
	if err := json.Unmarshal(goTool(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	if len(mod.Replace) > 0 {
		t.Errorf("go.mod has %d replace directives, want none", len(mod.Replace))
	}
}

// TestLinkedModules makes every new dependency of the program visible in a diff.
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
		t.Errorf("the linked modules differ from %s; if this is intended, run `go test -run TestLinkedModules . -update` and give the reason in the commit (-want +got):\n%s", golden, diff)
	}
}

// imports is the import graph of this module: package → the packages that it
// imports. It is exact, so that a new dependency between packages is a decision.
var imports = map[string][]string{
	"cmd/pleo-auth-proxy": {
		"cmd/pleo-auth-proxy/internal/autocert", "cmd/pleo-auth-proxy/internal/config",
		"cmd/pleo-auth-proxy/internal/doctor", "cmd/pleo-auth-proxy/internal/listen",
		"cmd/pleo-auth-proxy/internal/setup", "credstore", "credstore/keyset", "credstore/sqlstore",
		"internal/api", "internal/apikey", "internal/connect", "internal/dashboard", "internal/durable",
		"internal/manage", "internal/pleo", "internal/refresh", "internal/refresh/rollback",
		"internal/refresh/spool", "internal/webhook", "proxy",
	},
	"cmd/pleo-auth-proxy/internal/doctor": {
		"cmd/pleo-auth-proxy/internal/config", "cmd/pleo-auth-proxy/internal/listen",
		"cmd/pleo-auth-proxy/internal/setup", "credstore", "credstore/keyset", "internal/outbound",
		"internal/pleo", "internal/refresh", "internal/refresh/rollback", "internal/refresh/spool",
	},
	"cmd/pleo-auth-proxy/internal/setup": {
		"cmd/pleo-auth-proxy/internal/config", "cmd/pleo-auth-proxy/internal/listen", "credstore",
		"credstore/keyset", "credstore/sqlstore", "internal/connect", "internal/durable", "internal/manage",
		"internal/outbound", "internal/pleo", "internal/refresh", "internal/refresh/spool", "internal/webhook",
		"proxy", "proxy/upstream",
	},
	"cmd/pleo-auth-proxy/internal/listen": {
		"cmd/pleo-auth-proxy/internal/config",
	},
	"cmd/pleo-auth-proxy/internal/testca":   {},
	"cmd/pleo-auth-proxy/internal/config":   {"credstore", "internal/durable", "internal/outbound", "internal/pleo", "internal/webguard", "proxy"},
	"internal/api":                          {"credstore", "internal/manage", "internal/webguard"},
	"internal/dashboard":                    {"credstore", "internal/apikey", "internal/manage", "internal/refresh", "internal/webguard"},
	"internal/connect":                      {"credstore", "internal/apikey", "internal/pleo", "internal/refresh", "internal/webguard"},
	"internal/manage":                       {"credstore", "internal/apikey", "internal/pleo", "internal/refresh", "internal/webguard"},
	"proxy":                                 {"credstore", "internal/refresh", "internal/webguard", "proxy/upstream"},
	"internal/refresh":                      {"credstore", "internal/apikey", "internal/broadcast", "internal/pleo", "internal/refresh/breaker", "internal/refresh/rollback", "internal/refresh/spool"},
	"credstore/sqlstore":                    {"credstore", "credstore/keyset", "credstore/sqlstore/sqlitefile", "internal/broadcast", "internal/durable"},
	"credstore/sqlstore/sqlitefile":         {"credstore", "internal/durable"},
	"internal/apikey":                       {"credstore", "internal/pleo"},
	"internal/refresh/spool":                {"credstore", "credstore/keyset", "internal/durable"},
	"credstore/keyset":                      {"credstore", "internal/durable"},
	"internal/pleo":                         {"credstore", "internal/outbound"},
	"internal/refresh/breaker":              {"internal/broadcast"},
	"internal/refresh/rollback":             {"credstore", "internal/durable"},
	"internal/webhook":                      {"credstore", "internal/broadcast", "internal/outbound"},
	"proxy/upstream":                        {"internal/outbound"},
	"cmd/pleo-auth-proxy/internal/autocert": {},
	"credstore":                             {},
	"internal/broadcast":                    {},
	"internal/durable":                      {},
	"internal/outbound":                     {},
	"internal/webguard":                     {},

	// The simulator, and packages for tests and benchmarks.
	"bench":                      {"internal/freeport"},
	"cmd/pleo-sim":               {"internal/simulator"},
	"credstore/credstoretest":    {"credstore"},
	"demo":                       {},
	"demo/curl":                  {},
	"internal/acmetest":          {"internal/freeport"},
	"internal/browsertest":       {},
	"internal/faults":            {},
	"internal/freeport":          {},
	"internal/manage/managetest": {"credstore", "internal/apikey", "internal/manage", "internal/pleo", "internal/refresh"},
	"internal/postgrestest":      {"internal/freeport"},
	"internal/simulator":         {},
}

func TestImportGraph(t *testing.T) {
	got := map[string][]string{}
	for _, p := range listPackages(t, "./...") {
		if len(p.GoFiles) == 0 {
			continue // tests may import everything
		}
		imported := []string{}
		for _, path := range p.Imports {
			if relative, ours := strings.CutPrefix(path, module+"/"); ours {
				imported = append(imported, relative)
			}
		}
		got[p.relative()] = imported
	}
	if diff := cmp.Diff(imports, got); diff != "" {
		t.Errorf("the imports of packages differ from the graph; if this is intended, change the graph and docs/architecture.md (-want +got):\n%s", diff)
	}
}

// TestCredstoreImportsNothing lets other programs use the interfaces of credstore
// without the databases of this one.
func TestCredstoreImportsNothing(t *testing.T) {
	for _, p := range listPackages(t, "./credstore") {
		for _, path := range p.Deps {
			if strings.HasPrefix(path, module) {
				t.Errorf("package credstore imports %s, want no package of this module", path)
			}
		}
	}
}

// TestSimulatorIsForTestsOnly keeps the simulator out of the program.
func TestSimulatorIsForTestsOnly(t *testing.T) {
	for _, p := range listPackages(t, "./...") {
		if slices.Contains(p.Imports, module+"/internal/simulator") && p.relative() != "cmd/pleo-sim" {
			t.Errorf("package %s imports the simulator, want it in cmd/pleo-sim and tests only", p.relative())
		}
	}
}

// walkFiles calls visit with the path of each source file of the repository.
func walkFiles(t *testing.T, visit func(path string)) {
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
			visit(filepath.ToSlash(path))
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

// TestNoTodoComments keeps unfinished work in issues, where it can be planned.
func TestNoTodoComments(t *testing.T) {
	marker := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)
	walkFiles(t, func(path string) {
		if path == ".golangci.yml" {
			return // configures a linter for the same markers
		}
		for i, line := range strings.Split(read(t, path), "\n") {
			if marker.MatchString(line) {
				t.Errorf("%s:%d: %s", path, i+1, strings.TrimSpace(line))
			}
		}
	})
}

// link matches a Markdown link to a file of the repository: path and fragment.
var link = regexp.MustCompile(`\]\(([^)#\s:]+)(#[^)]*)?\)`)

func TestLinks(t *testing.T) {
	checked := 0
	walkFiles(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		for _, m := range link.FindAllStringSubmatch(read(t, path), -1) {
			checked++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s, which does not exist", path, m[1])
			}
		}
	})
	if checked == 0 {
		t.Error("found no links to check")
	}
}

// TestNoInit keeps packages free of state that two servers in one process would
// share.
func TestNoInit(t *testing.T) {
	walkFiles(t, func(path string) {
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
