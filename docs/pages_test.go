package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

func readPage(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestEveryAlertHasARunbook checks that the runbook_url of each alert leads to a runbook.
func TestEveryAlertHasARunbook(t *testing.T) {
	page := readPage(t, "operations.md")
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations struct {
					RunbookURL string `yaml:"runbook_url"`
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(readPage(t, "../charts/pleo-auth-proxy/files/alerts.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	alerts := map[string]bool{}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			alerts[rule.Alert] = true
			if !strings.Contains(page, "\n### "+rule.Alert+"\n") {
				t.Errorf("docs/operations.md has no runbook for %s", rule.Alert)
			}
			if want := "/docs/operations.md#" + strings.ToLower(rule.Alert); !strings.HasSuffix(rule.Annotations.RunbookURL, want) {
				t.Errorf("the runbook_url of %s is %q, want one that ends in %q", rule.Alert, rule.Annotations.RunbookURL, want)
			}
		}
	}
	if len(alerts) == 0 {
		t.Error("found no alert")
	}
	for _, heading := range regexp.MustCompile(`(?m)^### (Pleo\w+)$`).FindAllStringSubmatch(page, -1) {
		if !alerts[heading[1]] {
			t.Errorf("docs/operations.md has a runbook for %s, which is not an alert", heading[1])
		}
	}
}

// anchor is a link within a page, or to a heading of another one.
var anchor = regexp.MustCompile(`\]\(((?:\.\./)?[A-Za-z-]*\.md)?#([a-z0-9-]+)\)`)

// TestAnchorsLeadToHeadings checks the headings that links lead to; repo_test.go checks
// the files.
func TestAnchorsLeadToHeadings(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".md") {
			continue
		}
		for _, m := range anchor.FindAllStringSubmatch(readPage(t, entry.Name()), -1) {
			target := m[1]
			if target == "" {
				target = entry.Name()
			}
			if !hasHeading(readPage(t, target), m[2]) {
				t.Errorf("docs/%s links to %s#%s, which has no such heading", entry.Name(), target, m[2])
			}
		}
	}
}

var notInAnchor = regexp.MustCompile(`[^a-z0-9 -]`)

// hasHeading reports whether a heading of the page has the anchor, as GitHub derives it.
func hasHeading(page, anchor string) bool {
	for line := range strings.Lines(page) {
		title, isHeading := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
		if isHeading && strings.HasPrefix(line, "#") {
			title = notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			if strings.ReplaceAll(title, " ", "-") == anchor {
				return true
			}
		}
	}
	return false
}

// testFunctions returns the names of all tests of the repository.
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, declaration := range file.Decls {
			if f, ok := declaration.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// testName is the name of a test in a page.
var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)`")

// TestNamedTestsExist checks that tests named in a page exist, and that each row of a
// table with a column of tests names one.
func TestNamedTestsExist(t *testing.T) {
	names := testFunctions(t)
	for _, page := range []string{"pleo-conformance.md", "security.md", "migrating.md"} {
		inTable := false
		for line := range strings.Lines(readPage(t, page)) {
			for _, m := range testName.FindAllStringSubmatch(line, -1) {
				if !names[m[1]] {
					t.Errorf("docs/%s names %s, which does not exist", page, m[1])
				}
			}
			switch {
			case strings.HasPrefix(line, "| ") && strings.Contains(line, "| tests |"):
				inTable = true
			case !strings.HasPrefix(line, "|"):
				inTable = false
			case inTable && !strings.HasPrefix(line, "| ---") && !testName.MatchString(line):
				t.Errorf("docs/%s: the row names no test: %s", page, strings.TrimSpace(line))
			}
		}
	}
}
