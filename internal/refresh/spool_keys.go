package refresh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// SpoolKeys counts the token pairs in the spool in dir by the id of the key that
// they are sealed under. A directory that does not exist holds none. It changes
// nothing, and may be called beside a running server.
func SpoolKeys(dir string) (map[uint32]int, error) {
	records, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking into the spool: %w", err)
	}
	pairs := make(map[uint32]int)
	for _, record := range records {
		if filepath.Ext(record.Name()) != spoolExt || !record.Type().IsRegular() {
			continue
		}
		id, filled, err := keyOfRecord(filepath.Join(dir, record.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just been saved
		}
		if err != nil {
			return nil, fmt.Errorf("looking into the spool: %w", err)
		}
		if filled {
			pairs[id]++
		}
	}
	return pairs, nil
}

// keyOfRecord reports false for a record that is only reserved.
func keyOfRecord(path string) (id uint32, filled bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = f.Close() }() // nothing was written to it
	start := make([]byte, 64)
	n, err := f.ReadAt(start, headerSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, false, err
	}
	if start = start[:n]; n < 4 || binary.BigEndian.Uint32(start) == 0 {
		return 0, false, nil
	}
	id, filled = credstore.KeyID(start[4:])
	return id, filled, nil
}
