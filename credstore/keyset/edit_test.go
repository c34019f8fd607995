package keyset_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// keysetFile creates a keyset of one key in a new directory.
func keysetFile(t *testing.T) (path string, key keyset.Key) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "keyset.json")
	key, err := keyset.Create(path)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return path, key
}

func open(t *testing.T, path string) *keyset.Keyset {
	t.Helper()
	k, err := keyset.Open(path)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return k
}

func add(t *testing.T, path string) keyset.Key {
	t.Helper()
	key, err := keyset.Add(path)
	if err != nil {
		t.Fatalf("Add: %v", err)
	}
	return key
}

func promote(t *testing.T, path string, key keyset.Key) {
	t.Helper()
	if changed, err := keyset.Promote(path, key.Fingerprint); err != nil || !changed {
		t.Fatalf("Promote = %v, %v, want true", changed, err)
	}
}

func unused() error { return nil }

func withPrimary(k keyset.Key, primary bool) keyset.Key {
	k.Primary = primary
	return k
}

func wantKeys(t *testing.T, path string, want ...keyset.Key) {
	t.Helper()
	if diff := cmp.Diff(want, open(t, path).Keys()); diff != "" {
		t.Errorf("keys of the file (-want +got):\n%s", diff)
	}
}

func TestCreateDoesNotOverwrite(t *testing.T) {
	path, key := keysetFile(t)
	if _, err := keyset.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a keyset = %v, want %v", err, fs.ErrExist)
	}
	wantKeys(t, path, key)
}

func TestMissingKeyset(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	if _, err := keyset.Open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open = %v, want %v", err, fs.ErrNotExist)
	}
	var setup *credstore.SetupError
	if _, err := keyset.Add(path); !errors.As(err, &setup) || !strings.Contains(err.Error(), "keyset create") {
		t.Errorf("Add = %v, want a SetupError that names keyset create", err)
	}
}

func TestRotation(t *testing.T) {
	path, first := keysetFile(t)
	ciphertext := encrypt(t, open(t, path), "label", "old")

	second := add(t, path)
	wantKeys(t, path, first, second)
	if id, ok := keyset.KeyID(encrypt(t, open(t, path), "label", "x")); !ok || id != first.ID {
		t.Errorf("Encrypt after Add uses key %d, %v, want still %d", id, ok, first.ID)
	}

	promote(t, path, second)
	wantKeys(t, path, withPrimary(first, false), withPrimary(second, true))
	k := open(t, path)
	if id, ok := keyset.KeyID(encrypt(t, k, "label", "x")); !ok || id != second.ID {
		t.Errorf("Encrypt after Promote uses key %d, %v, want %d", id, ok, second.ID)
	}
	if got, err := k.Decrypt("label", ciphertext); err != nil || string(got) != "old" {
		t.Errorf("Decrypt of a ciphertext of the old key = %q, %v, want old", got, err)
	}

	if err := keyset.Retire(path, first.Fingerprint, unused); err != nil {
		t.Fatalf("Retire: %v", err)
	}
	wantKeys(t, path, withPrimary(second, true))
	if got, err := open(t, path).Decrypt("label", ciphertext); err == nil {
		t.Errorf("Decrypt under a retired key = %q, want an error", got)
	}
}

func TestInvalidEdits(t *testing.T) {
	path, first := keysetFile(t)
	second := add(t, path)
	inUse := errors.New("in use")
	for _, test := range []struct {
		name string
		edit func() error
		want error
	}{
		{"promote an unknown key", func() error { _, err := keyset.Promote(path, "none"); return err }, keyset.ErrKeyNotFound},
		{"retire an unknown key", func() error { return keyset.Retire(path, "none", unused) }, keyset.ErrKeyNotFound},
		{"retire the primary key", func() error { return keyset.Retire(path, first.Fingerprint, unused) }, keyset.ErrPrimaryKey},
		{"retire a key in use", func() error {
			return keyset.Retire(path, second.Fingerprint, func() error { return inUse })
		}, inUse},
		{"edit during an edit", func() error {
			return keyset.Retire(path, second.Fingerprint, func() error { _, err := keyset.Add(path); return err })
		}, keyset.ErrBusy},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := test.edit(); !errors.Is(err, test.want) {
				t.Errorf("error = %v, want %v", err, test.want)
			}
			wantKeys(t, path, first, second)
		})
	}
	if changed, err := keyset.Promote(path, first.Fingerprint); changed || err != nil {
		t.Errorf("Promote of the primary key = %v, %v, want no change", changed, err)
	}
}

// TestConcurrentAddsLoseNoKey checks that each of several concurrent Adds either
// adds its key or returns ErrBusy.
func TestConcurrentAddsLoseNoKey(t *testing.T) {
	path, first := keysetFile(t)
	var mu sync.Mutex
	added := map[string]bool{first.Fingerprint: true}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			key, err := keyset.Add(path)
			if errors.Is(err, keyset.ErrBusy) {
				return
			}
			if err != nil {
				t.Errorf("Add: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			added[key.Fingerprint] = true
		})
	}
	wg.Wait()
	got := map[string]bool{}
	for _, key := range open(t, path).Keys() {
		got[key.Fingerprint] = true
	}
	if diff := cmp.Diff(added, got); diff != "" {
		t.Errorf("keys in the file (-added +got):\n%s", diff)
	}
}

func TestEditKeepsPermissions(t *testing.T) {
	path, _ := keysetFile(t)
	for mode, want := range map[fs.FileMode]fs.FileMode{0o600: 0o600, 0o640: 0o640, 0o644: 0o640} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatalf("Chmod: %v", err)
		}
		add(t, path)
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("mode %v after an edit of %v, %v, want %v", info.Mode(), mode, err, want)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("files = %v, %v, want only the keyset", left, err)
	}
}

func TestEditByRootKeepsOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can change the owner of a file")
	}
	path, _ := keysetFile(t)
	const other = 65534
	if err := os.Chown(path, other, other); err != nil {
		t.Fatalf("Chown: %v", err)
	}
	add(t, path)
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil || stat.Uid != other || stat.Gid != other {
		t.Errorf("owner after an edit by root = %d:%d, %v, want %d", stat.Uid, stat.Gid, err, other)
	}
}

func TestEditThroughSymbolicLink(t *testing.T) {
	path, first := keysetFile(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatalf("Symlink: %v", err)
	}
	second := add(t, link)
	wantKeys(t, path, first, second)
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("the link = %v, %v, want a symbolic link", info.Mode(), err)
	}
}

func TestKeysWithoutPrefixAreRejected(t *testing.T) {
	path, _ := keysetFile(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	raw := bytes.Replace(data, []byte(`"TINK"`), []byte(`"RAW"`), 1)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatalf("WriteFile: %v", err)
	}
	if _, err := keyset.Open(path); err == nil || !strings.Contains(err.Error(), "prefix") {
		t.Errorf("Open of a key without a prefix = %v, want an error that mentions the prefix", err)
	}
}

func TestKeysetFollowsItsFile(t *testing.T) {
	path, first := keysetFile(t)
	k := open(t, path)
	if changed, err := k.Reload(); changed || err != nil {
		t.Errorf("Reload of the same file = %v, %v, want false", changed, err)
	}
	second := add(t, path)
	if changed, err := k.Reload(); !changed || err != nil || !k.Contains(second.Fingerprint) {
		t.Errorf("Reload after Add = %v, %v, want the new key", changed, err)
	}
	promote(t, path, second)
	// Without a call of Reload: Encrypt reads the file itself.
	if id, _ := keyset.KeyID(encrypt(t, k, "label", "x")); id != second.ID {
		t.Errorf("Encrypt after Promote uses key %d, want %d", id, second.ID)
	}
	if err := keyset.Retire(path, first.Fingerprint, unused); err != nil {
		t.Fatalf("Retire: %v", err)
	}
	third := add(t, path)
	if _, err := k.EncryptWith(third.Fingerprint, "label", nil); err != nil {
		t.Errorf("EncryptWith a key that was just added = %v, want nil", err)
	}
	fourth := add(t, path)
	promote(t, path, fourth)
	ciphertext := encrypt(t, open(t, path), "label", "secret")
	if got, err := k.Decrypt("label", ciphertext); err != nil || string(got) != "secret" {
		t.Errorf("Decrypt under a key that was just added = %q, %v, want secret", got, err)
	}
}

func TestRetiredKeyDecryptsUntilExit(t *testing.T) {
	path, first := keysetFile(t)
	k := open(t, path)
	ciphertext := encrypt(t, k, "label", "secret")
	promote(t, path, add(t, path))
	if err := keyset.Retire(path, first.Fingerprint, unused); err != nil {
		t.Fatalf("Retire: %v", err)
	}
	if changed, err := k.Reload(); !changed || err != nil {
		t.Fatalf("Reload = %v, %v, want true", changed, err)
	}
	if got, err := k.Decrypt("label", ciphertext); err != nil || string(got) != "secret" {
		t.Errorf("Decrypt under a retired key = %q, %v, want secret", got, err)
	}
	if _, err := k.EncryptWith(first.Fingerprint, "label", nil); err != nil {
		t.Errorf("EncryptWith a retired key = %v, want nil", err)
	}
}

// TestKeysetSurvivesDamagedFile checks that a running server keeps its keys while the
// file is missing or damaged.
func TestKeysetSurvivesDamagedFile(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(path string) error
	}{
		{"missing", os.Remove},
		{"empty", func(path string) error { return os.Truncate(path, 0) }},
		{"damaged", func(path string) error { return os.WriteFile(path, []byte(`{"primaryKeyId":1}`), 0o600) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			path, key := keysetFile(t)
			k := open(t, path)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("ReadFile: %v", err)
			}
			if err := test.damage(path); err != nil {
				t.Fatalf("damaging the file: %v", err)
			}
			if changed, err := k.Reload(); changed || err == nil {
				t.Errorf("Reload = %v, %v, want an error", changed, err)
			}
			if got, err := k.Decrypt("label", encrypt(t, k, "label", "secret")); err != nil || string(got) != "secret" {
				t.Errorf("Decrypt = %q, %v, want secret", got, err)
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatalf("WriteFile: %v", err)
			}
			if _, err := k.Reload(); err != nil || k.Fingerprint() != key.Fingerprint {
				t.Errorf("Reload of the restored file = %v, want nil", err)
			}
		})
	}
}

// TestKeysetIsReplacedAtomically checks that a reader never sees an incomplete keyset
// while keys are added.
func TestKeysetIsReplacedAtomically(t *testing.T) {
	path, _ := keysetFile(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 50 {
			if _, err := keyset.Add(path); err != nil {
				t.Errorf("Add: %v", err)
			}
		}
	}()
	for reads := 0; ; reads++ {
		if _, err := keyset.Open(path); err != nil {
			t.Fatalf("Open during edits: %v", err)
		}
		select {
		case <-done:
			if reads == 0 {
				t.Error("nothing was read during the edits")
			}
			return
		case <-time.After(time.Millisecond):
		}
	}
}
