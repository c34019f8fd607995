// Package rollback detects a restored store.
//
// A high-water mark on disk, apart from the store, records how many changes the
// store has had. A store with fewer changes was restored from a backup, or
// replaced by another one: its refresh tokens may have been exchanged already, and
// sending such a token ends the grant. So none is sent until an operator accepts
// the store.
package rollback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

const (
	fileName = "high-water-mark.json"
	// legacyFileName is what the file was called before 1.0. It is read where
	// fileName does not exist.
	legacyFileName = "witness.json"
)

// Facts that the store keeps about its restoration.
const (
	// factAccepted is when a restored store was accepted: tokens obtained before are
	// introspected before they are sent.
	factAccepted = "restore_accepted_at"
	// factDetected is when a restored store was detected; empty once it is accepted.
	// Without it, later changes would let the store reach the mark again and look as
	// if it had never been restored.
	factDetected = "restore_noticed_at"
)

// ErrRestored says why no refresh token is sent.
var ErrRestored = errors.New("the store is older than its high-water mark: it was restored from a backup or replaced, " +
	"and its refresh tokens may have been exchanged already; see `pleo-auth-proxy store accept-restore`")

// Store is what the package needs of a credential store.
type Store interface {
	Position(ctx context.Context) (store string, change int64, err error)
	Fact(ctx context.Context, name string) (string, error)
	SetFact(ctx context.Context, name, value string) error
}

// Mark is the high-water mark of a store: a small file, which several processes
// may share.
type Mark struct{ dir string }

// MarkIn returns the mark in dir, the directory of the spool.
func MarkIn(dir string) *Mark { return &Mark{dir} }

// position is how far a store has come.
type position struct {
	Store  string `json:"store"` // the store's id
	Change int64  `json:"change"`
}

// path returns the file that exists, and the one to create where none does.
func (m *Mark) path() string {
	path, legacy := filepath.Join(m.dir, fileName), filepath.Join(m.dir, legacyFileName)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if _, err := os.Stat(legacy); err == nil {
		return legacy
	}
	return path
}

// Exists reports whether there is a mark: then this machine has used a store.
func (m *Mark) Exists() bool {
	_, err := os.Stat(m.path())
	return err == nil
}

func (m *Mark) read() (p position, err error) {
	raw, err := os.ReadFile(m.path())
	if err != nil {
		return p, fmt.Errorf("reading the high-water mark: %w", err)
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, fmt.Errorf("parsing the high-water mark %s: %w", m.path(), err)
	}
	return p, nil
}

// write raises the mark. After a crash the file is as before or as after.
func (m *Mark) write(p position) error {
	raw, err := json.Marshal(p)
	if err == nil {
		err = durable.Replace(filepath.Join(m.dir, fileName), append(raw, '\n'))
	}
	if err != nil {
		return fmt.Errorf("writing the high-water mark: %w", err)
	}
	_ = os.Remove(filepath.Join(m.dir, legacyFileName)) // the other file is preferred anyway
	return nil
}

// compare returns how far the store has come. The error is [ErrRestored] if the
// store is below the mark, or was when that was checked last.
func (m *Mark) compare(ctx context.Context, store Store) (position, error) {
	now, err := positionOf(ctx, store)
	if err != nil {
		return now, err
	}
	detected, err := store.Fact(ctx, factDetected)
	if err != nil {
		return now, err
	}
	if detected != "" {
		return now, ErrRestored
	}
	mark, err := m.read()
	if errors.Is(err, fs.ErrNotExist) {
		return now, nil
	}
	if err != nil {
		return now, err
	}
	if mark.Store != now.Store || mark.Change > now.Change {
		return now, ErrRestored
	}
	return now, nil
}

func positionOf(ctx context.Context, store Store) (p position, err error) {
	p.Store, p.Change, err = store.Position(ctx)
	return p, err
}

// Restored reports whether the store is below the mark, so that it waits for
// Accept. It changes nothing.
func (m *Mark) Restored(ctx context.Context, store Store) (bool, error) {
	_, err := m.compare(ctx, store)
	if errors.Is(err, ErrRestored) {
		return true, nil
	}
	return false, err
}

// Accept puts a restored store into use: each token in it is introspected before
// it is sent. Accepting a store that was not restored does no harm.
func (m *Mark) Accept(ctx context.Context, store Store, now time.Time) error {
	if err := store.SetFact(ctx, factAccepted, now.UTC().Format(time.RFC3339Nano)); err != nil {
		return err
	}
	p, err := positionOf(ctx, store)
	if err != nil {
		return err
	}
	if err := m.write(p); err != nil {
		return err
	}
	return store.SetFact(ctx, factDetected, "")
}
