// Package spool keeps unsaved token pairs across crashes.
//
// A spool is a directory with one record per refresh in flight. The record is
// reserved at its full length before the refresh token is sent, so that writing
// the new pair needs no free space, and removed when the store has saved the
// pair. A record that a dead process left is replayed into the store, by the next
// process or by another one that uses the same directory.
package spool

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

const (
	// replayInterval is how often records left by other processes are looked for.
	replayInterval = 2 * time.Second
	// replayRetryDelay is the same while a record could not be replayed.
	replayRetryDelay = 250 * time.Millisecond
	// Another process may hold the lock on a record for a moment, while it asks the
	// store whether the record is still of use.
	lockTimeout      = 5 * time.Second
	lockPollInterval = 5 * time.Millisecond
)

// ErrHoldsPair says that the spool already holds a successor of the parent: the
// parent's refresh token has been exchanged and must not be sent again.
var ErrHoldsPair = errors.New("the spool holds a newer token pair that has not been saved")

// Store is what replaying needs of a credential store.
type Store interface {
	Read(ctx context.Context, id string) (credstore.State, error)
	Save(ctx context.Context, s credstore.Successor) (credstore.Connection, error)
}

// Record is the space reserved for the successor of one parent. It belongs to
// one refresh and is used by one goroutine at a time.
type Record interface {
	// Write encrypts the successor into the record and syncs it.
	Write(s credstore.Successor) error
	// Remove deletes the record: the store has the successor, or there is none. It
	// does nothing after Release.
	Remove()
	// Release keeps the record for the next process.
	Release()
}

// Dir is a spool in a directory of this machine. Its methods may be called by
// several goroutines at once.
type Dir struct {
	// ReplayInterval is how often Replay looks for records that other processes
	// have left. Set it before Replay is called; Open sets 2 seconds.
	ReplayInterval time.Duration

	path     string
	cipher   Cipher
	replayed chan struct{} // closed when the records of earlier processes have been tried

	mu        sync.Mutex // guards abandoned
	abandoned map[credstore.Parent]bool
}

// Open returns the spool in the directory, which it creates if needed, for this
// user only. It returns a [credstore.SetupError] if it cannot.
func Open(dir string, cipher Cipher) (*Dir, error) {
	if err := durable.MkdirAll(dir); err != nil {
		return nil, &credstore.SetupError{
			Err:  fmt.Errorf("creating the spool directory: %w", err),
			Hint: "set store.spool_dir to a directory on a local disk that this user may write to",
		}
	}
	return &Dir{
		ReplayInterval: replayInterval,
		path:           dir, cipher: cipher,
		replayed: make(chan struct{}), abandoned: map[credstore.Parent]bool{},
	}, nil
}

// Reserve creates a record for the successor of parent, at full length and
// synced. After an error nothing may be sent: there is no space, another process
// has reserved the same record, or the spool holds a successor ([ErrHoldsPair]).
func (d *Dir) Reserve(parent credstore.Parent) (Record, error) {
	r, err := d.lockVacant(d.recordPath(parent))
	if err != nil {
		return nil, err
	}
	r.parent = parent
	if err := r.reserve(); err != nil {
		r.Remove()
		return nil, err
	}
	return r, nil
}

// lockVacant locks the record, which it creates if needed and which holds nothing
// that must be kept.
func (d *Dir) lockVacant(path string) (*fileRecord, error) {
	for {
		r, err := d.lockSoon(path)
		if err != nil {
			return nil, err
		}
		successor, err := r.read()
		if errors.Is(err, errIncomplete) || err == nil && successor == nil {
			return r, nil
		}
		if successor != nil {
			err = ErrHoldsPair
		}
		damaged := errors.Is(err, errDamaged)
		if damaged {
			err = r.setAside()
		}
		r.Release()
		if !damaged || err != nil {
			return nil, err
		}
		// The damaged file has another name now. Writing to it would put the pair
		// where Replay does not look.
	}
}

func (d *Dir) recordPath(p credstore.Parent) string {
	name := fmt.Sprintf("%s-%d-%s%s", p.ConnectionID, p.Version, hex.EncodeToString(p.RefreshHash[:8]), extension)
	return filepath.Join(d.path, filepath.Base(name))
}

// lockSoon locks the record, which it creates if needed. It waits for a moment if
// another process holds the lock.
func (d *Dir) lockSoon(path string) (*fileRecord, error) {
	for start := time.Now(); ; time.Sleep(lockPollInterval) {
		r, err := lock(d, path, os.O_RDWR|os.O_CREATE)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(start) > lockTimeout {
			return r, err
		}
	}
}

// Abandoned reports whether a dead process of this machine reserved a record for
// the successor of parent and wrote none: then there is no successor to wait for.
// It knows the records that Replay has read.
func (d *Dir) Abandoned(parent credstore.Parent) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.abandoned[parent]
}

// Replayed returns a channel that Replay closes when it has tried every record
// once.
func (d *Dir) Replayed() <-chan struct{} { return d.replayed }

// Replay saves what other processes have left, each pair only onto its parent,
// and removes records that are no longer of use. It tries at once and then
// repeatedly, since another process on the same directory may die at any time,
// until ctx ends; it returns ctx's error. After each round it calls unsaved with
// the number of records that could not be replayed.
func (d *Dir) Replay(ctx context.Context, store Store, log *zap.Logger, unsaved func(int)) error {
	var replayed sync.Once
	for {
		left, err := d.replayAll(ctx, store, log)
		unsaved(left)
		if err == nil {
			replayed.Do(func() { close(d.replayed) })
		}
		delay := d.ReplayInterval
		if err != nil || left > 0 {
			delay = replayRetryDelay
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// replayAll tries every record once and returns how many could not be replayed.
// The error says that the directory could not be read.
func (d *Dir) replayAll(ctx context.Context, store Store, log *zap.Logger) (left int, err error) {
	records, err := os.ReadDir(d.path)
	if err != nil {
		log.Error("cannot read the spool; no token is refreshed until it can be read", zap.Error(err))
		return 0, fmt.Errorf("reading the spool: %w", err)
	}
	for _, record := range records {
		name, isRecord := strings.CutSuffix(record.Name(), extension)
		if !isRecord || !record.Type().IsRegular() {
			continue
		}
		if err := d.replay(ctx, store, log, filepath.Join(d.path, record.Name())); err != nil {
			left++
			log.Error("saving a spooled token pair failed; retrying", zap.String("record", name), zap.Error(err))
		}
	}
	return left, nil
}

// replay replays one record. After an error it must be tried again.
func (d *Dir) replay(ctx context.Context, store Store, log *zap.Logger, path string) error {
	r, err := lock(d, path, os.O_RDWR)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return nil // its process is alive, or has just removed it
	}
	if err != nil {
		return err
	}
	defer r.Release()
	successor, err := r.read()
	switch {
	case errors.Is(err, errIncomplete):
		r.Remove() // it was never reserved to the end, so its token was never sent
		return nil
	case errors.Is(err, errDamaged):
		log.Error("a spooled token pair cannot be decrypted; keeping the record as .damaged", zap.String("record", filepath.Base(path)), zap.Error(err))
		return r.setAside()
	case err != nil:
		return err
	case successor == nil:
		return d.abandon(ctx, store, r)
	}
	_, err = store.Save(ctx, *successor)
	if err == nil || errors.Is(err, credstore.ErrSuperseded) || errors.Is(err, credstore.ErrNotFound) {
		r.Remove()
		return nil
	}
	return err
}

// abandon notes that the parent of an empty record has no successor, as long as
// the store holds the parent; otherwise the record is no longer of use.
func (d *Dir) abandon(ctx context.Context, store Store, r *fileRecord) error {
	state, err := store.Read(ctx, r.parent.ConnectionID)
	if err != nil && !errors.Is(err, credstore.ErrNotFound) {
		return fmt.Errorf("reading the parent of a spool record: %w", err)
	}
	if err != nil || state.Credential.Version != r.parent.Version {
		r.Remove()
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.abandoned[r.parent] = true
	return nil
}

func (d *Dir) sync() error {
	if err := durable.SyncDir(d.path); err != nil {
		return fmt.Errorf("syncing the spool directory: %w", err)
	}
	return nil
}
