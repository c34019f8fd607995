package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

// checkConfig returns nil if the configuration cannot be used.
func checkConfig(r *report, o Options) *config.Config {
	cfg, err := o.Load()
	if err != nil {
		r.addError(checkConfiguration, "", err, "")
		return nil
	}
	r.add(checkConfiguration, OK, cfg.File, "valid, for "+cfg.Environment, "")
	if cfg.File == "" {
		r.add(checkConfiguration, Note, "", "found no configuration file, neither "+strings.Join(config.DefaultFiles(), " nor ")+"; everything comes from the environment",
			"if there should be one, use --config FILE or set PLEO_CONFIG")
	}
	if unknown := cfg.UnknownVariables; len(unknown) > 0 {
		r.add(checkConfiguration, Warning, strings.Join(unknown, ", "), config.UnknownVariablesNotice,
			"check their spelling if they are for pleo-auth-proxy, else unset them for it")
	}
	if ignored := setup.IgnoredProxyVariables(o.Environ); len(ignored) > 0 && cfg.Upstream.ProxyURL == nil {
		r.add(checkConfiguration, Warning, ignored[0], "environment variables for a forward proxy are ignored",
			"set upstream.proxy_url if Pleo is reached through a forward proxy")
	}
	return cfg
}

// checkInputs reports whether the files that the configuration names can be used.
func checkInputs(r *report, cfg *config.Config) bool {
	for _, f := range cfg.SecretFiles() {
		checkPrivate(r, checkFiles, f.Key, f.Path)
	}
	if _, err := setup.OpenInputs(cfg, zap.NewNop()); err != nil {
		r.addError(checkFiles, "", err, "")
		return false
	}
	r.add(checkFiles, OK, "", "secrets and certificates can be read", "")
	return true
}

// checkPrivate warns of a secret that other users of the machine can read.
func checkPrivate(r *report, check, key, path string) {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm()&0o007 != 0 {
		r.add(check, Warning, path, fmt.Sprintf("every user of this machine can access the file of %s (mode %v)", key, info.Mode().Perm()),
			"chmod o= "+path)
	}
}

// openStore opens the keyset and the store if they exist, and creates neither. It
// returns nil if there is no store to check.
func openStore(ctx context.Context, r *report, cfg *config.Config, root bool) *setup.OpenedStore {
	if cfg.Store.Driver == config.DriverMemory {
		r.add(checkStore, Note, "", "the store is in memory: the only connections are those of the configuration", "")
		return nil
	}
	checkKeysetFile(r, cfg)
	exists, err := setup.StoreExists(ctx, cfg)
	if err != nil {
		r.addError(checkStore, setup.StoreLocation(cfg), err, storeFix(cfg, err))
		return nil
	}
	if !exists {
		reportNoStore(r, cfg)
		return nil
	}
	if root && cfg.Store.Driver == config.DriverSQLite {
		checkOwner(r, cfg.Store.Path)
	}
	log, addWarnings := r.warnings(checkStore, "keep the store in a directory of its own, on a local disk that survives restarts")
	v, err := setup.OpenOrCreate(ctx, cfg, log)
	addWarnings()
	if err != nil {
		r.addError(checkStore, setup.StoreLocation(cfg), err, storeFix(cfg, err))
		return nil
	}
	return v
}

func storeFix(cfg *config.Config, err error) string {
	switch {
	case cfg.Store.Driver == config.DriverPostgres:
		return "check whether the database can be reached from here, and whether store.dsn has its host, port and name"
	case errors.Is(err, fs.ErrPermission):
		return "run this as the user that the server runs as, or give that user access to the store"
	}
	return "check whether another program has locked the store, and whether the disk is full or failing"
}

// checkKeysetFile checks the keyset alone. Whether it decrypts the store is checked
// with the store.
func checkKeysetFile(r *report, cfg *config.Config) {
	path := cfg.Store.KeysetFile
	keys, err := keyset.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return // opening the store reports it if there is one
	}
	if err != nil {
		r.addError(checkKeyset, path, err, "let the user that the server runs as read it")
		return
	}
	r.add(checkKeyset, OK, path, fmt.Sprintf("%s, the primary one is %s", plural(len(keys.Keys()), "key"), keys.Fingerprint()), "")
	checkPrivate(r, checkKeyset, "store.keyset_file", path)
	if cfg.KeysetBesideStore() {
		r.add(checkKeyset, Warning, path, "it is beside the store, so encryption only protects copies of the database",
			"move it to another place, such as a mounted secret, and set store.keyset_file")
	}
}

// reportNoStore distinguishes a first start from a store that is lost or not mounted.
func reportNoStore(r *report, cfg *config.Config) {
	if parent := filepath.Dir(cfg.DataDir); cfg.DataDirConfigured && setup.NeedsDataDir(cfg) && !setup.IsDir(parent) {
		r.add(checkStore, Error, cfg.DataDir, "the directory "+parent+" does not exist, and the server does not create it",
			"mount the volume that has it, or correct data_dir")
		return
	}
	if rollback.MarkIn(cfg.Store.SpoolDir).Exists() {
		r.add(checkStore, Error, setup.StoreLocation(cfg),
			"the store is missing: the high-water mark in "+cfg.Store.SpoolDir+" shows that there was one; a server would start with an empty one",
			"stop the server, and put the store back or mount its volume; if it is lost, restore a backup and run pleo-auth-proxy store accept-restore")
		return
	}
	r.add(checkStore, Note, setup.StoreLocation(cfg), "there is no store yet; the server creates it at its first start",
		"if there was one before, stop, and put it back or mount its volume")
}

// checkOwner warns that root may be able to read what the server cannot.
func checkOwner(r *report, path string) {
	info, err := os.Stat(path)
	if err != nil {
		return
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
		r.add(checkStore, Warning, path,
			fmt.Sprintf("the store belongs to user %d, and this runs as root, who may read files that the server cannot", stat.Uid),
			fmt.Sprintf("run it as that user: setpriv --reuid=%d --regid=%d --clear-groups pleo-auth-proxy doctor", stat.Uid, stat.Gid))
	}
}

// writtenFact is a fact that is written to test whether the store can be written.
const writtenFact = "doctor_looked_at"

func checkOpenStore(ctx context.Context, r *report, cfg *config.Config, v *setup.OpenedStore) {
	location := setup.StoreLocation(cfg)
	if err := v.Store.Changes.SetFact(ctx, writtenFact, time.Now().UTC().Format(time.RFC3339)); err != nil {
		r.addError(checkStore, location, err, storeFix(cfg, err))
	} else {
		r.add(checkStore, OK, location, "opens with the keyset, has the current schema, and can be written", "")
	}
	checkEncryption(ctx, r, cfg, v)
	older, err := rollback.MarkIn(cfg.Store.SpoolDir).Restored(ctx, v.Store.Changes)
	if err != nil {
		r.addError(checkStore, cfg.Store.SpoolDir, err, "let the user that the server runs as read the spool directory")
	}
	if older {
		r.add(checkStore, Error, location,
			"the store is older than its high-water mark: it was restored from a backup or replaced, and no refresh token is sent from it",
			"put the newer store back if it can be found; else run pleo-auth-proxy store accept-restore")
	}
	checkSpool(r, cfg.Store.SpoolDir)
}

// checkEncryption finds secrets that the keyset does not decrypt, and unfinished
// rotations.
func checkEncryption(ctx context.Context, r *report, cfg *config.Config, v *setup.OpenedStore) {
	s, err := setup.ReadKeysetStatus(ctx, cfg, v.Keyset, v.Store)
	if err != nil {
		r.addError(checkKeyset, s.File, err, storeFix(cfg, err))
		return
	}
	if s.UnknownRows+s.UnknownSpoolRecords > 0 {
		r.add(checkKeyset, Error, s.File,
			fmt.Sprintf("%s and %s are damaged, or encrypted under keys that are not in it", plural(s.UnknownRows, "connection"), plural(s.UnknownSpoolRecords, "token pair")),
			"put the missing key back from a backup of the keyset; connections that cannot be decrypted need a new consent or key")
	}
	for _, k := range s.Keys {
		if !k.Primary && !k.CanRetire {
			r.add(checkKeyset, Note, k.Fingerprint, fmt.Sprintf("%s still encrypted under a key that is not the primary one", plural(k.Rows, "connection")),
				"finish the rotation: pleo-auth-proxy keyset promote, then pleo-auth-proxy keyset retire")
		}
	}
}

// checkSpool finds token pairs that are not saved yet, and checks whether more can be
// written.
func checkSpool(r *report, dir string) {
	pairs, err := spool.Keys(dir)
	if err != nil {
		r.addError(checkStore, dir, err, "let the user that the server runs as read the spool directory")
		return
	}
	if n := setup.Sum(pairs); n > 0 {
		r.add(checkStore, Warning, dir, plural(n, "token pair")+" not saved yet, each the only copy",
			"keep the directory, and start the server or wait for it: it saves them as soon as the store is available")
	}
	if !setup.IsDir(dir) {
		return // the server creates it
	}
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		r.addError(checkStore, dir, fmt.Errorf("writing to the spool: %w", err), "let the user that the server runs as write there: nothing is refreshed without it")
	}
}
