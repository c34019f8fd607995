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

// budget is a number of bytes that requests share.
type budget struct {
	limit int64
	used  atomic.Int64
}

// reserve takes n bytes, or none and reports false.
func (b *budget) reserve(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) release(n int64) { b.used.Add(-n) }

// replayBuffers creates the replay buffers of all requests and holds what they
// share.
type replayBuffers struct {
	memory    budget
	files     budget
	maxMemory int64  // bytes of one body in memory
	maxBody   int64  // bytes of one body in memory and file; larger ones are not buffered
	dir       string // of the files; empty: the system's
	logger    *zap.Logger
	warnOnce  sync.Once
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

// newBuffer returns a buffer for a body of the given length, less than 0 if it is
// unknown.
func (k *replayBuffers) newBuffer(length int64) *replayBuffer {
	return &replayBuffer{shared: k, length: length, discarded: length > k.maxBody}
}

// warnNoFiles logs once why bodies are not buffered in files.
func (k *replayBuffers) warnNoFiles(err error) {
	k.warnOnce.Do(func() {
		k.logger.Warn("larger bodies cannot be buffered for a replay and are sent once; set replay.dir to a writable directory", zap.Error(err))
	})
}

// replayBuffer holds what was read of one body, from its first byte on: a
// beginning in memory, and the rest in an unlinked file.
//
// Only one goroutine at a time appends. All may read what was appended, and
// release the buffer.
type replayBuffer struct {
	shared *replayBuffers
	length int64

	mu             sync.Mutex // guards the fields below; not held while the file is used
	memory         []byte
	reservedMemory int64 // of shared.memory
	file           *os.File
	fileSize       int64 // bytes, reserved of shared.files
	discarded      bool  // something was not appended
	released       bool
}

// append buffers p. It reports false if it cannot: the caller then calls
// appendUnlimited or discard.
func (k *replayBuffer) append(p []byte) bool {
	if len(p) == 0 || k.appendToMemory(p) {
		return true
	}
	k.mu.Lock()
	closed, size := k.discarded || k.released, int64(len(k.memory))+k.fileSize
	k.mu.Unlock()
	if closed || size+int64(len(p)) > k.shared.maxBody || !k.shared.files.reserve(int64(len(p))) {
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

// appendToMemory buffers p in memory, unless there is a file already or the
// limits are reached.
func (k *replayBuffer) appendToMemory(p []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	need := int64(len(k.memory) + len(p))
	if k.discarded || k.released || k.file != nil || max(k.length, need) > k.shared.maxMemory {
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

// appendUnlimited buffers p in memory beyond the limits, for a replay that has
// begun. It reports false if the rest is in a file already.
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
			_ = file.Close() // not yet in k
		}
		return fmt.Errorf("buffering a body: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.released {
		_ = file.Close() // for the second time, perhaps
		return os.ErrClosed
	}
	k.file = file
	k.fileSize += int64(len(p))
	return nil
}

// createUnlinked creates a file that other programs cannot open and that ends
// with this one.
func createUnlinked(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "pleo-auth-proxy-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("creating a replay file: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, fmt.Errorf("unlinking a replay file: %w", errors.Join(err, file.Close()))
	}
	return file, nil
}

// complete reports whether everything that was appended is still buffered.
func (k *replayBuffer) complete() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.discarded && !k.released
}

// readAt reads from an offset. It returns 0 bytes at the end, and if nothing is
// buffered.
func (k *replayBuffer) readAt(p []byte, offset int64) (int, error) {
	k.mu.Lock()
	memory, file, size := k.memory, k.file, k.fileSize
	k.mu.Unlock()
	if offset < int64(len(memory)) {
		return copy(p, memory[offset:]), nil
	}
	offset -= int64(len(memory))
	if file == nil || offset >= size {
		return 0, nil
	}
	n, err := file.ReadAt(p[:min(int64(len(p)), size-offset)], offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("reading a buffered body: %w", err)
	}
	return n, nil
}

// discard gives up buffering this body.
func (k *replayBuffer) discard() { k.free(false) }

// release gives the buffer back. It cannot be used any longer.
func (k *replayBuffer) release() { k.free(true) }

func (k *replayBuffer) free(release bool) {
	k.mu.Lock()
	file := k.file
	k.shared.memory.release(k.reservedMemory)
	k.shared.files.release(k.fileSize)
	k.memory, k.reservedMemory, k.file, k.fileSize = nil, 0, nil, 0
	k.discarded, k.released = true, k.released || release
	k.mu.Unlock()
	if file != nil {
		_ = file.Close() // it is unlinked, so its content does not matter
	}
}
