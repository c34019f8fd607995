// Package sqlitefile keeps the files of an SQLite store private and on a local disk, and
// locks connections in them.
package sqlitefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

// Prepare creates a private file for the database if necessary, and returns its
// path without symbolic links: processes that use different links must find the same
// lock file.
func Prepare(path string, log *zap.Logger) (string, error) {
	path, err := resolvePath(path)
	if err != nil {
		return "", pathError(err)
	}
	if err := checkFilesystem(filepath.Dir(path), log); err != nil {
		return "", err
	}
	// SQLite creates its other files with the same permissions.
	if err := createPrivate(path); err != nil {
		return "", pathError(err)
	}
	return path, makePrivate(path, log)
}

func pathError(err error) error {
	return &credstore.SetupError{Err: err, Hint: "the store needs a directory that this user can write to"}
}

// resolvePath resolves symbolic links, and creates the directory if it is missing.
func resolvePath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return resolved, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// createPrivate creates an empty file unless it exists. It does not open an existing
// one: closing it would release the locks that SQLite has on it in this process (POSIX,
// fcntl: "all locks associated with a file for a given process shall be removed when a
// file descriptor for that file is closed").
func createPrivate(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), durable.SyncDir(filepath.Dir(path)))
}

// makePrivate rejects what is not a regular file, and removes the permissions of all
// but the owner.
func makePrivate(path string, log *zap.Logger) error {
	info, err := os.Stat(path)
	if err != nil {
		return pathError(err)
	}
	if !info.Mode().IsRegular() {
		return pathError(fmt.Errorf("%s is not a regular file", path))
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	log.Warn("other users of this host could read the store; restricted its permissions", zap.String("path", path), zap.Stringer("mode", info.Mode()))
	if err := os.Chmod(path, 0o600); err != nil {
		return pathError(err)
	}
	return nil
}

// File remembers which file a path named.
type File struct {
	path  string
	stamp durable.Stamp
}

// Remember returns the files that the paths name now.
func Remember(paths ...string) (files []File, err error) {
	for _, path := range paths {
		stamp, err := durable.StampOf(path)
		if err != nil {
			return nil, pathError(err)
		}
		files = append(files, File{path, stamp})
	}
	return files, nil
}

// CheckInPlace returns an error if the path no longer names the file: the program
// would go on writing to a file that no other process can find.
func (f File) CheckInPlace() error {
	stamp, err := durable.StampOf(f.path)
	if err == nil && stamp.SameFile(f.stamp) {
		return nil
	}
	return fmt.Errorf("%w: %s was removed or replaced while it was in use; stop the program and put the file back", credstore.ErrUnavailable, f.path)
}
