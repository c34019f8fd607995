package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
)

func newStoreCommand(p *program) *cobra.Command {
	cmd := newCommandGroup(&cobra.Command{
		Use:   "store",
		Short: "Backs the store up, and takes a restored one into use",
	})
	cmd.AddCommand(newStoreBackupCommand(p), newStoreAcceptRestoreCommand(p), newStoreRestampCommand(p))
	return cmd
}

func newStoreBackupCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Copies the store to a new file, beside a running server",
		Long: `Copies the store, as it is at this moment, to a new file that only its owner can
read. Servers may go on meanwhile. An existing file is left alone. FILE can be -,
for standard output; the copy is then made in the directory for temporary files.

The copy opens with the same keyset, which should be backed up elsewhere. It is
for disasters: what is restored from it holds refresh tokens that have been spent
since, so that connections refreshed after the backup may need a new consent.`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" && p.asJSON {
				return &usageError{command: cmd.CommandPath(), err: errors.New("standard output has room for the store or for JSON, not for both")}
			}
			_, v, err := openExisting(cmd.Context(), p)
			if err != nil {
				return err
			}
			return errors.Join(backup(cmd.Context(), p, v, args[0]), v.Store.Close())
		},
	}
}

// backupResult is what store backup prints.
type backupResult struct {
	File string   `json:"file"`
	Keys []string `json:"keys"` // fingerprints of the keys that it opens with
}

func backup(ctx context.Context, p *program, v *setup.OpenedStore, path string) error {
	name, copyTo := path, v.Store.Backup
	if path == "-" {
		name, copyTo = "standard output", func(ctx context.Context, _ string) error { return backupToOutput(ctx, p, v.Store) }
	}
	if err := copyTo(ctx, path); err != nil {
		return err
	}
	use, err := v.Store.Keys.Usage(ctx)
	if err != nil {
		return err
	}
	result := backupResult{File: path}
	for _, key := range v.Keyset.Keys() {
		if use.Connections[key.ID] > 0 || key.Fingerprint == use.Current {
			result.Keys = append(result.Keys, key.Fingerprint)
		}
	}
	p.notef("backed up the store to %s; it opens with the keys %v", name, result.Keys)
	if p.asJSON {
		return p.printJSON(result)
	}
	return nil
}

// backupToOutput writes a copy of the store to standard output, for images out of
// which nothing copies files. A database is not written from start to end, so it
// goes by way of a file.
func backupToOutput(ctx context.Context, p *program, store *sqlstore.Store) (err error) {
	dir, err := os.MkdirTemp("", "pleo-auth-proxy-backup-*")
	if err != nil {
		return fmt.Errorf("making room for the copy: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "store.db")
	if err := store.Backup(ctx, path); err != nil {
		return err
	}
	f, err := os.Open(path) //nolint:gosec // G304: we have just made it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(p.stdout, f); err != nil {
		return fmt.Errorf("writing the copy: %w", err)
	}
	return nil
}

func newStoreAcceptRestoreCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "accept-restore",
		Short: "Takes a store that was restored from a backup into use",
		Long: `Takes a store that is older than its high-water mark into use. Until then servers serve
the tokens that are valid still, and present no refresh token, since one that was
spent after the backup would end its grant.

Afterwards each refresh token of the store is asked about at the authorization
server before it is presented; connections whose token is spent need a new
consent. Before you accept, look for the newer store: nothing is lost if it can
be found.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, v, err := openExisting(cmd.Context(), p)
			if err != nil {
				return err
			}
			return errors.Join(acceptRestore(cmd.Context(), p, cfg, v.Store.Store), v.Store.Close())
		},
	}
}

// acceptResult is what store accept-restore prints.
type acceptResult struct {
	Store      string    `json:"store"` // path, or where else it is
	AcceptedAt time.Time `json:"accepted_at"`
}

func acceptRestore(ctx context.Context, p *program, cfg *config.Config, store credstore.Store) error {
	if err := acceptStore(ctx, cfg, store); err != nil {
		return err
	}
	p.notef("accepted the store %s; a running server goes on with it within seconds", setup.StoreLocation(cfg))
	if p.asJSON {
		return p.printJSON(acceptResult{Store: setup.StoreLocation(cfg), AcceptedAt: time.Now().UTC().Truncate(time.Second)})
	}
	return nil
}

// acceptStore has each refresh token that the store holds now asked about before it
// is presented.
func acceptStore(ctx context.Context, cfg *config.Config, store credstore.Store) error {
	if err := durable.MkdirAll(cfg.Store.SpoolDir); err != nil {
		return fmt.Errorf("creating the spool directory: %w", err)
	}
	return rollback.MarkIn(cfg.Store.SpoolDir).Accept(ctx, store.Changes, time.Now())
}

func newStoreRestampCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "restamp",
		Short: "Makes the store one for the configured environment and client",
		Long: `A store remembers the environment, the authorization server and the OAuth client
that it was made for, and refuses others. This makes it remember those of the
configuration instead. Stop every server that uses the store first.

Credentials stay as they are. A refresh token belongs to the client that it was
issued to: presented by another one it is refused. Each is asked about at the
authorization server before it is presented.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadStoreConfig(p)
			if err != nil {
				return err
			}
			return restamp(cmd.Context(), p, cfg)
		},
	}
}

// stampResult is what store restamp prints of a stamp.
type stampResult struct {
	Environment string `json:"environment"`
	AuthURL     string `json:"auth_url"`
	ClientID    string `json:"client_id"`
}

func restamp(ctx context.Context, p *program, cfg *config.Config) error {
	if err := errors.Join(setup.CheckStoreExists(ctx, cfg), setup.CheckKeysetNotLost(ctx, cfg)); err != nil {
		return err
	}
	keyset, err := keyset.Open(cfg.Store.KeysetFile)
	if err != nil {
		return err
	}
	log := p.logger()
	c, err := setup.StoreConfig(cfg, keyset, log)
	if err != nil {
		return err
	}
	before, err := sqlstore.Rebind(ctx, c)
	if err != nil {
		return err
	}
	store, err := sqlstore.Open(ctx, c)
	if err != nil {
		return err
	}
	if err := errors.Join(acceptStore(ctx, cfg, store.Store), store.Close()); err != nil {
		return err
	}
	p.notef("the store was made for %s, %s, client %q; it is now for %s, %s, client %q",
		before.Environment, before.AuthURL, before.ClientID, c.Binding.Environment, c.Binding.AuthURL, c.Binding.ClientID)
	if p.asJSON {
		return p.printJSON(map[string]stampResult{"before": stampResult(before), "after": stampResult(c.Binding)})
	}
	return nil
}
