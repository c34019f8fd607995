package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

func (p *program) keysetCommand() *cobra.Command {
	cmd := commandGroup(&cobra.Command{
		Use:   "keyset",
		Short: "Makes and rotates the keys that seal the store",
		Long: `A rotation takes three steps, in this order: add a key, promote it, retire the old
one. Running servers see each step within a second and need no restart.

Where several machines share a store, each with a copy of the keyset file, bring
the file to all of them after every step, before the next one. Keep a copy of a
retired key for as long as you keep backups of the store from before.

Keys are named by their fingerprint, or by as much of its beginning as tells it
from the others.`,
	})
	cmd.AddCommand(p.keysetCreateCommand(), p.keysetAddCommand(), p.keysetPromoteCommand(),
		p.keysetRetireCommand(), p.keysetStatusCommand())
	return cmd
}

// keyResult is what the commands that change a keyset print.
type keyResult struct {
	Fingerprint string `json:"fingerprint"`
	Primary     bool   `json:"primary"`
}

func (p *program) printKey(k keyset.Key) error {
	if p.asJSON {
		return p.printJSON(keyResult{Fingerprint: k.Fingerprint, Primary: k.Primary})
	}
	if _, err := fmt.Fprintln(p.stdout, k.Fingerprint); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

func (p *program) keysetCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "create",
		Short: "Makes the keyset file, with one key",
		Long: `Makes the keyset file, with one key, and prints its fingerprint. A server does so
itself when it starts for the first time. An existing keyset is left alone.`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.loadStoreConfig()
			if err != nil {
				return err
			}
			if err := errors.Join(createDataDir(cfg), checkKeysetNotLost(cmd.Context(), cfg)); err != nil {
				return err
			}
			key, err := keyset.Create(cfg.Store.KeysetFile)
			if err != nil {
				return err
			}
			p.notef("%s: %s", keysetBackupNotice, cfg.Store.KeysetFile)
			return p.printKey(key)
		},
	}
}

func (p *program) keysetAddCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "add",
		Short: "Adds a new key, which nothing is sealed under yet",
		Long: `Adds a new key to the keyset file and prints its fingerprint. Nothing is sealed
under it before keyset promote.`,
		Args: args(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := p.loadStoreConfig()
			if err != nil {
				return err
			}
			key, err := keyset.Add(cfg.Store.KeysetFile)
			if err != nil {
				return err
			}
			p.notef("added key %s; back up %s, bring it to every machine that shares the store, then run keyset promote", key.Fingerprint, cfg.Store.KeysetFile)
			return p.printKey(key)
		},
	}
}

func (p *program) keysetPromoteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "promote [FINGERPRINT]",
		Short: "Seals everything under another key, by default the newest",
		Long: `Makes a key of the keyset the primary one, under which everything new is sealed,
and seals what the store holds anew under it. That may be interrupted at any
moment: a running server goes on with it, and so does the same command again.`,
		Args: optionalArg("FINGERPRINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withKeys(cmd.Context(), func(ctx context.Context, k *keysetFiles) error {
				key, err := newestOrNamed(k.keyset.Keys(), args)
				if err != nil {
					return err
				}
				return p.promote(ctx, k, key)
			})
		},
	}
}

func (p *program) promote(ctx context.Context, k *keysetFiles, key keyset.Key) error {
	if err := p.makePrimary(k, key); err != nil {
		return err
	}
	key.Primary = true
	if k.store == nil {
		return p.printKey(key)
	}
	if _, err := k.store.Keys.Rotate(ctx, true); err != nil {
		return err
	}
	done, err := k.store.Keys.Reencrypt(ctx, func(ctx context.Context, _ time.Duration) error { return ctx.Err() })
	if err != nil {
		return fmt.Errorf("%w; %d connections are done, and a running server does the rest", err, done.Records)
	}
	p.notef("sealed %d connections anew", done.Records)
	if done.Undecryptable > 0 {
		p.notef("warning: %d connections do not open, and were left as they are: they are damaged, or sealed under a key that the keyset does not hold", done.Undecryptable)
	}
	return p.printKey(key)
}

// makePrimary does not touch a file in which the key is primary already: it may
// be on a read-only mount.
func (p *program) makePrimary(k *keysetFiles, key keyset.Key) error {
	if key.Primary {
		p.notef("key %s is the primary one already", key.Fingerprint)
		return nil
	}
	if _, err := keyset.Promote(k.cfg.Store.KeysetFile, key.Fingerprint); err != nil {
		return err
	}
	p.notef("promoted key %s", key.Fingerprint)
	return nil
}

func (p *program) keysetRetireCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "retire [FINGERPRINT]",
		Short: "Takes a key that nothing is sealed under out of the keyset",
		Long: `Takes a key out of the keyset file. That is refused as long as the store or a
token pair in the spool of this machine needs it. The key may be left out where
there is only one beside the primary one.`,
		Args: optionalArg("FINGERPRINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withKeys(cmd.Context(), func(ctx context.Context, k *keysetFiles) error {
				key, err := otherOrNamed(k.keyset.Keys(), args)
				if err != nil {
					return err
				}
				err = keyset.Retire(k.cfg.Store.KeysetFile, key.Fingerprint, func() error { return k.retire(ctx, key) })
				if err != nil {
					return err
				}
				p.notef("retired key %s; keep a copy of it for as long as you keep backups of the store that need it", key.Fingerprint)
				return p.printKey(key)
			})
		},
	}
}

// keyStatus is a key as keyset status shows it.
type keyStatus struct {
	Fingerprint  string `json:"fingerprint"`
	Primary      bool   `json:"primary"`
	Rows         int    `json:"rows"`          // connections of which anything is sealed under it
	SpoolRecords int    `json:"spool_records"` // token pairs in this machine's spool
	Store        bool   `json:"store"`         // what is new in the store is sealed under it
	CanRetire    bool   `json:"can_retire"`
}

// keysetStatus is what keyset status shows.
type keysetStatus struct {
	File    string      `json:"file"`
	Primary string      `json:"primary"`
	Keys    []keyStatus `json:"keys"`
	// UnknownRows counts connections under keys that the keyset does not hold,
	// or damaged.
	UnknownRows         int `json:"unknown_rows"`
	UnknownSpoolRecords int `json:"unknown_spool_records"`
}

func (p *program) keysetStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Shows the keys and how much is sealed under each",
		Args:  args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withKeys(cmd.Context(), func(ctx context.Context, k *keysetFiles) error {
				status, err := k.status(ctx)
				if err != nil {
					return err
				}
				if p.asJSON {
					return p.printJSON(status)
				}
				return p.printKeysetStatus(status)
			})
		},
	}
}

// keysetFiles is what the commands on a keyset work with.
type keysetFiles struct {
	cfg    *config.Config
	keyset *keyset.Keyset
	store  *sqlstore.Store // nil while there is none
}

// withKeys runs work on the keyset that exists, and on the store if that does.
func (p *program) withKeys(ctx context.Context, work func(context.Context, *keysetFiles) error) error {
	cfg, err := p.loadStoreConfig()
	if err != nil {
		return err
	}
	k := &keysetFiles{cfg: cfg}
	exists, err := storeExists(ctx, cfg)
	if err != nil {
		return err
	}
	if exists {
		v, err := openOrCreate(ctx, cfg, newLogger(p.stderr, config.Log{Level: "warn", Format: "console"}))
		if err != nil {
			return err
		}
		k.keyset, k.store = v.keyset, v.store
		return errors.Join(work(ctx, k), v.store.Close())
	}
	k.keyset, err = keyset.Open(cfg.Store.KeysetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return &credstore.SetupError{
			Err:  fmt.Errorf("there is no keyset %s", cfg.Store.KeysetFile),
			Hint: "make one with keyset create, or set store.keyset_file to where it is",
		}
	}
	if err != nil {
		return err
	}
	return work(ctx, k)
}

// retire makes sure that nothing needs the key, now or later.
func (k *keysetFiles) retire(ctx context.Context, key keyset.Key) error {
	pairs, err := spool.Keys(k.cfg.Store.SpoolDir)
	if err != nil {
		return err
	}
	if n := pairs[key.ID]; n > 0 {
		return fmt.Errorf("%w: %d token pairs in the spool are sealed under it, until a server has saved them", sqlstore.ErrKeyInUse, n)
	}
	if k.store == nil {
		return nil
	}
	return k.store.Keys.Retire(ctx, key)
}

func (k *keysetFiles) status(ctx context.Context) (keysetStatus, error) {
	status := keysetStatus{File: k.cfg.Store.KeysetFile, Primary: k.keyset.Fingerprint()}
	pairs, err := spool.Keys(k.cfg.Store.SpoolDir)
	if err != nil {
		return status, err
	}
	var use sqlstore.KeyUsage
	if k.store != nil {
		if use, err = k.store.Keys.Usage(ctx); err != nil {
			return status, err
		}
	}
	for _, key := range k.keyset.Keys() {
		status.Keys = append(status.Keys, describeKey(key, use, pairs))
		delete(use.Connections, key.ID)
		delete(pairs, key.ID)
	}
	status.UnknownRows, status.UnknownSpoolRecords = use.Damaged+sum(use.Connections), sum(pairs)
	return status, nil
}

func describeKey(key keyset.Key, use sqlstore.KeyUsage, pairs map[uint32]int) keyStatus {
	s := keyStatus{
		Fingerprint: key.Fingerprint, Primary: key.Primary, Store: key.Fingerprint == use.Current,
		Rows: use.Connections[key.ID], SpoolRecords: pairs[key.ID],
	}
	s.CanRetire = !s.Primary && !s.Store && s.Rows == 0 && s.SpoolRecords == 0
	return s
}

func sum(counts map[uint32]int) (total int) {
	for _, n := range counts {
		total += n
	}
	return total
}

// newestOrNamed returns the key that args name, or the newest one.
func newestOrNamed(keys []keyset.Key, args []string) (keyset.Key, error) {
	if len(args) > 0 {
		return keyNamed(keys, args[0])
	}
	return keys[len(keys)-1], nil
}

// otherOrNamed returns the key that args name, or the only one that is not
// primary.
func otherOrNamed(keys []keyset.Key, args []string) (keyset.Key, error) {
	if len(args) > 0 {
		return keyNamed(keys, args[0])
	}
	var others []keyset.Key
	for _, key := range keys {
		if !key.Primary {
			others = append(others, key)
		}
	}
	switch len(others) {
	case 0:
		return keyset.Key{}, errors.New("there is no key beside the primary one, which cannot be retired")
	case 1:
		return others[0], nil
	}
	return keyset.Key{}, fmt.Errorf("there are %d keys beside the primary one; name the one that you mean, see keyset status", len(others))
}

// keyNamed returns the key whose fingerprint begins with the name. Its errors do
// not repeat the name: somebody may have given key material.
func keyNamed(keys []keyset.Key, name string) (keyset.Key, error) {
	var found []keyset.Key
	for _, key := range keys {
		if name != "" && strings.HasPrefix(key.Fingerprint, strings.ToLower(name)) {
			found = append(found, key)
		}
	}
	switch len(found) {
	case 0:
		return keyset.Key{}, fmt.Errorf("finding the key by its fingerprint: %w", keyset.ErrKeyNotFound)
	case 1:
		return found[0], nil
	}
	return keyset.Key{}, fmt.Errorf("the fingerprints of %d keys begin like this; give more of it", len(found))
}
