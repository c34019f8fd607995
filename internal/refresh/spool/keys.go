package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
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
		raw, err := os.ReadFile(filepath.Join(dir, record.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just been saved and removed
		}
		if err != nil {
			return nil, fmt.Errorf("reading the spool: %w", err)
		}
		if len(raw) < headerSize+4 || binary.BigEndian.Uint32(raw[headerSize:]) == 0 {
			continue // no pair has been written to it
		}
		if id, ok := keyset.KeyID(raw[headerSize+4:]); ok {
			pairs[id]++
		}
	}
	return pairs, nil
}
