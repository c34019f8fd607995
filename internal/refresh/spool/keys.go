package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// Keys counts the token pairs in the spool in dir by the id of the key that they
// are encrypted under. A directory that does not exist holds none. It changes
// nothing and may be called while a server is running.
func Keys(dir string) (map[uint32]int, error) {
	records, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the spool: %w", err)
	}
	pairs := make(map[uint32]int)
	for _, record := range records {
		if filepath.Ext(record.Name()) != extension || !record.Type().IsRegular() {
			continue
		}
		id, written, err := keyOf(filepath.Join(dir, record.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just been saved and removed
		}
		if err != nil {
			return nil, fmt.Errorf("reading the spool: %w", err)
		}
		if written {
			pairs[id]++
		}
	}
	return pairs, nil
}

// keyOf returns the id of the key that the pair in the record is encrypted under.
// It reports false for a record without a pair.
func keyOf(path string) (id uint32, written bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = f.Close() }() // it was only read
	start := make([]byte, 64)
	n, err := f.ReadAt(start, headerSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, false, err
	}
	if start = start[:n]; n < 4 || binary.BigEndian.Uint32(start) == 0 {
		return 0, false, nil
	}
	id, written = keyset.KeyID(start[4:])
	return id, written, nil
}
