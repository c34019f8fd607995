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
		Short: "Back up the store, accept a restored one, or bind it to another client",
		Example: `  pleo-auth-proxy store backup store-backup.db
  pleo-auth-proxy store accept-restore`,
	})
	cmd.AddCommand(newStoreBackupCommand(p), newStoreAcceptRestoreCommand(p), newStoreRestampCommand(p))
	return cmd
}

func newStoreBackupCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy the store to a new file, also while a server is running",
		Long: `Copy the store, as it is at this moment, to a new file that only its owner can
read. Servers may keep running. An existing file is left unchanged. FILE can be -
for standard output; the copy then goes through the directory for temporary files.

The copy can be decrypted only with the same keyset: back that up elsewhere. After a
restore, connections that were refreshed since the backup may need a new consent,
because each refresh replaces the refresh token.`,
		Example: `  pleo-auth-proxy store backup store-backup.db
  pleo-auth-proxy store backup - > store-backup.db`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" && p.asJSON {
				return &usageError{command: cmd.CommandPath(), err: errors.New("standard output cannot have both the store and JSON")}
			}
			return withStore(cmd.Context(), p, func(_ *config.Config, v *setup.OpenedStore) error {
				return backup(cmd.Context(), p, v, args[0])
			})
		},
	}
}

// backupResult is what store backup prints with --json.
type backupResult struct {
	File string   `json:"file"`
	Keys []string `json:"keys"` // fingerprints of the keys that decrypt it
}

func backup(ctx context.Context, p *program, v *setup.OpenedStore, path string) error {
	name, copyTo := path, v.Store.Backup
	if path == "-" {
		name, copyTo = "standard output", func(ctx context.Context, _ string) error { return backupToOutput(ctx, p.stdout, v.Store) }
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
	p.notef("backed up the store to %s; it needs the keys %v", name, result.Keys)
	if p.asJSON {
		return p.printJSON(result)
	}
	return nil
}

// backupToOutput writes a copy of the store to out, for container images from which
// no file can be copied. A database is not written from start to end, so the copy
// is a file first.
func backupToOutput(ctx context.Context, out io.Writer, store *sqlstore.Store) (err error) {
	dir, err := os.MkdirTemp("", "pleo-auth-proxy-backup-*")
	if err != nil {
		return fmt.Errorf("creating a directory for the copy: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "store.db")
	if err := store.Backup(ctx, path); err != nil {
		return err
	}
	f, err := os.Open(path) //nolint:gosec // G304: this function has created it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(out, f); err != nil {
		return fmt.Errorf("writing the copy: %w", err)
	}
	return nil
}

func newStoreAcceptRestoreCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "accept-restore",
		Short: "Accept a store that was restored from a backup",
		Long: `Accept a store that is older than its high-water mark. Until then, servers use the
access tokens that are still valid, and refresh nothing: sending a refresh token
that was used after the backup would revoke its grant.

After that, servers introspect each refresh token before they send it. Connections
whose refresh token is no longer active need a new consent. Look for the newer store
before you accept this one: if you find it, nothing is lost.`,
		Example: `  pleo-auth-proxy store accept-restore`,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStore(cmd.Context(), p, func(cfg *config.Config, v *setup.OpenedStore) error {
				// An error does not stop it: a mark that cannot be read is replaced.
				restored, err := rollback.MarkIn(cfg.Store.SpoolDir).Restored(cmd.Context(), v.Store.Changes)
				if err := acceptStore(cmd.Context(), cfg.Store.SpoolDir, v.Store.Changes); err != nil {
					return err
				}
				location := setup.StoreLocation(cfg)
				if restored || err != nil {
					p.notef("accepted the store %s; a running server continues with it within seconds", location)
				} else {
					p.notef("accepted the store %s, although it is not older than its high-water mark; each refresh token is introspected before it is sent", location)
				}
				if !p.asJSON {
					return nil
				}
				return p.printJSON(acceptResult{Store: location, AcceptedAt: time.Now().UTC().Truncate(time.Second)})
			})
		},
	}
}

// acceptResult is what store accept-restore prints with --json.
type acceptResult struct {
	Store      string    `json:"store"` // its path, or where else it is
	AcceptedAt time.Time `json:"accepted_at"`
}

// acceptStore makes servers introspect each refresh token that the store has now
// before they send it.
func acceptStore(ctx context.Context, spoolDir string, changes credstore.Changes) error {
	if err := durable.MkdirAll(spoolDir); err != nil {
		return fmt.Errorf("creating the spool directory: %w", err)
	}
	return rollback.MarkIn(spoolDir).Accept(ctx, changes, time.Now())
}

func newStoreRestampCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "restamp",
		Short: "Bind the store to the configured environment and client",
		Long: `Bind the store to the configured environment, authorization server and OAuth
client. A store is bound to the ones that it was created with, and cannot be opened
with others. Stop every server that uses the store first.

Credentials stay unchanged, and each refresh token is introspected before it is
sent. A refresh token belongs to the client that it was issued to: if the client ID
changes, the customers have to give consent again.`,
		Example: `  pleo-auth-proxy store restamp`,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadStoreConfig(p)
			if err != nil {
				return err
			}
			return restamp(cmd.Context(), p, cfg)
		},
	}
}

// binding is what store restamp prints of a binding with --json.
type binding struct {
	Environment string `json:"environment"`
	AuthURL     string `json:"auth_url"`
	ClientID    string `json:"client_id"`
}

func (b binding) String() string {
	return fmt.Sprintf("%s, %s, client %q", b.Environment, b.AuthURL, b.ClientID)
}

func restamp(ctx context.Context, p *program, cfg *config.Config) error {
	if err := errors.Join(setup.CheckStoreExists(ctx, cfg), setup.CheckKeysetNotLost(ctx, cfg)); err != nil {
		return err
	}
	keys, err := keyset.Open(cfg.Store.KeysetFile)
	if err != nil {
		return err
	}
	c, err := setup.StoreConfig(cfg, keys, p.logger())
	if err != nil {
		return err
	}
	rebound, err := sqlstore.Rebind(ctx, c)
	if err != nil {
		return err
	}
	store, err := sqlstore.Open(ctx, c)
	if err != nil {
		return err
	}
	if err := errors.Join(acceptStore(ctx, cfg.Store.SpoolDir, store.Changes), store.Close()); err != nil {
		return err
	}
	before, after := binding(rebound), binding(c.Binding)
	p.notef("the store was bound to %v; it is now bound to %v", before, after)
	if p.asJSON {
		return p.printJSON(map[string]binding{"before": before, "after": after})
	}
	return nil
}
