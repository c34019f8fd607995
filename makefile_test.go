package repository_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	goTestRun    = regexp.MustCompile(`go test.* -run '?([^' ]+)'? ((?:\./\S+ ?)+)`)
	testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
)

// TestMakefileRunsTests checks that each -run pattern of the Makefile matches a test in
// each of its packages: go test succeeds if it does not.
func TestMakefileRunsTests(t *testing.T) {
	makefile := strings.NewReplacer("$(GO)", "go", "$$", "$").Replace(read(t, "Makefile"))
	found := goTestRun.FindAllStringSubmatch(makefile, -1)
	if len(found) == 0 {
		t.Fatal("found no go test -run in the Makefile")
	}
	for _, m := range found {
		pattern, err := regexp.Compile(m[1])
		if err != nil {
			t.Fatal(err)
		}
		for dir := range strings.FieldsSeq(m[2]) {
			if !hasTest(t, dir, pattern) {
				t.Errorf("Makefile: -run '%s' matches no test in %s", m[1], dir)
			}
		}
	}
}

// hasTest reports whether a test in the directory matches.
func hasTest(t *testing.T, dir string, pattern *regexp.Regexp) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, m := range testFunction.FindAllStringSubmatch(read(t, file), -1) {
			if pattern.MatchString(m[1]) {
				return true
			}
		}
	}
	return false
}
