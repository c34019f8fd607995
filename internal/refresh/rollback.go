package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// RollbackGuard remembers, apart from the store, how far the store had come. A store
// that has come less far was restored from a backup: its refresh tokens may be
// spent, and presenting a spent one ends the grant. So none is presented before
// an operator has accepted the restored store.
//
// It is a small file; processes that share it may write it at once.
type RollbackGuard struct{ path string }

// RollbackGuardIn returns the witness in dir, which is the directory of the spool.
func RollbackGuardIn(dir string) *RollbackGuard {
	return &RollbackGuard{filepath.Join(dir, "witness.json")}
}

const (
	// guardInterval is how often the witness looks at the store.
	guardInterval = 2 * time.Second
	// guardSharedInterval is how often it does so at a store that others share, where all
	// is well: a refresh looks for itself before it presents a token.
	guardSharedInterval = 2 * time.Minute
	// factRestoreAccepted is when a restored store was accepted: tokens obtained
	// before it are asked about before they are presented.
	factRestoreAccepted = "restore_accepted_at"
	// factRollbackDetected is when a restored store was noticed; empty once it is
	// accepted. What is changed in the store meanwhile lets it catch up with the
	// number that the witness has seen, and would make it look as if it were not
	// old.
	factRollbackDetected = "restore_noticed_at"
)

// seen is what the witness has seen.
type seen struct {
	Store  string `json:"store"`
	Change int64  `json:"change"`
}

func (w *RollbackGuard) read() (s seen, err error) {
	raw, err := os.ReadFile(w.path)
	if err != nil {
		return s, fmt.Errorf("reading the witness: %w", err)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("parsing the witness %s: %w", w.path, err)
	}
	return s, nil
}

// write replaces the file: it is wholly old or wholly new after a crash.
func (w *RollbackGuard) write(s seen) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding the witness: %w", err)
	}
	file, err := os.CreateTemp(filepath.Dir(w.path), ".witness-*")
	if err != nil {
		return fmt.Errorf("writing the witness: %w", err)
	}
	_, err = file.Write(append(raw, '\n'))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("writing the witness: %w", errors.Join(err, os.Remove(file.Name())))
	}
	if err := os.Rename(file.Name(), w.path); err != nil {
		return fmt.Errorf("writing the witness: %w", errors.Join(err, os.Remove(file.Name())))
	}
	return syncDir(filepath.Dir(w.path))
}

// errRolledBack says why no refresh token is presented.
var errRolledBack = errors.New("the store is older than its witness: it was restored from a backup or replaced, " +
	"and its refresh tokens may be spent; see `pleo-auth-proxy store accept-restore`")

// compare returns errRolledBack if the store has come less far than the witness
// has seen, or had when it was last looked at. now is how far it has come.
func (w *RollbackGuard) compare(ctx context.Context, store credstore.Store) (now seen, err error) {
	now.Store, now.Change, err = store.Position(ctx)
	if err != nil {
		return now, err
	}
	waiting, err := store.Fact(ctx, factRollbackDetected)
	if err != nil {
		return now, err
	}
	if waiting != "" {
		return now, errRolledBack
	}
	was, err := w.read()
	if errors.Is(err, fs.ErrNotExist) {
		return now, nil
	}
	if err != nil {
		return now, err
	}
	if was.Store != now.Store || was.Change > now.Change {
		return now, errRolledBack
	}
	return now, nil
}

// Exists reports whether there is one: then there has been a store.
func (w *RollbackGuard) Exists() bool {
	_, err := os.Stat(w.path)
	return err == nil
}

// Restored reports whether the store has come less far than the witness has seen,
// so that its refresh tokens wait for Accept. It changes nothing.
func (w *RollbackGuard) Restored(ctx context.Context, store credstore.Store) (bool, error) {
	_, err := w.compare(ctx, store)
	if errors.Is(err, errRolledBack) {
		return true, nil
	}
	return false, err
}

// Accept makes a restored store be used from now on: introspection is asked
// about each token in it before that is presented. It does nothing harmful to a
// store that was not restored.
func (w *RollbackGuard) Accept(ctx context.Context, store credstore.Store, now time.Time) error {
	if err := store.SetFact(ctx, factRestoreAccepted, now.UTC().Format(time.RFC3339Nano)); err != nil {
		return err
	}
	var s seen
	var err error
	if s.Store, s.Change, err = store.Position(ctx); err != nil {
		return err
	}
	if err := w.write(s); err != nil {
		return err
	}
	return store.SetFact(ctx, factRollbackDetected, "")
}

// Restored reports whether refreshes wait for an operator to accept a store that
// is older than its witness.
func (m *Manager) Restored() bool { return m.restored.Load() }

// witness compares the store with its witness, holds refreshes up while it is
// older, and keeps the witness up to date, until ctx ends.
func (m *Manager) witness(ctx context.Context) error {
	for {
		wait := guardInterval
		if m.lookAtWitness(ctx) && m.Shared {
			wait = guardSharedInterval
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// lookAtWitness reports whether the store is as far as it was.
func (m *Manager) lookAtWitness(ctx context.Context) bool {
	now, err := m.RollbackGuard.compare(ctx, m.Store)
	if errors.Is(err, errRolledBack) && m.Shared {
		now, err = m.acceptLoss(ctx, err)
	}
	if err == nil {
		err = m.trust(ctx)
	}
	if err == nil {
		err = m.remember(now)
	}
	m.judgeWitness(ctx, err)
	return err == nil
}

// remember writes down how far the store has come.
func (m *Manager) remember(now seen) error {
	if was := m.reached.Load(); was != nil && *was == now {
		return nil
	}
	if err := m.RollbackGuard.write(now); err != nil {
		return err
	}
	m.reached.Store(&now)
	return nil
}

// acceptLoss takes a store into use that has lost what it had confirmed. What
// this process has obtained of late is saved again: it may be among the losses.
func (m *Manager) acceptLoss(ctx context.Context, why error) (now seen, err error) {
	m.Logger.Error("the store has lost changes, or failed over; introspection is asked about each refresh token before it is presented", errField(why))
	if err := m.RollbackGuard.Accept(ctx, m.Store, m.Now()); err != nil {
		return now, err
	}
	now.Store, now.Change, err = m.Store.Position(ctx)
	if err == nil {
		m.saveLatest(ctx)
	}
	return now, err
}

// saveLatest saves the pairs again that this process has obtained, each onto its
// parent, where that is stored again.
func (m *Manager) saveLatest(ctx context.Context) {
	m.byID.Range(func(_, found any) bool {
		e, ok := found.(*entry)
		if ok && e.latest.Load() != nil {
			_ = m.reread(ctx, e) // counted; the next refresh tries again
		}
		return ctx.Err() == nil
	})
}

// reassure looks at the witness before a token is presented, unless the store is
// known to be as far as it was. The store itself is asked each time: it may have
// failed over a moment ago.
func (m *Manager) reassure(ctx context.Context) error {
	if m.RollbackGuard == nil || !m.Shared {
		return nil
	}
	store, change, err := m.Store.Position(ctx)
	if err != nil {
		return err
	}
	if was := m.reached.Load(); was == nil || was.Store != store || was.Change > change {
		m.lookAtWitness(ctx)
	}
	return nil
}

// trust lets refreshes go on, with the doubts that a restored store deserves.
func (m *Manager) trust(ctx context.Context) error {
	accepted, err := m.Store.Fact(ctx, factRestoreAccepted)
	if err != nil {
		return err
	}
	if at, err := time.Parse(time.RFC3339Nano, accepted); err == nil {
		m.doubtBefore.Store(&at)
	}
	if m.restored.Swap(false) {
		m.Logger.Info("the restored store was accepted")
	}
	m.witnessOnce.Do(func() { close(m.witnessed) })
	m.trustOnce.Do(func() { close(m.trusted) })
	return nil
}

func (m *Manager) judgeWitness(ctx context.Context, err error) {
	switch {
	case err == nil || errors.Is(err, context.Canceled):
	case errors.Is(err, errRolledBack):
		if !m.restored.Swap(true) {
			m.Logger.Error("no refresh token is presented until the store is accepted", errField(err))
		}
		m.noteRestored(ctx)
		m.witnessOnce.Do(func() { close(m.witnessed) })
	case !errors.Is(err, credstore.ErrUnavailable):
		m.Logger.Error("the witness of the store cannot be kept", errField(err), zap.String("file", m.RollbackGuard.path))
		m.witnessOnce.Do(func() { close(m.witnessed) })
		m.trustOnce.Do(func() { close(m.trusted) })
	}
}

// noteRestored makes the store itself remember that it waits to be accepted.
func (m *Manager) noteRestored(ctx context.Context) {
	waiting, err := m.Store.Fact(ctx, factRollbackDetected)
	if err == nil && waiting == "" {
		err = m.Store.SetFact(ctx, factRollbackDetected, m.Now().UTC().Format(time.RFC3339Nano))
	}
	if err != nil && ctx.Err() == nil {
		m.metrics.storeErrors.Inc() // the next look tries again
	}
}

// replaySpool brings in what earlier processes left, but not into a store that
// waits to be accepted: in one that is too old every pair would pass for
// superseded, and be dropped.
func (m *Manager) replaySpool(ctx context.Context) error {
	if err := await(ctx, m.trusted); err != nil {
		return err
	}
	return m.Spool.Replay(ctx, m.Store, m.Logger, m.spooled())
}

// doubtfulSince is when the restored store was accepted that a token obtained at
// the time comes from; zero if it comes from none.
func (m *Manager) doubtfulSince(obtained time.Time) time.Time {
	before := m.doubtBefore.Load()
	if before == nil || !obtained.Before(*before) {
		return time.Time{}
	}
	return *before
}
