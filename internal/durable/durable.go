// Package durable writes files that survive a crash, and detects when a file
// has changed.
//
// After a crash or a power failure a file has its old content or its new
// content, never a part of either.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// File is a new file that has no final name yet: a temporary file of mode 0600
// in the directory of its destination. Write to it, then publish it with
// [File.Create] or [File.Replace]. Without one of these, [File.Close] removes it.
//
// A process that is killed may leave the temporary file behind. Its name is
// ".NAME.RANDOM".
type File struct {
	*os.File

	path   string // the destination
	closed bool
}

// New returns an empty File whose destination is path. The directory must exist.
func New(path string) (*File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return nil, err
	}
	return &File{File: f, path: path}, nil
}

// Create publishes the file unless the destination exists: then the error
// matches [fs.ErrExist] and the existing file is left unchanged.
func (f *File) Create() error {
	return f.publish(func(temp, path string) error {
		// Unlike a rename, a link never replaces a file.
		if err := os.Link(temp, path); err != nil {
			return err
		}
		_ = os.Remove(temp) // if that fails, the second name is as private as the file
		return nil
	})
}

// Replace publishes the file in place of the destination, which must be a
// regular file or not exist: replacing a symbolic link or a device is an error.
func (f *File) Replace() error {
	info, err := os.Lstat(f.path)
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return f.publish(os.Rename)
}

// publish syncs the content, then the name. The order matters: a name that
// reaches the disk before its content is an empty file after a power failure.
//
// A failed sync is final. The kernel drops the pages that it could not write, so
// a second sync would succeed without having written them.
func (f *File) publish(rename func(temp, path string) error) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.File.Close(); err != nil {
		return err
	}
	if err := rename(f.Name(), f.path); err != nil {
		return err
	}
	f.closed = true
	return SyncDir(filepath.Dir(f.path))
}

// Close discards a file that was not published, and does nothing to one that
// was. It is safe to defer.
func (f *File) Close() error {
	if f.closed {
		return nil
	}
	f.closed = true
	err := f.File.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil // publish closed it, and could not rename it
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// Create writes data to a new file that only its owner can read. If path exists,
// the error matches [fs.ErrExist]. When Create returns nil, the file survives a
// power failure.
func Create(path string, data []byte) error { return write(path, data, (*File).Create) }

// Replace writes data to path in place of any content, readable by its owner only.
// When Replace returns nil, the new content survives a power failure; when it
// returns an error, the file holds the old content or the new content.
func Replace(path string, data []byte) error { return write(path, data, (*File).Replace) }

func write(path string, data []byte, publish func(*File) error) error {
	f, err := New(path)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = publish(f)
	}
	return errors.Join(err, f.Close())
}

// MkdirAll creates a directory that only its owner can use, with its parents as
// needed, and makes their names durable. It does nothing if dir is a directory.
func MkdirAll(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := MkdirAll(parent); err != nil {
		return err
	}
	// Another process may create it at the same time.
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// SyncDir makes the names in a directory durable: what was created, renamed or
// removed there.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
