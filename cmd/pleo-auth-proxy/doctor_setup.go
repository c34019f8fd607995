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

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
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
		d.fail(checkConfiguration, "", err, "")
		return false
	}
	d.cfg = cfg
	d.find(checkConfiguration, gradeOK, cfg.File, "valid, for "+cfg.Environment, "")
	if cfg.File == "" {
		d.find(checkConfiguration, gradeNote, "", "there is no configuration file; everything comes from the environment", "")
	}
	if ignored := ignoredProxyVariables(d.p.environ); len(ignored) > 0 && cfg.Upstream.ProxyURL == nil {
		d.find(checkConfiguration, gradeWarning, ignored[0], "variables that name a forward proxy are ignored",
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
	if err := checkFiles(d.cfg); err != nil {
		d.fail(checkFile, "", err, "")
		return false
	}
	d.find(checkFile, gradeOK, "", "secrets and certificates can be read", "")
	return true
}

// privacy warns of a secret that every user of the machine can read.
func (d *doctor) privacy(check, key, path string) {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm()&0o007 != 0 {
		d.find(check, gradeWarning, path, fmt.Sprintf("every user of this machine can read what %s names (mode %v)", key, info.Mode().Perm()),
			"chmod o= "+path)
	}
}

// vault opens keyset and store as far as they exist, and makes neither. It
// returns nil where there is nothing to look at.
func (d *doctor) vault(ctx context.Context) *vault {
	if d.cfg.Store.Driver == config.DriverMemory {
		d.find(checkStore, gradeNote, "", "nothing is kept: connections are those that the configuration declares", "")
		return nil
	}
	d.keyset()
	exists, err := storeExists(ctx, d.cfg)
	if err != nil {
		d.fail(checkStore, nameStore(d.cfg), err, d.storeMend(err))
		return nil
	}
	if !exists {
		d.noStore()
		return nil
	}
	if d.cfg.Store.Driver == config.DriverSQLite {
		d.owner()
	}
	v, err := openVault(ctx, d.cfg, d.listenIn(checkStore, "keep the store in a directory of its own, on a local disk that survives restarts"))
	if err != nil {
		d.fail(checkStore, nameStore(d.cfg), err, d.storeMend(err))
		return nil
	}
	return v
}

func (d *doctor) storeMend(err error) string {
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
	keyset, err := credstore.ReadKeyset(path)
	if err != nil {
		d.fail(checkKeyset, path, err, "let the user that the server runs as read it")
		return
	}
	d.find(checkKeyset, gradeOK, path, fmt.Sprintf("%s, the primary one is %s", counted(len(keyset.Keys()), "key"), keyset.Fingerprint()), "")
	d.privacy(checkKeyset, "store.keyset_file", path)
	if d.cfg.KeysetBesideStore() {
		d.find(checkKeyset, gradeWarning, path, "it lies beside the store: sealing then protects a copy of the database only",
			"move it to another place, such as a mounted secret, and set store.keyset_file")
	}
}

// noStore tells a first start from a volume that is not mounted.
func (d *doctor) noStore() {
	if parent := filepath.Dir(d.cfg.DataDir); d.cfg.DataDirConfigured && needsDataDir(d.cfg) && !isDir(parent) {
		d.find(checkStore, gradeError, d.cfg.DataDir, "the directory "+parent+" is not there, and the server makes data_dir in it only",
			"mount the volume that holds it, or correct data_dir")
		return
	}
	if refresh.RollbackGuardIn(d.cfg.Store.SpoolDir).Exists() {
		d.find(checkStore, gradeError, nameStore(d.cfg),
			"the store is gone: its witness in "+d.cfg.Store.SpoolDir+" says that there was one; a server would start with an empty one",
			"stop the server, and put the store back or mount its volume; if it is lost, restore a backup and run pleo-auth-proxy store accept-restore")
		return
	}
	d.find(checkStore, gradeNote, nameStore(d.cfg), "there is no store yet; the server makes it when it starts for the first time",
		"if there was one before, stop, and put it back or mount its volume")
}

// owner warns of looking with other eyes than the server's.
func (d *doctor) owner() {
	info, err := os.Stat(d.cfg.Store.Path)
	if err != nil || !d.p.root {
		return
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
		d.find(checkStore, gradeWarning, d.cfg.Store.Path,
			fmt.Sprintf("the store belongs to user %d, and this runs as root, who may read files that the server cannot", stat.Uid),
			fmt.Sprintf("run it as that user: setpriv --reuid=%d --regid=%d --clear-groups pleo-auth-proxy doctor", stat.Uid, stat.Gid))
	}
}

// factLooked is what is written to see whether the store can be written.
const factLooked = "doctor_looked_at"

// storeWorks looks at a store that has been opened.
func (d *doctor) storeWorks(ctx context.Context, v *vault) {
	path := nameStore(d.cfg)
	if err := v.store.SetFact(ctx, factLooked, time.Now().UTC().Format(time.RFC3339)); err != nil {
		d.fail(checkStore, path, err, d.storeMend(err))
	} else {
		d.find(checkStore, gradeOK, path, "opens with the keyset, of the current schema, and can be written", "")
	}
	d.sealed(ctx, v)
	d.restored(ctx, v)
	d.spool()
}

// sealed looks at what the keyset does not open, and at rotations that stopped
// half-way.
func (d *doctor) sealed(ctx context.Context, v *vault) {
	work := &keysetWork{cfg: d.cfg, keyset: v.keyset, store: v.store}
	s, err := work.status(ctx)
	if err != nil {
		d.fail(checkKeyset, s.File, err, d.storeMend(err))
		return
	}
	if s.UnknownRows+s.UnknownSpoolRecords > 0 {
		d.find(checkKeyset, gradeError, s.File,
			fmt.Sprintf("%s and %s are sealed under keys that are not in it, or damaged", counted(s.UnknownRows, "connection"), counted(s.UnknownSpoolRecords, "token pair")),
			"put the missing key back from a backup of the keyset; connections that stay closed need a new consent or key")
	}
	for _, k := range s.Keys {
		if !k.Primary && !k.CanRetire {
			d.find(checkKeyset, gradeNote, k.Fingerprint, fmt.Sprintf("%s still sealed under a key that is not the primary one", counted(k.Rows, "connection")),
				"finish the rotation: pleo-auth-proxy keyset promote, then pleo-auth-proxy keyset retire")
		}
	}
}

func (d *doctor) restored(ctx context.Context, v *vault) {
	old, err := refresh.RollbackGuardIn(d.cfg.Store.SpoolDir).Restored(ctx, v.store)
	if err != nil {
		d.fail(checkStore, d.cfg.Store.SpoolDir, err, "let the user that the server runs as read the spool directory")
	}
	if old {
		d.find(checkStore, gradeError, nameStore(d.cfg),
			"the store is older than its witness: it was restored from a backup or replaced, and no refresh token is presented from it",
			"put the newer store back if it can be found; else run pleo-auth-proxy store accept-restore")
	}
}

// spool looks at pairs that the store has not taken, and at whether there is
// room for more.
func (d *doctor) spool() {
	dir := d.cfg.Store.SpoolDir
	pairs, err := refresh.SpoolKeys(dir)
	if err != nil {
		d.fail(checkStore, dir, err, "let the user that the server runs as read the spool directory")
		return
	}
	if n := sum(pairs); n > 0 {
		d.find(checkStore, gradeWarning, dir, counted(n, "token pair")+" waiting to be saved, each the only copy",
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
		d.fail(checkStore, dir, fmt.Errorf("writing into the spool: %w", err), "let the user that the server runs as write there: nothing is refreshed without it")
	}
}
