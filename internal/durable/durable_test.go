package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

func TestCreateAndReplace(t *testing.T) {
	tests := []struct {
		name    string
		write   func(path string, data []byte) error
		before  string // content before; empty: no file
		wantErr error
		want    string
	}{
		{"create", durable.Create, "", nil, "new"},
		{"create where a file exists", durable.Create, "old", fs.ErrExist, "old"},
		{"replace", durable.Replace, "old", nil, "new"},
		{"replace where no file exists", durable.Replace, "", nil, "new"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if tt.before != "" {
				writeFile(t, path, tt.before)
			}
			if err := tt.write(path, []byte("new")); !errors.Is(err, tt.wantErr) {
				t.Errorf("write = %v, want %v", err, tt.wantErr)
			}
			if got := readFile(t, path); got != tt.want {
				t.Errorf("the file holds %q, want %q", got, tt.want)
			}
			wantFiles(t, filepath.Dir(path), 1)
		})
	}
}

func TestNewFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	writeFile(t, path, "old")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := durable.Replace(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode = %v, want 0600", got)
	}
}

func TestReplaceRejectsOtherThanRegularFiles(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	writeFile(t, target, "old")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, t.TempDir()} {
		if err := durable.Replace(path, []byte("new")); err == nil {
			t.Errorf("Replace(%s) succeeded, want an error", path)
		}
	}
	if got := readFile(t, target); got != "old" {
		t.Errorf("the target of the link holds %q, want %q", got, "old")
	}
	wantFiles(t, dir, 2)
}

func TestCloseRemovesUnpublishedFile(t *testing.T) {
	dir := t.TempDir()
	f, err := durable.New(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, 1)
	for range 2 {
		if err := f.Close(); err != nil {
			t.Errorf("Close = %v, want nil", err)
		}
	}
	wantFiles(t, dir, 0)
}

func TestFailedWriteLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	f, err := durable.New(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.File.Close(); err != nil { // makes Sync fail
		t.Fatal(err)
	}
	if err := f.Replace(); err == nil {
		t.Error("Replace succeeded although the content could not be synced")
	}
	if err := f.Close(); err != nil {
		t.Errorf("Close = %v, want nil", err)
	}
	wantFiles(t, dir, 0)
}

func TestMkdirAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := durable.MkdirAll(dir); err != nil {
			t.Fatalf("MkdirAll = %v, want nil", err)
		}
	}
	for _, made := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(made)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o700 {
			t.Errorf("mode of %s = %v, want 0700", made, got)
		}
	}
	file := filepath.Join(dir, "file")
	writeFile(t, file, "")
	if err := durable.MkdirAll(file); err == nil {
		t.Error("MkdirAll succeeded for a file, want an error")
	}
}

func TestStampChangesWithFile(t *testing.T) {
	changes := []struct {
		name   string
		change func(t *testing.T, path string)
	}{
		{"longer", func(t *testing.T, path string) { writeFile(t, path, "longer") }},
		{"touched", func(t *testing.T, path string) {
			if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}},
		{"replaced by a file with the same size and time", func(t *testing.T, path string) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := durable.Replace(path, []byte("abd")); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
				t.Fatal(err)
			}
		}},
		{"removed", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range changes {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			writeFile(t, path, "abc")
			before, err := durable.StampOf(path)
			if err != nil {
				t.Fatal(err)
			}
			if again, _ := durable.StampOf(path); !before.Equal(again) {
				t.Error("the stamp of an unchanged file differs")
			}
			tt.change(t, path)
			after, _ := durable.StampOf(path) // the zero Stamp where it was removed
			if before.Equal(after) || after.Equal(before) {
				t.Error("the stamp of a changed file is equal to the one before")
			}
		})
	}
	if !(durable.Stamp{}).Equal(durable.Stamp{}) {
		t.Error("two zero stamps differ")
	}
}

func TestNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	writeFile(t, path, "old")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !durable.Names(path, f) {
		t.Error("Names = false for the file itself, want true")
	}
	if err := durable.Replace(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if durable.Names(path, f) {
		t.Error("Names = true for a file that was replaced, want false")
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantFiles(t *testing.T, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != want {
		t.Errorf("%s holds %d files, want %d", dir, len(entries), want)
	}
}
