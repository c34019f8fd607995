package spool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// newCipher returns a new keyset.
func newCipher(t *testing.T) Cipher {
	t.Helper()
	keyset, _, err := keyset.OpenOrCreate(filepath.Join(t.TempDir(), "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	return keyset
}

// openSpool opens a spool in the directory, under a new keyset.
func openSpool(t *testing.T, dir string) *Dir {
	t.Helper()
	d, err := Open(dir, newCipher(t))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var (
	testParent = credstore.Parent{ConnectionID: "id-1", Version: 7, RefreshHash: [32]byte{1, 2, 3}}
	testTime   = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
)

func successorOf(parent credstore.Parent) credstore.Successor {
	return credstore.Successor{
		Parent: parent, AccessToken: credstore.NewSecret("access-token"), RefreshToken: credstore.NewSecret("refresh-token"),
		ExpiresAt: testTime.Add(time.Hour), ObtainedAt: testTime,
	}
}

func mustReserve(t *testing.T, d *Dir, parent credstore.Parent) Record {
	t.Helper()
	r, err := d.Reserve(parent)
	if err != nil {
		t.Fatalf("Reserve: %v", err)
	}
	return r
}

// leavePair leaves a record with a pair, as a process that was killed does.
func leavePair(t *testing.T, d *Dir, s credstore.Successor) {
	t.Helper()
	r := mustReserve(t, d, s.Parent)
	if err := r.Write(s); err != nil {
		t.Fatalf("Write: %v", err)
	}
	r.Release()
}

// fakeStore holds one credential.
type fakeStore struct {
	current credstore.Parent
	gone    bool  // the connection was removed
	err     error // of Save, if not nil
	saved   []credstore.Successor

	reading, continueRead chan struct{} // if not nil, Read closes one and waits for the other
}

func (s *fakeStore) Read(context.Context, string) (credstore.State, error) {
	if s.reading != nil {
		close(s.reading)
		<-s.continueRead
	}
	if s.gone {
		return credstore.State{}, credstore.ErrNotFound
	}
	return credstore.State{Credential: credstore.Credential{Version: s.current.Version}}, nil
}

func (s *fakeStore) Save(_ context.Context, n credstore.Successor) (credstore.Connection, error) {
	if s.err != nil {
		return credstore.Connection{}, s.err
	}
	s.saved = append(s.saved, n)
	return credstore.Connection{}, nil
}

// replayOnce lets the spool try every record once. It returns how many are left
// and what was logged.
func replayOnce(t *testing.T, d *Dir, store Store) (left int, logged string) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	left, err := d.replayAll(context.Background(), store, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, entry := range logs.All() {
		lines = append(lines, entry.Message)
	}
	return left, strings.Join(lines, "\n")
}

// files returns the names of the files in the directory.
func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestRecordIsEncrypted(t *testing.T) {
	dir := t.TempDir()
	leavePair(t, openSpool(t, dir), successorOf(testParent))
	path := filepath.Join(dir, files(t, dir))
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"access-token", "refresh-token"} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("%q is readable in the record", secret)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
}

func TestReserveOncePerParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openSpool(t, t.TempDir())
		r := mustReserve(t, d, testParent)
		if _, err := d.Reserve(testParent); err == nil {
			t.Error("a record was reserved twice")
		}
		if err := r.Write(successorOf(testParent)); err != nil {
			t.Fatal(err)
		}
		r.Release()
		if _, err := d.Reserve(testParent); !errors.Is(err, ErrHoldsPair) {
			t.Errorf("Reserve with a spooled successor = %v, want %v", err, ErrHoldsPair)
		}
	})
}

// The store may be slow while another process replays the record.
func TestReserveWaitsForReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openSpool(t, t.TempDir())
		mustReserve(t, d, testParent).Release() // as a crash does
		store := &fakeStore{current: testParent, reading: make(chan struct{}), continueRead: make(chan struct{})}
		replayed := make(chan struct{})
		go func() {
			defer close(replayed)
			replayOnce(t, d, store)
		}()
		<-store.reading
		time.AfterFunc(time.Second, func() { close(store.continueRead) })
		mustReserve(t, d, testParent).Remove()
		<-replayed
	})
}

func TestReplay(t *testing.T) {
	pair := successorOf(testParent)
	pair.Scope, pair.Consent, pair.ForcedStreak, pair.ForcedAt = "export:read", true, 2, testTime
	pair.RefreshFailure = &credstore.RefreshFailure{Failure: credstore.Failure{Code: "access_token_missing", At: testTime}, RetryAt: testTime}
	tests := []struct {
		name          string
		store         fakeStore
		empty         bool // the record was reserved and not written
		wantLeft      int
		wantSaved     bool
		wantRemoved   bool
		wantAbandoned bool
	}{
		{name: "saved", wantSaved: true, wantRemoved: true},
		{name: "superseded", store: fakeStore{err: credstore.ErrSuperseded}, wantRemoved: true},
		{name: "connection removed", store: fakeStore{err: credstore.ErrNotFound}, wantRemoved: true},
		{name: "store unavailable", store: fakeStore{err: credstore.ErrUnavailable}, wantLeft: 1},
		{name: "empty", store: fakeStore{current: testParent}, empty: true, wantAbandoned: true},
		{name: "empty, parent replaced", store: fakeStore{current: credstore.Parent{Version: 8}}, empty: true, wantRemoved: true},
		{name: "empty, connection removed", store: fakeStore{gone: true}, empty: true, wantRemoved: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			d := openSpool(t, dir)
			if tt.empty {
				mustReserve(t, d, testParent).Release()
			} else {
				leavePair(t, d, pair)
			}
			left, _ := replayOnce(t, d, &tt.store)
			removed := files(t, dir) == ""
			if left != tt.wantLeft || removed != tt.wantRemoved || d.Abandoned(testParent) != tt.wantAbandoned {
				t.Errorf("left %d, removed %v, abandoned %v; want %d, %v, %v",
					left, removed, d.Abandoned(testParent), tt.wantLeft, tt.wantRemoved, tt.wantAbandoned)
			}
			if !tt.wantSaved {
				return
			}
			got := tt.store.saved[0]
			if got.AccessToken.Reveal() != "access-token" || got.RefreshToken.Reveal() != "refresh-token" || got.Parent != testParent ||
				!got.ExpiresAt.Equal(pair.ExpiresAt) || got.Scope != pair.Scope || !got.Consent || got.ForcedStreak != 2 ||
				got.RefreshFailure == nil || got.RefreshFailure.Failure.Code != "access_token_missing" {
				t.Errorf("saved %+v, want %+v", got, pair)
			}
		})
	}
}

func TestReplayStopsWithContext(t *testing.T) {
	d := openSpool(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	var rounds int
	err := d.Replay(ctx, &fakeStore{}, zap.NewNop(), func(int) { rounds++; cancel() })
	if !errors.Is(err, context.Canceled) || rounds != 1 {
		t.Errorf("Replay = %v after %d rounds, want %v after 1", err, rounds, context.Canceled)
	}
	<-d.Replayed()
}

// damage leaves a record whose pair cannot be decrypted.
func damage(t *testing.T, d *Dir, dir string) {
	t.Helper()
	leavePair(t, d, successorOf(testParent))
	path := filepath.Join(dir, files(t, dir))
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[headerSize+20] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReplayKeepsDamagedRecord(t *testing.T) {
	dir := t.TempDir()
	d := openSpool(t, dir)
	damage(t, d, dir)
	left, logged := replayOnce(t, d, &fakeStore{})
	if left != 0 || !strings.Contains(logged, "cannot be decrypted") || !strings.HasSuffix(files(t, dir), ".damaged") {
		t.Errorf("left %d, logged %q, directory %q; want the record kept as .damaged and an error in the log", left, logged, files(t, dir))
	}
}

// A pair that is written after a damaged record was set aside must be replayed.
func TestReserveAfterDamagedRecord(t *testing.T) {
	dir := t.TempDir()
	d := openSpool(t, dir)
	damage(t, d, dir)
	leavePair(t, d, successorOf(testParent))
	store := &fakeStore{}
	replayOnce(t, d, store)
	if len(store.saved) != 1 || !strings.HasSuffix(files(t, dir), ".damaged") {
		t.Errorf("saved %d pairs, directory %q; want the new pair saved and the damaged record kept", len(store.saved), files(t, dir))
	}
}

func TestReplayIgnoresOtherFiles(t *testing.T) {
	dir := t.TempDir()
	d := openSpool(t, dir)
	if err := os.Mkdir(filepath.Join(dir, "a.pair"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b.pair"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if left, logged := replayOnce(t, d, &fakeStore{}); left != 0 || logged != "" {
		t.Errorf("left %d, logged %q, want nothing", left, logged)
	}
	if got := files(t, dir); got != "a.pair notes.txt" {
		t.Errorf("directory holds %q, want the incomplete reservation removed and the rest unchanged", got)
	}
}

func TestUnreadableDirectoryIsNotReplayed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	d := openSpool(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_ = d.Replay(ctx, &fakeStore{}, zap.NewNop(), func(int) {})
	select {
	case <-d.Replayed():
		t.Error("a spool that cannot be read counts as replayed")
	default:
	}
}

// Records of commit 4c88458 must be replayed by every later version.
func TestReplayOfEarlierVersion(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/v0-4c88458")); err != nil {
		t.Fatal(err)
	}
	keyset, err := keyset.Open(filepath.Join(dir, "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(dir, keyset)
	if err != nil {
		t.Fatal(err)
	}
	store := &fakeStore{}
	if left, logged := replayOnce(t, d, store); left != 0 || len(store.saved) != 1 {
		t.Fatalf("saved %d pairs, left %d, logged %q; want 1 pair saved", len(store.saved), left, logged)
	}
	want := successorOf(testParent)
	want.Scope, want.Consent, want.ForcedAt, want.ForcedStreak = "export:read", true, testTime, 2
	want.RefreshFailure = &credstore.RefreshFailure{
		Failure: credstore.Failure{Code: "access_token_missing", Message: "m", At: testTime}, Reason: "r", RetryAt: testTime.Add(time.Minute),
	}
	equal := cmp.Comparer(credstore.Secret.Equal)
	if diff := cmp.Diff(want, store.saved[0], equal); diff != "" {
		t.Errorf("saved (-want +got):\n%s", diff)
	}
}
