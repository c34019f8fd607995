package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

func newKeysetCommand(p *program) *cobra.Command {
	cmd := newCommandGroup(&cobra.Command{
		Use:   "keyset",
		Short: "Create and rotate the keys that encrypt the store",
		Long: `Create and rotate the keys that encrypt the store. A rotation takes three steps, in
this order: add a key, promote it, retire the old one. Running servers apply each
step within a second, without a restart.

If several machines share a store, each with a copy of the keyset file, copy the
file to all of them after every step, before the next one. Keep a copy of a retired
key for as long as you keep backups of the store that need it.

Keys are named by their fingerprint, or by a beginning of it that no other key has.`,
		Example: `  pleo-auth-proxy keyset add
  pleo-auth-proxy keyset promote
  pleo-auth-proxy keyset retire`,
	})
	cmd.AddCommand(newKeysetCreateCommand(p), newKeysetAddCommand(p), newKeysetPromoteCommand(p),
		newKeysetRetireCommand(p), newKeysetStatusCommand(p))
	return cmd
}

// keyResult is what the commands that change a keyset print with --json.
type keyResult struct {
	Fingerprint string `json:"fingerprint"`
	Primary     bool   `json:"primary"`
}

func printKey(p *program, k keyset.Key) error {
	if p.asJSON {
		return p.printJSON(keyResult{Fingerprint: k.Fingerprint, Primary: k.Primary})
	}
	return p.printTable([][]string{{k.Fingerprint}})
}

func newKeysetCreateCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "create",
		Short: "Create the keyset file, with one key",
		Long: `Create the keyset file, with one key, and print its fingerprint. A server does this
when it starts for the first time. An existing keyset is left unchanged.`,
		Example: `  pleo-auth-proxy keyset create`,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadStoreConfig(p)
			if err != nil {
				return err
			}
			if err := errors.Join(setup.CreateDataDir(cfg), setup.CheckKeysetNotLost(cmd.Context(), cfg)); err != nil {
				return err
			}
			key, err := keyset.Create(cfg.Store.KeysetFile)
			if err != nil {
				return err
			}
			p.notef("%s: %s", setup.KeysetBackupNotice, cfg.Store.KeysetFile)
			return printKey(p, key)
		},
	}
}

func newKeysetAddCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "add",
		Short: "Add a new key to the keyset",
		Long: `Add a new key to the keyset file and print its fingerprint. Nothing is encrypted
under it before keyset promote.`,
		Example: `  pleo-auth-proxy keyset add`,
		Args:    exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := loadStoreConfig(p)
			if err != nil {
				return err
			}
			key, err := keyset.Add(cfg.Store.KeysetFile)
			if err != nil {
				return err
			}
			p.notef("added key %s; back up %s, copy it to every machine that shares the store, then run keyset promote", key.Fingerprint, cfg.Store.KeysetFile)
			return printKey(p, key)
		},
	}
}

func newKeysetPromoteCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "promote [FINGERPRINT]",
		Short: "Encrypt the store under another key, by default the newest",
		Long: `Make a key of the keyset the primary one, under which everything new is encrypted,
and encrypt what is in the store again under it. You can interrupt it at any
moment: a running server finishes it, and so does the same command.`,
		Example: `  pleo-auth-proxy keyset promote
  pleo-auth-proxy keyset promote 1f3a`,
		Args: optionalArg("FINGERPRINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withKeyset(cmd.Context(), p, func(cfg *config.Config, v *setup.OpenedStore) error {
				key, err := newestOrNamed(v.Keyset.Keys(), args)
				if err != nil {
					return err
				}
				return promote(cmd.Context(), p, cfg, v, key)
			})
		},
	}
}

func promote(ctx context.Context, p *program, cfg *config.Config, v *setup.OpenedStore, key keyset.Key) error {
	if key.Primary { // the file stays as it is: it may be on a read-only mount
		p.notef("key %s is already the primary one", key.Fingerprint)
	} else {
		if _, err := keyset.Promote(cfg.Store.KeysetFile, key.Fingerprint); err != nil {
			return err
		}
		p.notef("promoted key %s", key.Fingerprint)
	}
	key.Primary = true
	if v.Store == nil {
		return printKey(p, key)
	}
	if _, err := v.Store.Keys.Rotate(ctx, true); err != nil {
		return err
	}
	done, err := v.Store.Keys.Reencrypt(ctx, func(ctx context.Context, _ time.Duration) error { return ctx.Err() })
	if err != nil {
		return fmt.Errorf("%w; %s done, and a running server does the rest", err, plural(done.Records, "connection"))
	}
	p.notef("re-encrypted %s", plural(done.Records, "connection"))
	if done.Undecryptable > 0 {
		p.notef("warning: %s cannot be decrypted and stay unchanged: they are damaged, or encrypted under a key that is not in the keyset", plural(done.Undecryptable, "connection"))
	}
	return printKey(p, key)
}

func newKeysetRetireCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "retire [FINGERPRINT]",
		Short: "Remove a key that nothing is encrypted under",
		Long: `Remove a key from the keyset file. It fails as long as the store or a token pair in
this machine's spool needs the key. You can omit the fingerprint if there is only
one key besides the primary one.`,
		Example: `  pleo-auth-proxy keyset retire`,
		Args:    optionalArg("FINGERPRINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withKeyset(cmd.Context(), p, func(cfg *config.Config, v *setup.OpenedStore) error {
				key, err := otherOrNamed(v.Keyset.Keys(), args)
				if err != nil {
					return err
				}
				err = keyset.Retire(cfg.Store.KeysetFile, key.Fingerprint, func() error { return checkUnused(cmd.Context(), cfg, v, key) })
				if err != nil {
					return err
				}
				p.notef("retired key %s; keep a copy of it for as long as you keep backups of the store that need it", key.Fingerprint)
				return printKey(p, key)
			})
		},
	}
}

func newKeysetStatusCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the keys and what is encrypted under each",
		Example: `  pleo-auth-proxy keyset status
  pleo-auth-proxy keyset status --json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withKeyset(cmd.Context(), p, func(cfg *config.Config, v *setup.OpenedStore) error {
				status, err := setup.ReadKeysetStatus(cmd.Context(), cfg, v.Keyset, v.Store)
				if err != nil {
					return err
				}
				return printKeysetStatus(p, status)
			})
		},
	}
}

func printKeysetStatus(p *program, s setup.KeysetStatus) error {
	if p.asJSON {
		return p.printJSON(s)
	}
	rows := [][]string{{"KEY", "USE", "CONNECTIONS", "SPOOL", "CAN RETIRE"}}
	for _, k := range s.Keys {
		canRetire := "no"
		if k.CanRetire {
			canRetire = "yes"
		}
		rows = append(rows, []string{k.Fingerprint, keyUse(k), strconv.Itoa(k.Rows), strconv.Itoa(k.SpoolRecords), canRetire})
	}
	if s.UnknownRows > 0 || s.UnknownSpoolRecords > 0 {
		rows = append(rows, []string{"not in the keyset", "", strconv.Itoa(s.UnknownRows), strconv.Itoa(s.UnknownSpoolRecords), dash})
	}
	return p.printTable(rows)
}

func keyUse(k setup.KeyStatus) string {
	switch {
	case k.Primary && k.Store:
		return "primary"
	case k.Primary:
		return "primary, not in the store yet"
	case k.Store:
		return "of the store"
	}
	return dash
}

// withKeyset calls do with the keyset, which must exist, and with the store, which is
// nil if it does not exist.
func withKeyset(ctx context.Context, p *program, do func(*config.Config, *setup.OpenedStore) error) error {
	cfg, err := loadStoreConfig(p)
	if err != nil {
		return err
	}
	exists, err := setup.StoreExists(ctx, cfg)
	if err != nil {
		return err
	}
	if exists {
		v, err := setup.OpenOrCreate(ctx, cfg, p.logger())
		if err != nil {
			return err
		}
		return errors.Join(do(cfg, v), v.Store.Close())
	}
	keys, err := keyset.Open(cfg.Store.KeysetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return &credstore.SetupError{
			Err:  fmt.Errorf("there is no keyset %s", cfg.Store.KeysetFile),
			Hint: "create one with keyset create, or set store.keyset_file to where it is",
		}
	}
	if err != nil {
		return err
	}
	return do(cfg, &setup.OpenedStore{Keyset: keys})
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
		return keyset.Key{}, errors.New("the primary key is the only key, and cannot be retired; add another key and promote it first")
	case 1:
		return others[0], nil
	}
	return keyset.Key{}, fmt.Errorf("there are %d keys besides the primary one; name one of them, see keyset status", len(others))
}

// keyNamed returns the key whose fingerprint begins with the name. Its errors do not
// repeat the name, which may be key material by mistake.
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
	return keyset.Key{}, fmt.Errorf("the fingerprints of %d keys begin with this; give more of it", len(found))
}

// checkUnused returns an error if anything needs the key, now or later.
func checkUnused(ctx context.Context, cfg *config.Config, v *setup.OpenedStore, key keyset.Key) error {
	pairs, err := spool.Keys(cfg.Store.SpoolDir)
	if err != nil {
		return err
	}
	if n := pairs[key.ID]; n > 0 {
		return fmt.Errorf("%w: %s in the spool, until a server has saved them", sqlstore.ErrKeyInUse, plural(n, "token pair"))
	}
	if v.Store == nil {
		return nil
	}
	return v.Store.Keys.Retire(ctx, key)
}
