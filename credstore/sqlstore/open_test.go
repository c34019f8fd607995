package sqlstore_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
)

// wantSetupError fails the test unless Open returns a SetupError with a hint that
// contains the words.
func wantSetupError(t *testing.T, c sqlstore.Config, words ...string) {
	t.Helper()
	s, err := sqlstore.Open(t.Context(), c)
	if err == nil {
		t.Fatalf("Open(%q) = nil error, want a SetupError; Close: %v", c.Path, s.Close())
	}
	var setup *credstore.SetupError
	if !errors.As(err, &setup) || setup.Hint == "" {
		t.Fatalf("Open(%q) = %v, want a SetupError with a hint", c.Path, err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("Open(%q) = %q, want it to say %q", c.Path, err, word)
		}
	}
}

// made returns a directory with a closed store that holds one connection.
func made(t *testing.T) *directory {
	t.Helper()
	d := newDirectory(t)
	s := d.open(t)
	create(t, s.Store, "acme")
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	return d
}

func create(t testing.TB, s credstore.Store, name string) credstore.Connection {
	t.Helper()
	c, err := s.Connections.Create(t.Context(), credstore.NewConnection{
		Name: name,
		Kind: credstore.OAuth,
		Credential: &credstore.NewCredential{
			AccessToken: credstore.NewSecret("access-1"), RefreshToken: credstore.NewSecret("refresh-1 of " + name),
		},
	})
	if err != nil {
		t.Fatalf("Create(%q): %v", name, err)
	}
	return c
}

func TestBindingMismatchIsRejected(t *testing.T) {
	d := made(t)
	for _, test := range []struct {
		name  string
		alter func(*credstore.Binding)
		words []string
	}{
		{"environment", func(s *credstore.Binding) { s.Environment = "staging" }, []string{`"custom"`, `"staging"`, "environment"}},
		{"authorization server", func(s *credstore.Binding) { s.AuthURL = "http://127.0.0.1:2" }, []string{":1", ":2", "upstream.auth_url"}},
		{"client", func(s *credstore.Binding) { s.ClientID = "client-2" }, []string{"client-1", "client-2", "oauth.client_id"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := d.config()
			test.alter(&c.Binding)
			wantSetupError(t, c, test.words...)
		})
	}
	d.open(t)
}

func TestClientIDIsFilledInOnce(t *testing.T) {
	d := newDirectory(t)
	for _, test := range []struct {
		client  string
		refused bool
	}{{"", false}, {"first", false}, {"", false}, {"first", false}, {"second", true}} {
		c := d.config()
		c.Binding.ClientID = test.client
		s, err := sqlstore.Open(t.Context(), c)
		if (err != nil) != test.refused {
			t.Fatalf("Open with client id %q = %v, want an error: %v", test.client, err, test.refused)
		}
		if err == nil && s.Close() != nil {
			t.Fatal("Close failed")
		}
	}
}

func TestForeignKeysetIsRejected(t *testing.T) {
	d := made(t)
	c := d.config()
	c.Keyset = openKeyset(t, filepath.Join(t.TempDir(), "other.json"))
	wantSetupError(t, c, d.keys.Fingerprint(), c.Keyset.Fingerprint(), "backup")
}

func TestKeysetWithNewPrimaryKeyIsAccepted(t *testing.T) {
	d := newDirectory(t)
	c := create(t, d.open(t).Store, "acme")
	rotated := d.config()
	rotated.Keyset = openKeyset(t, addPrimaryKey(t, filepath.Join(filepath.Dir(filepath.Dir(d.path)), "keyset.json")))
	if rotated.Keyset.Fingerprint() == d.keys.Fingerprint() {
		t.Fatal("the rotated keyset has the same primary key")
	}
	s, err := sqlstore.Open(t.Context(), rotated)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer func() { _ = s.Close() }()
	state, err := s.Connections.Read(t.Context(), c.ID)
	if err != nil || state.Credential.AccessToken.Reveal() != "access-1" {
		t.Errorf("Read after the rotation = %v, want what was encrypted before", err)
	}
}

// addPrimaryKey returns the path of a keyset that has another primary key
// beside the keys of the one at path.
func addPrimaryKey(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("reading the keyset: %v", err)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(data)))
	if err != nil {
		t.Fatalf("reading the keyset: %v", err)
	}
	manager := keyset.NewManagerFromHandle(handle)
	id, err := manager.Add(aead.XChaCha20Poly1305KeyTemplate())
	if err != nil {
		t.Fatalf("adding a key: %v", err)
	}
	if err := manager.SetPrimary(id); err != nil {
		t.Fatalf("making the key primary: %v", err)
	}
	rotated, err := manager.Handle()
	if err != nil {
		t.Fatalf("making the keyset: %v", err)
	}
	var buf bytes.Buffer
	if err := insecurecleartextkeyset.Write(rotated, keyset.NewJSONWriter(&buf)); err != nil {
		t.Fatalf("writing the keyset: %v", err)
	}
	return writeFile(t, buf.Bytes())
}

func writeFile(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatalf("writing a file: %v", err)
	}
	return path
}

func TestDamagedFileIsRejected(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"text", func([]byte) []byte { return bytes.Repeat([]byte("not a database\n"), 1000) }},
		{"overwritten header", func(b []byte) []byte { copy(b, bytes.Repeat([]byte{0xff}, 100)); return b }},
		{"overwritten schema", func(b []byte) []byte { copy(b[100:4096], bytes.Repeat([]byte{0xff}, 3996)); return b }},
		{"half a page", func(b []byte) []byte { return b[:2000] }},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := made(t)
			data, err := os.ReadFile(d.path)
			if err != nil {
				t.Fatalf("reading the store: %v", err)
			}
			damaged := test.damage(data)
			if err := os.WriteFile(d.path, damaged, 0o600); err != nil {
				t.Fatalf("damaging the store: %v", err)
			}
			wantSetupError(t, d.config(), d.path, "backup")
			left, err := os.ReadFile(d.path)
			if err != nil || !bytes.Equal(left, damaged) {
				t.Errorf("the damaged file was written to (%v)", err)
			}
		})
	}
}

func TestInvalidPath(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, nil)
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatalf("Mkfifo: %v", err)
	}
	for name, path := range map[string]string{
		"a directory":                dir,
		"a named pipe":               fifo,
		"in what is not a directory": filepath.Join(file, "store.db"),
	} {
		t.Run(name, func(t *testing.T) {
			c := newDirectory(t).config()
			c.Path = path
			wantSetupError(t, c, path)
		})
	}
}

func TestPathWithSpecialCharacters(t *testing.T) {
	d := newDirectory(t)
	d.path = filepath.Join(t.TempDir(), "q?mode=memory&x#y%20 æ", "st%6Fre.db")
	s := d.open(t)
	create(t, s.Store, "acme")
	if _, err := os.Stat(d.path + "-wal"); err != nil {
		t.Errorf("the store is not where it should be: %v", err)
	}
}

func TestFilesArePrivate(t *testing.T) {
	d := newDirectory(t)
	old := unix.Umask(0)
	defer unix.Umask(old)
	create(t, d.open(t).Store, "acme")
	want := map[string]fs.FileMode{
		"state": 0o700, "store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600, "store.db.leases": 0o600,
	}
	err := filepath.WalkDir(filepath.Dir(d.path), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if mode, known := want[e.Name()]; err == nil && (!known || info.Mode().Perm() != mode) {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), mode)
		}
		delete(want, e.Name())
		return err
	})
	if err != nil || len(want) > 0 {
		t.Errorf("walking the directory: %v, missing %v", err, want)
	}
}

func TestOpenFileIsMadePrivate(t *testing.T) {
	d := made(t)
	if err := os.Chmod(d.path, 0o644); err != nil {
		t.Fatalf("Chmod: %v", err)
	}
	core, logged := observer.New(zap.WarnLevel)
	c := d.config()
	c.Logger = zap.New(core)
	s, err := sqlstore.Open(t.Context(), c)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer func() { _ = s.Close() }()
	info, err := os.Stat(d.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", info.Mode(), err)
	}
	if logged.FilterMessageSnippet("other users").Len() != 1 {
		t.Errorf("log = %v, want one warning", logged.All())
	}
}

// TestSymbolicLinksMeetInOneStore: two paths to one database must lead to one
// lock file, or two processes refresh at once.
func TestSymbolicLinksMeetInOneStore(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	c := create(t, s.Store, "acme")
	for _, target := range []string{d.path, filepath.Dir(d.path)} {
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(target, link); err != nil {
			t.Fatalf("Symlink: %v", err)
		}
		if target != d.path {
			link = filepath.Join(link, filepath.Base(d.path))
		}
		other := *d
		other.path = link
		l, err := s.Credentials.Acquire(t.Context(), c.ID, "me")
		if err != nil {
			t.Fatalf("Acquire: %v", err)
		}
		if _, err := other.open(t).Credentials.Acquire(t.Context(), c.ID, "other"); !errors.Is(err, credstore.ErrBusy) {
			t.Errorf("Acquire through %s = %v, want %v", link, err, credstore.ErrBusy)
		}
		if err := l.Release(); err != nil {
			t.Fatalf("Release: %v", err)
		}
	}
}

func TestManyOpenAtOnce(t *testing.T) {
	d := newDirectory(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			s, err := sqlstore.Open(t.Context(), d.config())
			if err == nil {
				err = errors.Join(s.Ping(t.Context()), s.Close())
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Errorf("Open, 8 at once: %v", err)
	}
}

func TestRejectedTokenIsDeleted(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	c := create(t, s.Store, "acme")
	state, err := s.Connections.Read(t.Context(), c.ID)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	parent := state.Credential.Parent()
	requireReauthorization(t, s.Store, parent)
	for _, test := range []struct {
		after time.Duration
		kept  bool
	}{{credstore.RejectedTokenRetention - time.Minute, true}, {credstore.RejectedTokenRetention + time.Minute, false}} {
		later := d.config()
		later.Now = func() time.Time { return time.Now().Add(test.after) }
		aged, err := sqlstore.Open(t.Context(), later)
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		state, err := aged.Connections.Read(t.Context(), c.ID)
		if err != nil || state.Credential.RefreshToken.IsZero() == test.kept {
			t.Errorf("after %v: token kept = %v, %v, want %v", test.after, !state.Credential.RefreshToken.IsZero(), err, test.kept)
		}
		if err := aged.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	// Its successor, in a spool, can be saved without a time limit.
	if _, err := s.Credentials.Save(t.Context(), successor(parent)); err != nil {
		t.Errorf("Save onto a forgotten token: %v", err)
	}
}

func requireReauthorization(t *testing.T, s credstore.Store, parent credstore.Parent) {
	t.Helper()
	l, err := s.Credentials.Acquire(t.Context(), parent.ConnectionID, "me")
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	f := credstore.Failure{Code: "refused", At: time.Now()}
	err = errors.Join(s.Credentials.MarkReauthorizationRequired(t.Context(), l, parent, f, credstore.ReasonRefreshTokenRejected, false), l.Release())
	if err != nil {
		t.Fatalf("MarkReauthorizationRequired: %v", err)
	}
}

func TestEndedContextIsUnavailable(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	c := create(t, s.Store, "acme")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Credentials.Save(ctx, credstore.Successor{
		Parent:       credstore.Parent{ConnectionID: c.ID, Version: 1, RefreshHash: credstore.NewSecret("refresh-1").Hash()},
		RefreshToken: credstore.NewSecret("refresh-2"),
	})
	if !errors.Is(err, credstore.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Save with an ended context = %v, want %v and %v", err, credstore.ErrUnavailable, context.Canceled)
	}
}
