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

// reserve reserves n bytes, or none and reports false.
func (b *budget) reserve(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) release(n int64) { b.used.Add(-n) }

// replayBuffers is what all requests share to keep their bodies in.
type replayBuffers struct {
	memory    budget
	files     budget
	maxMemory int64  // bytes of memory for one body
	maxBody   int64  // bytes of one body altogether, in memory or not; what is larger is not kept
	dir       string // of the files; empty: that of the system
	logger    *zap.Logger
	warnOnce  sync.Once // for the warning that files cannot be used
}

func newReplayBuffers(c ReplayConfig, logger *zap.Logger) *replayBuffers {
	k := &replayBuffers{
		memory:    budget{limit: c.MemoryTotal},
		maxMemory: c.Memory,
		maxBody:   c.Memory,
		dir:       c.Dir,
		logger:    logger,
	}
	if c.MaxBody > 0 {
		k.maxBody, k.files.limit = c.MaxBody, c.FilesTotal
		k.maxMemory = min(k.maxMemory, k.maxBody)
	}
	return k
}

// newBuffer returns what keeps a body of the given length, less than 0 if that is
// not known.
func (k *replayBuffers) newBuffer(length int64) *replayBuffer {
	return &replayBuffer{shared: k, length: length, discarded: length > k.maxBody}
}

// warnNoFiles says once why bodies are not kept in files. They are then sent once.
func (k *replayBuffers) warnNoFiles(err error) {
	k.warnOnce.Do(func() {
		k.logger.Warn("larger bodies cannot be kept for a replay and are sent once; set replay.dir to a directory that can be written to", zap.Error(err))
	})
}

// buffer is what was read of one body, from its first byte on: a beginning in
// memory, and a rest in a file that has no name.
//
// Only one goroutine at a time appends. Any may read what was appended, and
// release everything.
type replayBuffer struct {
	shared *replayBuffers
	length int64

	mu             sync.Mutex // guards the fields below; not held while a file is used
	memory         []byte
	reservedMemory int64 // of keeper.memory
	file           *os.File
	fileSize       int64 // bytes in file, reserved of keeper.files
	discarded      bool  // something was not kept
	released       bool  // released
}

// append keeps p as well. It reports false where it cannot: then the caller
// calls insist or lose.
func (k *replayBuffer) append(p []byte) bool {
	if len(p) == 0 || k.appendToMemory(p) {
		return true
	}
	k.mu.Lock()
	gone, size := k.discarded || k.released, int64(len(k.memory))+k.fileSize
	k.mu.Unlock()
	if gone {
		return false
	}
	if size+int64(len(p)) > k.shared.maxBody || !k.shared.files.reserve(int64(len(p))) {
		return false
	}
	err := k.appendToFile(p)
	if err == nil {
		return true
	}
	k.shared.files.release(int64(len(p)))
	if !errors.Is(err, os.ErrClosed) { // released meanwhile
		k.shared.warnNoFiles(err)
	}
	return false
}

// appendToMemory appends p in memory, as long as there is no file and room enough.
func (k *replayBuffer) appendToMemory(p []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.discarded || k.released || k.file != nil || k.length > k.shared.maxMemory {
		return false
	}
	need := int64(len(k.memory) + len(p))
	if need > k.shared.maxMemory {
		return false
	}
	if have := int64(cap(k.memory)); need > have {
		size := min(max(2*have, need, k.length, 1<<10), k.shared.maxMemory)
		if !k.shared.memory.reserve(size - k.reservedMemory) {
			return false
		}
		k.reservedMemory = size
		grown := make([]byte, len(k.memory), size)
		copy(grown, k.memory)
		k.memory = grown
	}
	k.memory = append(k.memory, p...)
	return true
}

// appendUnlimited appends p in memory, whatever the limits say: somebody relies on having
// everything. It reports false where the rest is in a file already.
func (k *replayBuffer) appendUnlimited(p []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file != nil || k.released {
		return false
	}
	k.shared.memory.used.Add(int64(len(p)))
	k.reservedMemory += int64(len(p))
	k.memory = append(k.memory, p...)
	return true
}

// appendToFile appends p to the file.
func (k *replayBuffer) appendToFile(p []byte) error {
	k.mu.Lock()
	file, at := k.file, k.fileSize
	k.mu.Unlock()
	if file == nil {
		var err error
		if file, err = createUnlinked(k.shared.dir); err != nil {
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
	if k.released {
		_ = file.Close() // again, perhaps
		return os.ErrClosed
	}
	k.file = file
	k.fileSize += int64(len(p))
	return nil
}

// createUnlinked creates a file that no other program can open, and that is
// gone with this one.
func createUnlinked(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "pleo-auth-proxy-*") // 0600
	if err != nil {
		return nil, fmt.Errorf("creating a file to keep a body in: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, fmt.Errorf("taking the name from a file: %w", errors.Join(err, file.Close()))
	}
	return file, nil
}

// complete reports whether everything that was appended is kept.
func (k *replayBuffer) complete() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.discarded && !k.released
}

// readAt reads what is kept from an offset on. It returns 0 bytes where nothing
// is kept.
func (k *replayBuffer) readAt(p []byte, offset int64) (int, error) {
	k.mu.Lock()
	memory, file, written := k.memory, k.file, k.fileSize
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

// discard gives up keeping.
func (k *replayBuffer) discard() { k.free(false) }

// release gives up keeping for good.
func (k *replayBuffer) release() { k.free(true) }

func (k *replayBuffer) free(over bool) {
	k.mu.Lock()
	file := k.file
	k.shared.memory.release(k.reservedMemory)
	k.shared.files.release(k.fileSize)
	k.memory, k.reservedMemory, k.file, k.fileSize = nil, 0, nil, 0
	k.discarded, k.released = true, k.released || over
	k.mu.Unlock()
	if file != nil {
		_ = file.Close() // it has no name, and nobody wants what is in it
	}
}
