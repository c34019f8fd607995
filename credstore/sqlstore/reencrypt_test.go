package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
)

// keysetPath is where the directory's keyset is.
func (d *directory) keysetPath() string {
	return filepath.Join(filepath.Dir(filepath.Dir(d.path)), "keyset.json")
}

// promote adds a key to the keyset file, makes it primary and returns it.
func (d *directory) promote(t testing.TB) keyset.Key {
	t.Helper()
	key, err := keyset.Add(d.keysetPath())
	if err != nil {
		t.Fatalf("keyset.Add: %v", err)
	}
	if _, err := keyset.Promote(d.keysetPath(), key.Fingerprint); err != nil {
		t.Fatalf("Promote: %v", err)
	}
	return key
}

// another opens the store as another process would: with a keyset of its own.
func (d *directory) another(t *testing.T) *sqlstore.Store {
	t.Helper()
	return (&directory{path: d.path, keys: openKeyset(t, d.keysetPath())}).open(t)
}

func rotate(t *testing.T, s *sqlstore.Store, again bool, want sqlstore.Rotation) {
	t.Helper()
	if got, err := s.Keys.Rotate(t.Context(), again); err != nil || got != want {
		t.Fatalf("Rotate(%v) = %q, %v, want %q", again, got, err, want)
	}
}

func noPause(ctx context.Context, _ time.Duration) error { return ctx.Err() }

func reencrypt(t *testing.T, s *sqlstore.Store) sqlstore.Reencryption {
	t.Helper()
	done, err := s.Keys.Reencrypt(t.Context(), noPause)
	if err != nil {
		t.Fatalf("Reencrypt: %v", err)
	}
	return done
}

// wantUsage fails the test unless rows (key id → connections) are encrypted with the
// keys, and the store names the key.
func wantUsage(t *testing.T, s *sqlstore.Store, current keyset.Key, rows map[uint32]int) {
	t.Helper()
	got, err := s.Keys.Usage(t.Context())
	if err != nil {
		t.Fatalf("Usage: %v", err)
	}
	if diff := cmp.Diff(sqlstore.KeyUsage{Current: current.Fingerprint, Connections: rows}, got); diff != "" {
		t.Errorf("Usage (-want +got):\n%s", diff)
	}
}

// fillMixed makes connections of every kind, so that every column is in use.
func fillMixed(t *testing.T, s *sqlstore.Store, n int) []credstore.Connection {
	t.Helper()
	all := make([]credstore.Connection, 0, n)
	for i := range n {
		if i%3 > 0 {
			all = append(all, create(t, s.Store, fmt.Sprintf("oauth-%d", i)))
			continue
		}
		c, err := s.Connections.Create(t.Context(), credstore.NewConnection{
			Name: fmt.Sprintf("key-%d", i), Kind: credstore.StandaloneKey,
			Credential: &credstore.NewCredential{APIKey: credstore.NewSecret("api-key")},
		})
		if err != nil {
			t.Fatalf("Create: %v", err)
		}
		all = append(all, c)
	}
	return all
}

func readAll(t *testing.T, s credstore.Store, connections []credstore.Connection) map[string]credstore.State {
	t.Helper()
	states := make(map[string]credstore.State)
	for _, c := range connections {
		state, err := s.Connections.Read(t.Context(), c.ID)
		if err != nil {
			t.Fatalf("Read(%q): %v", c.Name, err)
		}
		states[c.Name] = state
	}
	return states
}

func TestReencryptChangesOnlyTheKey(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	connections := fillMixed(t, s, 40)
	before := readAll(t, s.Store, connections)
	old := d.keys.Keys()[0]
	key := d.promote(t)

	rotate(t, s, false, sqlstore.RotationDone)
	if done, err := s.Keys.Reencrypted(t.Context()); err != nil || done {
		t.Errorf("Reencrypted before = %v, %v, want false", done, err)
	}
	if got := reencrypt(t, s); got != (sqlstore.Reencryption{Records: 40}) {
		t.Errorf("Reencrypt = %+v, want 40 records", got)
	}
	wantUsage(t, s, key, map[uint32]int{key.ID: 40})
	if done, err := s.Keys.Reencrypted(t.Context()); err != nil || !done {
		t.Errorf("Reencrypted afterwards = %v, %v, want true", done, err)
	}
	if err := s.Keys.Retire(t.Context(), old); err != nil {
		t.Fatalf("Retire: %v", err)
	}
	if err := keyset.Retire(d.keysetPath(), old.Fingerprint, func() error { return nil }); err != nil {
		t.Fatalf("RetireKey: %v", err)
	}
	if diff := cmp.Diff(before, readAll(t, d.another(t).Store, connections)); diff != "" {
		t.Errorf("the connections under the new key alone (-before +after):\n%s", diff)
	}
}

// TestNothingIsEncryptedWithAReplacedKey: a process that has not read the keyset file
// since it changed encrypts with the new key nevertheless.
func TestNothingIsEncryptedWithAReplacedKey(t *testing.T) {
	d := newDirectory(t)
	stale := d.open(t)
	c := create(t, stale.Store, "acme")
	key := d.promote(t)
	rotate(t, d.another(t), false, sqlstore.RotationDone)

	if _, err := stale.Credentials.Save(t.Context(), successor(parentOf(t, stale.Store, c.ID))); err != nil {
		t.Fatalf("Save: %v", err)
	}
	create(t, stale.Store, "new")
	wantUsage(t, stale, key, map[uint32]int{key.ID: 2})
}

func parentOf(t *testing.T, s credstore.Store, id string) credstore.Parent {
	t.Helper()
	state, err := s.Connections.Read(t.Context(), id)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	return state.Credential.Parent()
}

// TestReplacedKeyDoesNotComeBack: a replica with an older copy of the keyset
// must not drag the store back to the old primary key.
func TestReplacedKeyDoesNotComeBack(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	old := d.keys.Keys()[0]
	key := d.promote(t)
	rotate(t, s, false, sqlstore.RotationDone)
	if _, err := keyset.Promote(d.keysetPath(), old.Fingerprint); err != nil {
		t.Fatalf("Promote: %v", err)
	}
	replica := d.another(t)
	rotate(t, replica, false, sqlstore.RotationBehind)
	create(t, replica.Store, "acme")
	wantUsage(t, replica, key, map[uint32]int{key.ID: 1})

	rotate(t, replica, true, sqlstore.RotationDone) // by hand
	rotate(t, s, false, sqlstore.RotationCurrent)
	if got := reencrypt(t, s); got.Records != 1 {
		t.Errorf("Reencrypt after going back = %+v, want 1 record", got)
	}
	wantUsage(t, s, old, map[uint32]int{old.ID: 1})
}

// TestForeignKeysetFileIsIgnored: a keyset file that is replaced by a foreign one
// changes nothing.
func TestForeignKeysetFileIsIgnored(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	c := create(t, s.Store, "acme")
	old := d.keys.Keys()[0]
	other := filepath.Join(t.TempDir(), "other.json")
	openKeyset(t, other)
	if err := os.Rename(other, d.keysetPath()); err != nil {
		t.Fatalf("Rename: %v", err)
	}

	rotate(t, s, false, sqlstore.RotationKeyMissing)
	if _, err := s.Credentials.Save(t.Context(), successor(parentOf(t, s.Store, c.ID))); err != nil {
		t.Errorf("Save under the keyset that was taken away = %v, want nil", err)
	}
	wantUsage(t, s, old, map[uint32]int{old.ID: 1})
}

func TestRetireFailsWhileTheKeyIsInUse(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	create(t, s.Store, "acme")
	old := d.keys.Keys()[0]
	if err := s.Keys.Retire(t.Context(), old); !errors.Is(err, sqlstore.ErrKeyInUse) {
		t.Errorf("Retire of the key that the store names = %v, want %v", err, sqlstore.ErrKeyInUse)
	}
	d.promote(t)
	rotate(t, s, false, sqlstore.RotationDone)
	if err := s.Keys.Retire(t.Context(), old); !errors.Is(err, sqlstore.ErrKeyInUse) {
		t.Errorf("Retire of a key that records are encrypted with = %v, want %v", err, sqlstore.ErrKeyInUse)
	}
	reencrypt(t, s)
	if err := s.Keys.Retire(t.Context(), old); err != nil {
		t.Errorf("Retire of an unused key = %v, want nil", err)
	}
}

func TestReencryptYieldsToOtherWrites(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	connections := fillMixed(t, s, 70)
	key := d.promote(t)
	rotate(t, s, false, sqlstore.RotationDone)
	// At each pause a pair is saved, and that of another connection is rejected.
	saved, dropped := connections[67], connections[1]
	lease, err := s.Credentials.Acquire(t.Context(), dropped.ID, "me")
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	parent := parentOf(t, s.Store, dropped.ID)
	_, err = s.Keys.Reencrypt(t.Context(), func(ctx context.Context, _ time.Duration) error {
		_, err := s.Credentials.Save(ctx, successor(parentOf(t, s.Store, saved.ID)))
		return errors.Join(err, s.Credentials.MarkReauthorizationRequired(ctx, lease, parent, credstore.Failure{At: time.Now()}, credstore.ReasonRefreshTokenRejected, true))
	})
	if err != nil {
		t.Fatalf("Reencrypt: %v", err)
	}
	wantUsage(t, s, key, map[uint32]int{key.ID: 70})
	state := readAll(t, s.Store, connections)
	if c := state[saved.Name].Credential; c.Version < 2 || c.AccessToken.Reveal() != fmt.Sprintf("access-%d", c.Version) {
		t.Errorf("the pair saved meanwhile = version %d, %q, want the latest", c.Version, c.AccessToken.Reveal())
	}
	if c := state[dropped.Name].Credential; !c.AccessToken.IsZero() || c.RefreshToken.IsZero() {
		t.Error("the token dropped meanwhile is back, or the rejected one gone")
	}
}

func TestReencryptStopsAndContinues(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	connections := fillMixed(t, s, 40)
	old := d.keys.Keys()[0]
	key := d.promote(t)
	rotate(t, s, false, sqlstore.RotationDone)
	enough := errors.New("enough")
	got, err := s.Keys.Reencrypt(t.Context(), func(context.Context, time.Duration) error { return enough })
	if !errors.Is(err, enough) || got.Records == 0 || got.Records == 40 {
		t.Fatalf("Reencrypt that is stopped = %+v, %v, want a part of the records and %v", got, err, enough)
	}
	wantUsage(t, s, key, map[uint32]int{key.ID: got.Records, old.ID: 40 - got.Records})
	readAll(t, d.another(t).Store, connections)
	if rest := reencrypt(t, s); got.Records+rest.Records != 40 {
		t.Errorf("Reencrypt again = %d records after %d, want 40 in all", rest.Records, got.Records)
	}
}

// damage changes the database behind the store's back.
func damage(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatalf("opening the database: %v", err)
	}
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Errorf("damaging the database: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatalf("closing the database: %v", err)
	}
}

func TestReencryptSkipsUndecryptableRecords(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	fillMixed(t, s, 10)
	d.promote(t)
	rotate(t, s, false, sqlstore.RotationDone)
	damage(t, d.path, `UPDATE credentials SET refresh_token = substr(refresh_token, 1, 20)
		WHERE connection = (SELECT number FROM connections WHERE name = 'oauth-1')`)
	if got := reencrypt(t, s); got != (sqlstore.Reencryption{Records: 9, Undecryptable: 1}) {
		t.Errorf("Reencrypt = %+v, want 9 records and 1 that cannot be decrypted", got)
	}
	if done, err := s.Keys.Reencrypted(t.Context()); err != nil || done {
		t.Errorf("Reencrypted with a record left = %v, %v, want false", done, err)
	}
}

// TestReencryptIncludesLinksAndConsents: links and attempts to get consent go on under
// the new key alone.
func TestReencryptIncludesLinksAndConsents(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	var connections []credstore.Connection
	var links []credstore.Secret
	for i := range 40 {
		c, err := s.Connections.Create(t.Context(), credstore.NewConnection{Name: fmt.Sprintf("c-%d", i), Kind: credstore.OAuth})
		if err != nil {
			t.Fatalf("Create: %v", err)
		}
		connections, links = append(connections, c), append(links, beginConsent(t, s.Store, c))
	}
	old := d.keys.Keys()[0]
	wantUsage(t, s, old, map[uint32]int{old.ID: 40})
	key := d.promote(t)
	rotate(t, s, false, sqlstore.RotationDone)
	if err := s.Keys.Retire(t.Context(), old); !errors.Is(err, sqlstore.ErrKeyInUse) {
		t.Errorf("Retire of a key that links are encrypted with = %v, want %v", err, sqlstore.ErrKeyInUse)
	}
	if got := reencrypt(t, s); got != (sqlstore.Reencryption{Records: 120}) {
		t.Errorf("Reencrypt = %+v, want a link's token, and a consent's link and verifier, of 40", got)
	}
	wantUsage(t, s, key, map[uint32]int{key.ID: 40})
	if err := s.Keys.Retire(t.Context(), old); err != nil {
		t.Fatalf("Retire: %v", err)
	}
	if err := keyset.Retire(d.keysetPath(), old.Fingerprint, func() error { return nil }); err != nil {
		t.Fatalf("RetireKey: %v", err)
	}
	after := d.another(t)
	for i, c := range connections {
		link, _, err := after.Links.OpenLink(t.Context(), c.ID, credstore.LinkRequest{TTL: time.Hour})
		if err != nil || !link.Equal(links[i]) {
			t.Fatalf("OpenLink under the new key alone = another link, %v, want the one from before", err)
		}
		got, err := after.Links.TakeConsent(t.Context(), credstore.NewSecret("state of "+c.Name), []byte("browser"))
		if err != nil || !got.Link.Equal(links[i]) || got.Verifier.Reveal() != "verifier of "+c.Name {
			t.Fatalf("TakeConsent under the new key alone = %+v, %v, want what was begun", got, err)
		}
	}
}

// beginConsent opens a link, begins a consent by it and returns its token.
func beginConsent(t *testing.T, s credstore.Store, c credstore.Connection) credstore.Secret {
	t.Helper()
	link, _, err := s.Links.OpenLink(t.Context(), c.ID, credstore.LinkRequest{TTL: time.Hour})
	if err != nil {
		t.Fatalf("OpenLink: %v", err)
	}
	err = s.Links.BeginConsent(t.Context(), credstore.Consent{
		State: credstore.NewSecret("state of " + c.Name), Link: link,
		Verifier: credstore.NewSecret("verifier of " + c.Name), Browser: []byte("browser"),
	})
	if err != nil {
		t.Fatalf("BeginConsent: %v", err)
	}
	return link
}

// TestReencryptSkipsEndedLinks: a link or consent that was spent during the
// re-encryption stays so.
func TestReencryptSkipsEndedLinks(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	c := create(t, s.Store, "acme")
	first := beginConsent(t, s.Store, c)
	key := d.promote(t)
	rotate(t, s, false, sqlstore.RotationDone)
	ended := false
	_, err := s.Keys.Reencrypt(t.Context(), func(ctx context.Context, _ time.Duration) error {
		if ended {
			return nil
		}
		ended = true
		if _, err := s.Links.TakeConsent(ctx, credstore.NewSecret("state of acme"), []byte("browser")); err != nil {
			return err
		}
		_, _, err := s.Links.OpenLink(ctx, c.ID, credstore.LinkRequest{TTL: time.Hour, ReplaceExisting: true})
		return err
	})
	if err != nil {
		t.Fatalf("Reencrypt: %v", err)
	}
	if _, err := s.Links.FindLink(t.Context(), first); !errors.Is(err, credstore.ErrLinkExpired) {
		t.Errorf("FindLink of a link that was ended meanwhile = %v, want %v", err, credstore.ErrLinkExpired)
	}
	if _, err := s.Links.TakeConsent(t.Context(), credstore.NewSecret("state of acme"), []byte("browser")); !errors.Is(err, credstore.ErrNotFound) {
		t.Errorf("TakeConsent once more = %v, want %v", err, credstore.ErrNotFound)
	}
	wantUsage(t, s, key, map[uint32]int{key.ID: 1})
}

// TestUndecryptableLinkIsReplaced: a damaged link does not keep a customer from
// connecting.
func TestUndecryptableLinkIsReplaced(t *testing.T) {
	d := newDirectory(t)
	s := d.open(t)
	c, other := create(t, s.Store, "acme"), create(t, s.Store, "other")
	was, others := beginConsent(t, s.Store, c), beginConsent(t, s.Store, other)
	for name, statement := range map[string]string{
		"damaged":               `UPDATE links SET token = substr(token, 1, 20)`,
		"of another connection": `UPDATE links SET token = (SELECT token FROM links ORDER BY connection DESC LIMIT 1) WHERE connection = 1`,
	} {
		damage(t, d.path, statement)
		link, _, err := s.Links.OpenLink(t.Context(), c.ID, credstore.LinkRequest{TTL: time.Hour})
		if err != nil || link.Equal(was) || link.Equal(others) {
			t.Errorf("OpenLink where the link is %s = the old one or %v, want a new one", name, err)
		}
		was = link
	}
}
