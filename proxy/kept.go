package proxy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
)

// budget is room that requests share.
type budget struct {
	limit int64 // bytes
	used  atomic.Int64
}

// take reserves n bytes, or none and reports false.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// keeper is what all requests share to keep their bodies in.
type keeper struct {
	memory budget
	files  budget
	most   int64  // bytes of memory for one body
	body   int64  // bytes of one body altogether, in memory or not; what is larger is not kept
	dir    string // of the files; empty: that of the system
	log    *zap.Logger
	once   sync.Once // for the warning that files cannot be used
}

func newKeeper(c Config) *keeper {
	k := &keeper{
		memory: budget{limit: c.ReplayMemoryTotal},
		most:   max(c.ReplayMemory, 0),
		body:   max(c.ReplayMemory, 0),
		dir:    c.ReplayDir,
		log:    c.Logger,
	}
	if c.ReplayMaxBody > 0 {
		k.body, k.files.limit = c.ReplayMaxBody, c.ReplayFilesTotal
		k.most = min(k.most, k.body)
	}
	return k
}

// keep returns what keeps a body of the given length, less than 0 if that is
// not known.
func (k *keeper) keep(length int64) *kept {
	return &kept{keeper: k, length: length, lost: length > k.body}
}

// warn says once why bodies are not kept in files. They are then sent once.
func (k *keeper) warn(err error) {
	k.once.Do(func() {
		k.log.Warn("larger bodies cannot be kept for a replay and are sent once; set replay.dir to a directory that can be written to", zap.Error(err))
	})
}

// kept is what was read of one body, from its first byte on: a beginning in
// memory, and a rest in a file that has no name.
//
// Only one goroutine at a time appends. Any may read what was appended, and
// release everything.
type kept struct {
	keeper *keeper
	length int64

	mu       sync.Mutex // guards the fields below; not held while a file is used
	memory   []byte
	reserved int64 // of keeper.memory
	file     *os.File
	written  int64 // bytes in file, reserved of keeper.files
	lost     bool  // something was not kept
	over     bool  // released
}

// append keeps p as well. It reports false where it cannot: then the caller
// calls insist or lose.
func (k *kept) append(p []byte) bool {
	if len(p) == 0 || k.remember(p) {
		return true
	}
	k.mu.Lock()
	gone, size := k.lost || k.over, int64(len(k.memory))+k.written
	k.mu.Unlock()
	if gone {
		return false
	}
	if size+int64(len(p)) > k.keeper.body || !k.keeper.files.take(int64(len(p))) {
		return false
	}
	err := k.write(p)
	if err == nil {
		return true
	}
	k.keeper.files.give(int64(len(p)))
	if !errors.Is(err, os.ErrClosed) { // released meanwhile
		k.keeper.warn(err)
	}
	return false
}

// remember appends p in memory, as long as there is no file and room enough.
func (k *kept) remember(p []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lost || k.over || k.file != nil || k.length > k.keeper.most {
		return false
	}
	need := int64(len(k.memory) + len(p))
	if need > k.keeper.most {
		return false
	}
	if have := int64(cap(k.memory)); need > have {
		size := min(max(2*have, need, k.length, 1<<10), k.keeper.most)
		if !k.keeper.memory.take(size - k.reserved) {
			return false
		}
		k.reserved = size
		grown := make([]byte, len(k.memory), size)
		copy(grown, k.memory)
		k.memory = grown
	}
	k.memory = append(k.memory, p...)
	return true
}

// insist appends p in memory, whatever the limits say: somebody relies on having
// everything. It reports false where the rest is in a file already.
func (k *kept) insist(p []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file != nil || k.over {
		return false
	}
	k.keeper.memory.used.Add(int64(len(p)))
	k.reserved += int64(len(p))
	k.memory = append(k.memory, p...)
	return true
}

// write appends p to the file.
func (k *kept) write(p []byte) error {
	k.mu.Lock()
	file, at := k.file, k.written
	k.mu.Unlock()
	if file == nil {
		var err error
		if file, err = createNameless(k.keeper.dir); err != nil {
			return err
		}
	}
	if _, err := file.WriteAt(p, at); err != nil {
		if at == 0 {
			_ = file.Close() // nobody else has it
		}
		return fmt.Errorf("keeping a body: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		_ = file.Close() // again, perhaps
		return os.ErrClosed
	}
	k.file = file
	k.written += int64(len(p))
	return nil
}

// createNameless creates a file that no other program can open, and that is
// gone with this one.
func createNameless(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "pleo-auth-proxy-*") // 0600
	if err != nil {
		return nil, fmt.Errorf("creating a file to keep a body in: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, fmt.Errorf("taking the name from a file: %w", errors.Join(err, file.Close()))
	}
	return file, nil
}

// whole reports whether everything that was appended is kept.
func (k *kept) whole() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.lost && !k.over
}

// readAt reads what is kept from an offset on. It returns 0 bytes where nothing
// is kept.
func (k *kept) readAt(p []byte, offset int64) (int, error) {
	k.mu.Lock()
	memory, file, written := k.memory, k.file, k.written
	k.mu.Unlock()
	if offset < int64(len(memory)) {
		return copy(p, memory[offset:]), nil
	}
	offset -= int64(len(memory))
	if file == nil || offset >= written {
		return 0, nil
	}
	n, err := file.ReadAt(p[:min(int64(len(p)), written-offset)], offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("reading a body that was kept: %w", err)
	}
	return n, nil
}

// lose gives up keeping.
func (k *kept) lose() { k.drop(false) }

// release gives up keeping for good.
func (k *kept) release() { k.drop(true) }

func (k *kept) drop(over bool) {
	k.mu.Lock()
	file := k.file
	k.keeper.memory.give(k.reserved)
	k.keeper.files.give(k.written)
	k.memory, k.reserved, k.file, k.written = nil, 0, nil, 0
	k.lost, k.over = true, k.over || over
	k.mu.Unlock()
	if file != nil {
		_ = file.Close() // it has no name, and nobody wants what is in it
	}
}
