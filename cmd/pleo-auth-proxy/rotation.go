package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

const (
	// keysetCheckInterval is how often a server looks for a new primary key. Each time
	// it stats the keyset file and reads two rows of the store.
	keysetCheckInterval = 500 * time.Millisecond
	// storeIdleInterval is how often it reads a shared store while the file is
	// unchanged: a process that changes its own file also changes the store.
	storeIdleInterval = 5 * time.Minute
	// undecryptableRetryDelay is when records that could not be decrypted are tried
	// again.
	undecryptableRetryDelay = time.Hour
	// reencryptPauseFactor is the length of a pause of re-encryption, as a multiple of
	// the work before it. The rest of the time belongs to requests.
	reencryptPauseFactor = 4
	minReencryptPause    = 10 * time.Millisecond
)

// rotation keeps the store encrypted under the primary key of the keyset file, which
// any process may change.
type rotation struct {
	keyset       *keyset.Keyset
	store        *sqlstore.Store
	log          *zap.Logger
	idleInterval time.Duration // how long the store is not read while the file is unchanged

	key         string    // the primary key when the store was last read
	nextRead    time.Time // when it is read again even if nothing has changed
	loggedError string    // the last error, so that it is logged once
	retryAt     time.Time // when undecryptable records are tried again
}

func newRotation(cfg *config.Config, v *setup.OpenedStore, log *zap.Logger) *rotation {
	r := &rotation{keyset: v.Keyset, store: v.Store, log: log}
	if cfg.Store.Driver == config.DriverPostgres {
		r.idleInterval = storeIdleInterval
	}
	return r
}

// run follows the keyset until ctx ends.
func (r *rotation) run(ctx context.Context) {
	ticker := time.NewTicker(keysetCheckInterval)
	defer ticker.Stop()
	for {
		err := r.followKeyset(ctx)
		if ctx.Err() != nil {
			return
		}
		r.logChange(err)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// logChange logs an error once, and its end. It does not log that the store is
// unavailable: others do.
func (r *rotation) logChange(err error) {
	if errors.Is(err, credstore.ErrUnavailable) {
		return
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != r.loggedError {
		r.log.Error("cannot follow the keyset; encrypting under the keys that were read before", zap.Error(err))
	}
	if text == "" && r.loggedError != "" {
		r.log.Info("following the keyset again")
	}
	r.loggedError = text
}

// followKeyset moves the store to the primary key, and then its records.
func (r *rotation) followKeyset(ctx context.Context) error {
	changed, err := r.keyset.Reload()
	if err != nil {
		return fmt.Errorf("reading the keyset file again: %w", err)
	}
	primary := r.keyset.Fingerprint()
	if changed {
		r.log.Info("the keyset has changed", zap.String("primary", primary), zap.Int("keys", len(r.keyset.Keys())))
	}
	if primary == r.key && time.Now().Before(r.nextRead) {
		return nil
	}
	result, err := r.store.Keys.Rotate(ctx, false)
	if err != nil {
		return err
	}
	switch result {
	case sqlstore.RotationDone:
		r.log.Info("encrypting under another key from now on", zap.String("key", primary))
	case sqlstore.RotationBehind:
		return fmt.Errorf("another key replaced the primary key %s before: promote that key in this keyset file too", primary)
	case sqlstore.RotationKeyMissing:
		return errors.New("the keyset file lacks the key that the store is encrypted under; put it back, or the store cannot be opened at the next start")
	case sqlstore.RotationCurrent:
	}
	if err := r.reencrypt(ctx); err != nil {
		return err
	}
	r.key, r.nextRead = primary, time.Now().Add(r.idleInterval)
	return nil
}

// reencrypt re-encrypts records that are under another key than the store's.
func (r *rotation) reencrypt(ctx context.Context) error {
	done, err := r.store.Keys.Reencrypted(ctx)
	if err != nil || done || time.Now().Before(r.retryAt) {
		return err
	}
	result, err := r.store.Keys.Reencrypt(ctx, pauseReencryption)
	if result.Records > 0 {
		r.log.Info("re-encrypted records under the new key", zap.Int("records", result.Records), zap.Bool("all", err == nil && result.Undecryptable == 0))
	}
	if err != nil {
		return err
	}
	if result.Undecryptable > 0 {
		r.retryAt = time.Now().Add(undecryptableRetryDelay)
		r.log.Error("cannot decrypt records; they stay under their old key: they are damaged, or the key was removed from the keyset too early",
			zap.Int("records", result.Undecryptable))
	}
	return nil
}

// pauseReencryption lets others use the store.
func pauseReencryption(ctx context.Context, took time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(max(reencryptPauseFactor*took, minReencryptPause)):
		return nil
	}
}

// checkSpoolKeys returns a *[credstore.SetupError] if the keyset lacks the key of a
// token pair in the spool. The server would otherwise treat the pair as never
// received, and send its parent, which has been used.
func checkSpoolKeys(dir string, keys *keyset.Keyset) error {
	pairs, err := spool.Keys(dir)
	if err != nil {
		return err
	}
	for _, key := range keys.Keys() {
		delete(pairs, key.ID)
	}
	if len(pairs) == 0 {
		return nil
	}
	return &credstore.SetupError{
		Err:  fmt.Errorf("the spool %s has token pairs that are encrypted under a key that is not in the keyset", dir),
		Hint: "put the key back into the keyset, from its backup if necessary; the pairs are the only copies of new tokens",
	}
}
