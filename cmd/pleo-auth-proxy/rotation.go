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
	// keysetCheckInterval is how often a server looks for a new primary key; the look
	// is a stat of the keyset file and two reads of the store, by their keys.
	keysetCheckInterval = 500 * time.Millisecond
	// storeIdleInterval is how often it reads a store that others share, while the file
	// stays as it is: whoever changes the file moves the store.
	storeIdleInterval = 5 * time.Minute
	// undecryptableRetryDelay is how often records that did not open are tried again.
	undecryptableRetryDelay = time.Hour
	// reencryptPauseFactor is how many times as long as it has worked re-sealing pauses:
	// the rest of the time belongs to the requests.
	reencryptPauseFactor = 4
	minReencryptPause    = 10 * time.Millisecond // the shortest
)

// keysetRotation keeps the store sealed under the primary key of the keyset file,
// whoever changes the file.
type rotation struct {
	keyset       *keyset.Keyset
	store        *sqlstore.Store
	log          *zap.Logger
	idleInterval time.Duration // how long the store is not read while the file stays as it is

	key         string    // the primary key when the store was read last
	nextRead    time.Time // when it is read again although nothing has changed
	loggedError string    // what was wrong at the latest look, so that it is logged once
	retryAt     time.Time // not before this are unopened records tried again
}

func newRotation(cfg *config.Config, v *setup.OpenedStore, log *zap.Logger) *rotation {
	r := &rotation{keyset: v.Keyset, store: v.Store, log: log}
	if cfg.Store.Driver == config.DriverPostgres {
		r.idleInterval = storeIdleInterval
	}
	return r
}

// run looks again and again until ctx ends.
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

// warnAtStartup logs what is wrong, once. That the store is away others say, who need
// it more.
func (r *rotation) logChange(err error) {
	if errors.Is(err, credstore.ErrUnavailable) {
		return
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != r.loggedError {
		r.log.Error("the keyset cannot be followed; sealing goes on under the keys that were read before", zap.Error(err))
	}
	if text == "" && r.loggedError != "" {
		r.log.Info("the keyset can be followed again")
	}
	r.loggedError = text
}

// reload moves the store to the primary key, and its records after it.
func (r *rotation) followKeyset(ctx context.Context) error {
	changed, err := r.keyset.Reload()
	if err != nil {
		return fmt.Errorf("reading the keyset file again: %w", err)
	}
	if changed {
		r.log.Info("the keyset has changed", zap.String("primary", r.keyset.Fingerprint()), zap.Int("keys", len(r.keyset.Keys())))
	}
	if r.keyset.Fingerprint() == r.key && time.Now().Before(r.nextRead) {
		return nil
	}
	found, err := r.store.Keys.Rotate(ctx, false)
	if err != nil {
		return err
	}
	switch found {
	case sqlstore.RotationDone:
		r.log.Info("sealing under another key from now on", zap.String("key", r.keyset.Fingerprint()))
	case sqlstore.RotationBehind:
		return fmt.Errorf("the primary key %s was replaced by another one before: promote that one in this keyset file too", r.keyset.Fingerprint())
	case sqlstore.RotationKeyMissing:
		return fmt.Errorf("the keyset file does not hold the key that the store is sealed under; put it back, or the store does not open at the next start")
	case sqlstore.RotationCurrent:
	}
	if err := r.reencrypt(ctx); err != nil {
		return err
	}
	r.key, r.nextRead = r.keyset.Fingerprint(), time.Now().Add(r.idleInterval)
	return nil
}

// reencrypt seals records anew if any are under another key than the store's.
func (r *rotation) reencrypt(ctx context.Context) error {
	done, err := r.store.Keys.Reencrypted(ctx)
	if err != nil || done || time.Now().Before(r.retryAt) {
		return err
	}
	result, err := r.store.Keys.Reencrypt(ctx, pauseReencryption)
	if result.Records > 0 {
		r.log.Info("sealed records anew under the new key", zap.Int("records", result.Records), zap.Bool("all", err == nil && result.Undecryptable == 0))
	}
	if err != nil {
		return err
	}
	if result.Undecryptable > 0 {
		r.retryAt = time.Now().Add(undecryptableRetryDelay)
		r.log.Error("records do not open, and stay under their old key: they are damaged, or the key was taken out of the keyset too early",
			zap.Int("records", result.Undecryptable))
	}
	return nil
}

// pauseReencryption lets others at the store.
func pauseReencryption(ctx context.Context, took time.Duration) error {
	timer := time.NewTimer(max(reencryptPauseFactor*took, minReencryptPause))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// checkSpoolKeys refuses to start with a keyset that lacks the key of a token pair
// in the spool: the pair would pass for one that was never received, and its
// parent, which is spent, be presented.
func checkSpoolKeys(cfg *config.Config, keyset *keyset.Keyset) error {
	pairs, err := spool.Keys(cfg.Store.SpoolDir)
	if err != nil {
		return err
	}
	for _, key := range keyset.Keys() {
		delete(pairs, key.ID)
	}
	if len(pairs) == 0 {
		return nil
	}
	return &credstore.SetupError{
		Err:  fmt.Errorf("the spool %s holds token pairs that are sealed under a key that the keyset does not hold", cfg.Store.SpoolDir),
		Hint: "put the key back into the keyset, from its backup if need be; the pairs are the only copies of new tokens",
	}
}
