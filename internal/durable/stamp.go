package durable

import (
	"io/fs"
	"os"
)

// Stamp identifies one version of a file: which file it is, its size and its
// modification time. A file that was rewritten or replaced has another Stamp. The
// zero Stamp is that of a file that does not exist.
//
// Take the Stamp before reading the content: a change in between is then seen at
// the next comparison.
type Stamp struct{ info fs.FileInfo }

// StampOf returns the Stamp of the file that path names, after following symbolic
// links; the zero Stamp and an error if there is none.
func StampOf(path string) (Stamp, error) {
	info, err := os.Stat(path)
	return Stamp{info}, err
}

// StampFrom returns the Stamp of the file that info describes.
func StampFrom(info fs.FileInfo) Stamp { return Stamp{info} }

// StampOfFile returns the Stamp of an open file.
func StampOfFile(f *os.File) (Stamp, error) {
	info, err := f.Stat()
	return Stamp{info}, err
}

// Equal reports whether s and t are of the same version of the same file, or both
// of none.
func (s Stamp) Equal(t Stamp) bool {
	if s.info == nil || t.info == nil {
		return s.info == nil && t.info == nil
	}
	// A file that was replaced within a clock tick by one of the same length
	// differs in its identity only.
	return s.SameFile(t) && s.info.Size() == t.info.Size() && s.info.ModTime().Equal(t.info.ModTime())
}

// SameFile reports whether s and t are of the same file, changed or not.
func (s Stamp) SameFile(t Stamp) bool { return os.SameFile(s.info, t.info) }

// IsRegular reports whether the file is a regular one: not a directory, a pipe or
// a device.
func (s Stamp) IsRegular() bool { return s.info != nil && s.info.Mode().IsRegular() }

// Names reports whether path names the open file: it no longer does once another
// process has removed or replaced it.
func Names(path string, f *os.File) bool {
	open, err := StampOfFile(f)
	if err != nil {
		return false
	}
	named, err := StampOf(path)
	return err == nil && open.SameFile(named)
}
