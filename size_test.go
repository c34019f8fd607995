package repository_test

import (
	"bytes"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The limits of what a reader can take in at once.
const (
	maxMethods = 25   // of a type, promoted methods included
	maxLines   = 4000 // of a package, without blank lines and comments
)

// productPackages lists the packages that the two programs consist of.
func productPackages(t *testing.T) []goPackage {
	t.Helper()
	all := listPackages(t, "-export", "-deps", "./cmd/...")
	return slices.DeleteFunc(all, func(p goPackage) bool { return p.Module == nil || p.Module.Path != module })
}

// exportData returns an importer of the packages that the two programs import.
func exportData(t *testing.T, fset *token.FileSet) types.Importer {
	t.Helper()
	files := map[string]string{} // import path → file with export data
	for _, p := range listPackages(t, "-export", "-deps", "./cmd/...") {
		files[p.ImportPath] = p.Export
	}
	return importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(files[path]) })
}

// parsePackage parses the files of a package that are compiled.
func parsePackage(t *testing.T, fset *token.FileSet, p goPackage) []*ast.File {
	t.Helper()
	var parsed []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	return parsed
}

// TestMethodsPerType limits what one type can do. A type that embeds another has
// the methods of both: splitting a type into parts that embed each other does not
// make it smaller.
func TestMethodsPerType(t *testing.T) {
	fset := token.NewFileSet()
	config := types.Config{Importer: exportData(t, fset)}
	for _, p := range productPackages(t) {
		pkg, err := config.Check(p.ImportPath, fset, parsePackage(t, fset, p), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range pkg.Scope().Names() {
			object, ok := pkg.Scope().Lookup(name).(*types.TypeName)
			if !ok || object.IsAlias() {
				continue
			}
			if n := methods(object.Type()); n > maxMethods {
				t.Errorf("%s.%s has %d methods, promoted ones included; want at most %d", p.relative(), name, n, maxMethods)
			}
		}
	}
}

// methods returns how many methods of this module a type has, including those of
// its pointer.
func methods(t types.Type) int {
	if !types.IsInterface(t) {
		t = types.NewPointer(t)
	}
	n := 0
	for m := range types.NewMethodSet(t).Methods() {
		if pkg := m.Obj().Pkg(); pkg != nil && strings.HasPrefix(pkg.Path(), module) {
			n++
		}
	}
	return n
}

func TestLinesPerPackage(t *testing.T) {
	for _, p := range productPackages(t) {
		n := 0
		for _, name := range p.GoFiles {
			n += linesOfCode(t, filepath.Join(p.Dir, name))
		}
		if n > maxLines {
			t.Errorf("package %s has %d lines of code, want at most %d", p.relative(), n, maxLines)
		}
	}
}

// linesOfCode counts the lines of a file that hold more than comments.
func linesOfCode(t *testing.T, path string) int {
	t.Helper()
	text := []byte(read(t, path))
	fset := token.NewFileSet()
	file := fset.AddFile(path, -1, len(text))
	var s scanner.Scanner
	s.Init(file, text, nil, 0) // without comments
	lines := map[int]bool{}
	for {
		position, tok, literal := s.Scan()
		if tok == token.EOF {
			return len(lines)
		}
		if tok == token.SEMICOLON && literal == "\n" {
			continue // inserted at the end of a line
		}
		first := file.Line(position)
		for i := range 1 + bytes.Count([]byte(literal), []byte("\n")) {
			lines[first+i] = true
		}
	}
}
