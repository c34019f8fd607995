package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

// The checks.
const (
	checkConfiguration = "configuration"
	checkFile          = "files"
	checkKeyset        = "keyset"
	checkStore         = "store"
)

// configuration reports whether there is one to go on with.
func (d *doctor) configuration() bool {
	cfg, err := d.p.loadConfig()
	if err != nil {
		d.reportError(checkConfiguration, "", err, "")
		return false
	}
	d.cfg = cfg
	d.report(checkConfiguration, severityOK, cfg.File, "valid, for "+cfg.Environment, "")
	if cfg.File == "" {
		d.report(checkConfiguration, severityNote, "", "there is no configuration file; everything comes from the environment", "")
	}
	if ignored := ignoredProxyVariables(d.p.environ); len(ignored) > 0 && cfg.Upstream.ProxyURL == nil {
		d.report(checkConfiguration, severityWarning, ignored[0], "variables that name a forward proxy are ignored",
			"set upstream.proxy_url if the way to Pleo leads over it")
	}
	return true
}

// files looks at the files that the configuration names, and reports whether
// they can be used.
func (d *doctor) files() bool {
	for _, f := range d.cfg.SecretFiles() {
		d.privacy(checkFile, f.Key, f.Path)
	}
	if _, err := openInputs(d.cfg, zap.NewNop()); err != nil {
		d.reportError(checkFile, "", err, "")
		return false
	}
	d.report(checkFile, severityOK, "", "secrets and certificates can be read", "")
	return true
}

// privacy warns of a secret that every user of the machine can read.
func (d *doctor) privacy(check, key, path string) {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm()&0o007 != 0 {
		d.report(check, severityWarning, path, fmt.Sprintf("every user of this machine can read what %s names (mode %v)", key, info.Mode().Perm()),
			"chmod o= "+path)
	}
}

// openStore opens keyset and store as far as they exist, and makes neither. It
// returns nil where there is nothing to look at.
func (d *doctor) openStore(ctx context.Context) *openedStore {
	if d.cfg.Store.Driver == config.DriverMemory {
		d.report(checkStore, severityNote, "", "nothing is kept: connections are those that the configuration declares", "")
		return nil
	}
	d.keyset()
	exists, err := storeExists(ctx, d.cfg)
	if err != nil {
		d.reportError(checkStore, storeLocation(d.cfg), err, d.storeFix(err))
		return nil
	}
	if !exists {
		d.noStore()
		return nil
	}
	if d.cfg.Store.Driver == config.DriverSQLite {
		d.owner()
	}
	v, err := openOrCreate(ctx, d.cfg, d.capturingLogger(checkStore, "keep the store in a directory of its own, on a local disk that survives restarts"))
	if err != nil {
		d.reportError(checkStore, storeLocation(d.cfg), err, d.storeFix(err))
		return nil
	}
	return v
}

func (d *doctor) storeFix(err error) string {
	if d.cfg.Store.Driver == config.DriverPostgres {
		return "see whether the database can be reached from here, and whether store.dsn names its host, port and name"
	}
	if errors.Is(err, fs.ErrPermission) {
		return "run this as the user that the server runs as, or give that user the store"
	}
	return "see whether another program holds the store, and whether the disk is full or failing"
}

// keyset looks at the file; whether it opens the store is seen there.
func (d *doctor) keyset() {
	path := d.cfg.Store.KeysetFile
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return // with a store that is an error, and without one in order
	}
	keyset, err := keyset.Open(path)
	if err != nil {
		d.reportError(checkKeyset, path, err, "let the user that the server runs as read it")
		return
	}
	d.report(checkKeyset, severityOK, path, fmt.Sprintf("%s, the primary one is %s", plural(len(keyset.Keys()), "key"), keyset.Fingerprint()), "")
	d.privacy(checkKeyset, "store.keyset_file", path)
	if d.cfg.KeysetBesideStore() {
		d.report(checkKeyset, severityWarning, path, "it lies beside the store: sealing then protects a copy of the database only",
			"move it to another place, such as a mounted secret, and set store.keyset_file")
	}
}

// noStore tells a first start from a volume that is not mounted.
func (d *doctor) noStore() {
	if checkDataDir(d.cfg) != nil {
		d.report(checkStore, severityError, d.cfg.DataDir, "the directory "+filepath.Dir(d.cfg.DataDir)+" is not there, and the server makes data_dir in it only",
			"mount the volume that holds it, or correct data_dir")
		return
	}
	if rollback.MarkIn(d.cfg.Store.SpoolDir).Exists() {
		d.report(checkStore, severityError, storeLocation(d.cfg),
			"the store is gone: the high-water mark in "+d.cfg.Store.SpoolDir+" shows that there was one; a server would start with an empty one",
			"stop the server, and put the store back or mount its volume; if it is lost, restore a backup and run pleo-auth-proxy store accept-restore")
		return
	}
	d.report(checkStore, severityNote, storeLocation(d.cfg), "there is no store yet; the server makes it when it starts for the first time",
		"if there was one before, stop, and put it back or mount its volume")
}

// owner warns of looking with other eyes than the server's.
func (d *doctor) owner() {
	info, err := os.Stat(d.cfg.Store.Path)
	if err != nil || !d.p.root {
		return
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
		d.report(checkStore, severityWarning, d.cfg.Store.Path,
			fmt.Sprintf("the store belongs to user %d, and this runs as root, who may read files that the server cannot", stat.Uid),
			fmt.Sprintf("run it as that user: setpriv --reuid=%d --regid=%d --clear-groups pleo-auth-proxy doctor", stat.Uid, stat.Gid))
	}
}

// doctorFact is what is written to see whether the store can be written.
const doctorFact = "doctor_looked_at"

// checkStoreWrites looks at a store that has been opened.
func (d *doctor) checkStoreWrites(ctx context.Context, v *openedStore) {
	path := storeLocation(d.cfg)
	if err := v.store.Changes.SetFact(ctx, doctorFact, time.Now().UTC().Format(time.RFC3339)); err != nil {
		d.reportError(checkStore, path, err, d.storeFix(err))
	} else {
		d.report(checkStore, severityOK, path, "opens with the keyset, of the current schema, and can be written", "")
	}
	d.encryption(ctx, v)
	d.rollback(ctx, v)
	d.spool()
}

// encryption looks at what the keyset does not open, and at rotations that stopped
// half-way.
func (d *doctor) encryption(ctx context.Context, v *openedStore) {
	work := &keysetFiles{cfg: d.cfg, keyset: v.keyset, store: v.store}
	s, err := work.status(ctx)
	if err != nil {
		d.reportError(checkKeyset, s.File, err, d.storeFix(err))
		return
	}
	if s.UnknownRows+s.UnknownSpoolRecords > 0 {
		d.report(checkKeyset, severityError, s.File,
			fmt.Sprintf("%s and %s are sealed under keys that are not in it, or damaged", plural(s.UnknownRows, "connection"), plural(s.UnknownSpoolRecords, "token pair")),
			"put the missing key back from a backup of the keyset; connections that stay closed need a new consent or key")
	}
	for _, k := range s.Keys {
		if !k.Primary && !k.CanRetire {
			d.report(checkKeyset, severityNote, k.Fingerprint, fmt.Sprintf("%s still sealed under a key that is not the primary one", plural(k.Rows, "connection")),
				"finish the rotation: pleo-auth-proxy keyset promote, then pleo-auth-proxy keyset retire")
		}
	}
}

func (d *doctor) rollback(ctx context.Context, v *openedStore) {
	old, err := rollback.MarkIn(d.cfg.Store.SpoolDir).Restored(ctx, v.store.Changes)
	if err != nil {
		d.reportError(checkStore, d.cfg.Store.SpoolDir, err, "let the user that the server runs as read the spool directory")
	}
	if old {
		d.report(checkStore, severityError, storeLocation(d.cfg),
			"the store is older than its high-water mark: it was restored from a backup or replaced, and none of its refresh tokens is sent",
			"put the newer store back if it can be found; else run pleo-auth-proxy store accept-restore")
	}
}

// spool looks at pairs that the store has not taken, and at whether there is
// room for more.
func (d *doctor) spool() {
	dir := d.cfg.Store.SpoolDir
	pairs, err := spool.Keys(dir)
	if err != nil {
		d.reportError(checkStore, dir, err, "let the user that the server runs as read the spool directory")
		return
	}
	if n := sum(pairs); n > 0 {
		d.report(checkStore, severityWarning, dir, plural(n, "token pair")+" waiting to be saved, each the only copy",
			"keep the directory, and start the server or wait for it: it saves them as soon as the store takes them")
	}
	if _, err := os.Stat(dir); err != nil {
		return // it is made when it is needed
	}
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		d.reportError(checkStore, dir, fmt.Errorf("writing into the spool: %w", err), "let the user that the server runs as write there: nothing is refreshed without it")
	}
}
