package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
)

// tree is what a step has made: the files of a build stage, or the layers of an
// image.
type tree struct {
	dir     string
	ignored *patternmatcher.PatternMatcher // what of dir is not there; nil: nothing is left out
	machine bool                           // a build stage, for which this machine is the base
	layers  []v1.Layer
}

// copyTo copies as COPY does, into the tree of a build stage.
func (t *tree) copyTo(into *tree, c *pb.FileActionCopy) error {
	from := t.path(c.GetSrc())
	to := filepath.Join(into.dir, c.GetDest())
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if !info.IsDir() && strings.HasSuffix(c.GetDest(), "/") {
		to = filepath.Join(to, filepath.Base(from))
	}
	return t.walk(from, func(path, relative string, info fs.FileInfo) error {
		return copyOne(path, filepath.Join(to, relative), info)
	})
}

// path returns where a path of the tree is found on this machine.
func (t *tree) path(p string) string { return filepath.Join(t.dir, p) }

// walk calls visit for from and all below it that is not left out, in the order
// of their names.
func (t *tree) walk(from string, visit func(path, relative string, info fs.FileInfo) error) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		skip, err := t.leavesOut(path)
		if err != nil {
			return err
		}
		if skip && d.IsDir() {
			return fs.SkipDir
		}
		if skip {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return visit(path, relative, info)
	})
}

func (t *tree) leavesOut(path string) (bool, error) {
	relative, err := filepath.Rel(t.dir, path)
	if err != nil || t.ignored == nil || relative == "." {
		return false, err
	}
	return t.ignored.MatchesOrParentMatches(filepath.ToSlash(relative))
}

func copyOne(from, to string, info fs.FileInfo) error {
	switch info.Mode().Type() {
	case fs.ModeDir:
		return os.MkdirAll(to, info.Mode().Perm()|0o700)
	case fs.ModeSymlink:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case 0:
		return copyFile(from, to, info.Mode().Perm())
	}
	return fmt.Errorf("%s is neither a file nor a directory", from)
}

func copyFile(from, to string, mode fs.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // only read
	target, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		_ = target.Close() // the copy is what failed
		return err
	}
	return target.Close()
}
