// Package setup opens what the configuration names.
//
// That is secrets, certificates, the keyset and the store, and clients of Pleo's
// servers. The server, the other commands and the doctor use the same ones.
package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

// OpenedStore is a store with the keyset that decrypts it.
type OpenedStore struct {
	Keyset *keyset.Keyset
	Store  *sqlstore.Store
	// CreatedKeyset is set if there was no keyset before: the operator must back it
	// up, see [KeysetBackupNotice].
	CreatedKeyset bool
}

// OpenOrCreate opens the keyset and the store, and creates both if neither exists. A
// store in memory and its keyset are new, and end with the process.
func OpenOrCreate(ctx context.Context, cfg *config.Config, log *zap.Logger) (*OpenedStore, error) {
	inMemory := cfg.Store.Driver == config.DriverMemory
	keys, created, err := openKeyset(ctx, cfg, inMemory)
	if err != nil {
		return nil, err
	}
	c, err := StoreConfig(cfg, keys, log)
	if err != nil {
		return nil, err
	}
	if inMemory {
		c.Memory = sqlstore.NewMemory()
		c.Logger = log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel)) // that it is new deserves no warning
	}
	store, err := sqlstore.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	return &OpenedStore{Keyset: keys, Store: store, CreatedKeyset: created}, nil
}

func openKeyset(ctx context.Context, cfg *config.Config, inMemory bool) (keys *keyset.Keyset, created bool, err error) {
	if inMemory {
		keys, err = keyset.NewTemporary()
		return keys, false, err
	}
	if err := CreateDataDir(cfg); err != nil {
		return nil, false, err
	}
	if err := CheckKeysetNotLost(ctx, cfg); err != nil {
		return nil, false, err
	}
	return keyset.OpenOrCreate(cfg.Store.KeysetFile)
}

// StoreConfig returns the configuration of the store.
func StoreConfig(cfg *config.Config, keyset *keyset.Keyset, log *zap.Logger) (sqlstore.Config, error) {
	dsn, err := openDSN(cfg)
	if err != nil {
		return sqlstore.Config{}, err
	}
	return sqlstore.Config{
		Path:   cfg.Store.Path,
		DSN:    dsn,
		Keyset: keyset,
		Binding: credstore.Binding{
			Environment: cfg.Environment,
			AuthURL:     cfg.Upstream.AuthURL.String(),
			ClientID:    cfg.OAuth.ClientID,
		},
		Logger: log,
	}, nil
}

// openDSN reads the connection string of the database for the first time, and returns
// a function that follows its file; nil if there is no database.
func openDSN(cfg *config.Config) (func() credstore.Secret, error) {
	if cfg.Store.Driver != config.DriverPostgres {
		return nil, nil
	}
	reader, err := cfg.Store.DSN.Open()
	if err != nil {
		return nil, cfg.ErrorAt(cfg.Store.DSN.Key("store.dsn"), err)
	}
	if err := sqlstore.CheckDSN(reader.Secret()); err != nil {
		return nil, cfg.ErrorAt(cfg.Store.DSN.Key("store.dsn"), err)
	}
	return reader.Secret, nil
}

// StoreExists reports whether the configured store exists.
func StoreExists(ctx context.Context, cfg *config.Config) (bool, error) {
	c, err := StoreConfig(cfg, nil, zap.NewNop())
	if err != nil {
		return false, err
	}
	return sqlstore.Exists(ctx, c)
}

// StoreLocation returns where the store is, for messages.
func StoreLocation(cfg *config.Config) string {
	if cfg.Store.Driver == config.DriverPostgres {
		return "in the database of store.dsn"
	}
	return cfg.Store.Path
}

// CreateDataDir creates the data directory if it does not exist.
func CreateDataDir(cfg *config.Config) error {
	if !NeedsDataDir(cfg) {
		return nil
	}
	if err := checkDataDir(cfg); err != nil {
		return err
	}
	if err := durable.MkdirAll(cfg.DataDir); err != nil {
		return &credstore.SetupError{
			Err:  fmt.Errorf("creating the data directory: %w", err),
			Hint: "create it, or set data_dir to a directory on a local disk that this user may write to",
		}
	}
	return nil
}

// checkDataDir returns a *config.Error if the parent of a configured data directory
// does not exist: a volume that is not mounted must not pass for an empty store.
func checkDataDir(cfg *config.Config) error {
	if !cfg.DataDirConfigured || !NeedsDataDir(cfg) {
		return nil
	}
	return checkParent(cfg, "data_dir", cfg.DataDir)
}

// checkCreatable returns a *config.Error for each file that serve would have to
// create in a directory that does not exist.
func checkCreatable(cfg *config.Config) error {
	var wrong config.Error
	files := map[string]string{}
	if cfg.Store.Driver != config.DriverMemory {
		files["store.keyset_file"] = cfg.Store.KeysetFile
	}
	if !cfg.Admin.Listen.Off() && cfg.Admin.TokenFile != "" {
		files["admin.token_file"] = cfg.Admin.TokenFile
	}
	for _, key := range slices.Sorted(maps.Keys(files)) {
		path := files[key]
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) == cfg.DataDir {
			continue // it exists, or its directory will
		}
		if err := wrong.Add(checkParent(cfg, key, path)); err != nil {
			return err
		}
	}
	return wrong.AsError()
}

func checkParent(cfg *config.Config, key, path string) error {
	if parent := filepath.Dir(path); !IsDir(parent) {
		return cfg.ErrorAt(key, fmt.Errorf("must be in a directory that exists, and %s does not", parent))
	}
	return nil
}

// NeedsDataDir reports whether anything is kept in the data directory itself.
func NeedsDataDir(cfg *config.Config) bool {
	if !cfg.Admin.Listen.Off() && cfg.Admin.TokenFile == cfg.InDataDir(config.AdminTokenFileName) {
		return true
	}
	if !cfg.Connect.ACME.Off() {
		return true // certificates
	}
	s := cfg.Store
	return s.Path == cfg.InDataDir(config.StoreFileName) || s.KeysetFile == cfg.InDataDir(config.KeysetFileName) || s.SpoolDir == cfg.InDataDir(config.SpoolDirName)
}

// IsDir reports whether path is a directory.
func IsDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// CheckKeysetNotLost returns a *[credstore.SetupError] if the store exists without its
// keyset: a new keyset could decrypt nothing in it. The keyset is checked again after
// the store, because a process that creates both at this moment begins with the
// keyset.
func CheckKeysetNotLost(ctx context.Context, cfg *config.Config) error {
	if hasKeyset(cfg) {
		return nil
	}
	exists, err := StoreExists(ctx, cfg)
	if err != nil || !exists || hasKeyset(cfg) {
		return err
	}
	hint := "put the keyset back from its backup, or set store.keyset_file to where it is"
	if cfg.Store.Driver == config.DriverPostgres {
		hint = "copy it from the machine where the store was created, or from its backup, or set store.keyset_file to where it is"
	}
	return &credstore.SetupError{
		Err:  fmt.Errorf("the store %s exists, but not its keyset %s", StoreLocation(cfg), cfg.Store.KeysetFile),
		Hint: hint,
	}
}

// hasKeyset reports whether there is a keyset file, which may not be valid.
func hasKeyset(cfg *config.Config) bool {
	_, err := os.Stat(cfg.Store.KeysetFile)
	return !errors.Is(err, fs.ErrNotExist)
}

// KeysetBackupNotice is the message after a keyset was created.
const KeysetBackupNotice = "created a new keyset; back it up apart from the store, which cannot be decrypted without it"

// CheckStoreExists returns a *[credstore.SetupError] if there is no store.
func CheckStoreExists(ctx context.Context, cfg *config.Config) error {
	exists, err := StoreExists(ctx, cfg)
	if err != nil || exists {
		return err
	}
	hint := "if there should be one, correct data_dir or store.path, or mount its volume; otherwise serve, connections add and connections import create one"
	if cfg.Store.Driver == config.DriverPostgres {
		hint = "if there should be one, correct store.dsn or restore it; otherwise serve, connections add and connections import create one"
	}
	return &credstore.SetupError{Err: fmt.Errorf("there is no store %s", StoreLocation(cfg)), Hint: hint}
}
