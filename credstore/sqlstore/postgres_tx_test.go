package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

// relayed opens a store through a relay that can fail, and one beside it.
func relayed(t *testing.T) (s, direct *Store, relay *postgrestest.Relay) {
	t.Helper()
	dsn, keys := Server.Schema(t), newKeyset(t)
	relay, err := postgrestest.NewRelay(t.Context(), postgrestest.Address(t, dsn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	return openPostgresStore(t, relay.DSN(t, dsn), keys), openPostgresStore(t, dsn, keys), relay
}

func mustRead(t *testing.T, s *Store, id string) credstore.State {
	t.Helper()
	state, err := s.Connections.Read(t.Context(), id)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	return state
}

func nextPair(parent credstore.Parent) credstore.Successor {
	version := fmt.Sprint(parent.Version + 1)
	return credstore.Successor{
		Parent: parent, AccessToken: credstore.NewSecret("access-" + version),
		RefreshToken: credstore.NewSecret("refresh-" + version), ObtainedAt: time.Now(),
	}
}

// TestPostgresCommitWithoutResponse: the outcome of a COMMIT whose response was lost is
// found out.
func TestPostgresCommitWithoutResponse(t *testing.T) {
	s, direct, relay := relayed(t)
	c := mustCreate(t, s, newOAuth("acme"))
	parent := mustRead(t, s, c.ID).Credential.Parent()

	var lost atomic.Int32
	relay.LoseResponse(func(sent []byte) bool { return postgrestest.Commits(sent) && lost.Add(1) == 1 })
	saved, err := s.Credentials.Save(t.Context(), nextPair(parent))
	if err != nil || saved.Version != 2 {
		t.Errorf("Save whose response to COMMIT was lost = version %d, %v, want 2", saved.Version, err)
	}
	lost.Store(0)
	if _, err := s.Connections.Create(t.Context(), newOAuth("other")); err != nil {
		t.Errorf("Create whose response to COMMIT was lost = %v, want nil", err)
	}
	if n := lost.Load(); n < 1 {
		t.Error("no response was lost")
	}
	if got := mustRead(t, direct, c.ID).Connection.Version; got != 2 {
		t.Errorf("version = %d, want 2", got)
	}

	// Nor can it be asked what has become of it: then it is for the caller to save
	// again, which is no error.
	parent = mustRead(t, direct, c.ID).Credential.Parent()
	relay.LoseResponse(func(sent []byte) bool {
		return postgrestest.Commits(sent) || bytes.Contains(sent, []byte("pg_xact_status"))
	})
	n := nextPair(parent)
	if _, err := s.Credentials.Save(t.Context(), n); !errors.Is(err, credstore.ErrUnavailable) {
		t.Errorf("Save with an unknown outcome = %v, want %v", err, credstore.ErrUnavailable)
	}
	relay.LoseResponse(nil)
	if saved, err := s.Credentials.Save(t.Context(), n); err != nil || saved.Version != 3 {
		t.Errorf("Save once more = version %d, %v, want 3", saved.Version, err)
	}
}

// TestPostgresWritesAreDurable: whatever the server's default is.
func TestPostgresWritesAreDurable(t *testing.T) {
	for _, test := range []struct{ set, want string }{
		{"off", "on"}, {"local", "on"}, {"remote_write", "on"}, {"on", "on"}, {"remote_apply", "remote_apply"},
	} {
		t.Run(test.set, func(t *testing.T) {
			dsn := postgrestest.With(t, Server.Schema(t), "synchronous_commit", test.set)
			s := openPostgresStore(t, dsn, newKeyset(t))
			var got string
			err := s.db.write(t.Context(), "looking", func(tx *sql.Tx) error {
				return tx.QueryRowContext(t.Context(), `SHOW synchronous_commit`).Scan(&got)
			})
			if err != nil || got != test.want {
				t.Errorf("synchronous_commit of a write = %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

// TestPostgresConflictsAtOnce: of many who want one name, company or refresh token
// at the same moment, one gets it, and the others hear who has it.
func TestPostgresConflictsAtOnce(t *testing.T) {
	for _, test := range []struct {
		name  string
		claim func(i int, n *credstore.NewConnection)
		want  error
	}{
		{"name", func(_ int, n *credstore.NewConnection) { n.Name = "Acme" }, credstore.ErrNameTaken},
		{"name but for case", func(i int, n *credstore.NewConnection) {
			n.Name = []string{"acme", "ACME", "Acme"}[i%3]
		}, credstore.ErrNameTaken},
		{"company", func(_ int, n *credstore.NewConnection) { n.Company.ID = "c-1" }, credstore.ErrCompanyBound},
		{"refresh token", func(_ int, n *credstore.NewConnection) {
			n.Credential.RefreshToken = credstore.NewSecret("the same")
		}, credstore.ErrTokenTaken},
	} {
		t.Run(test.name, func(t *testing.T) {
			dsn, keys := Server.Schema(t), newKeyset(t)
			stores := []*Store{openPostgresStore(t, dsn, keys), openPostgresStore(t, dsn, keys)}
			var made atomic.Int32
			var wg sync.WaitGroup
			for i := range 12 {
				n := newOAuth(fmt.Sprint("c-", i))
				test.claim(i, &n)
				wg.Go(func() {
					_, err := stores[i%2].Connections.Create(t.Context(), n)
					var conflict *credstore.ConflictError
					switch {
					case err == nil:
						made.Add(1)
					case !errors.Is(err, test.want) || !errors.As(err, &conflict) || conflict.With == "":
						t.Errorf("Create = %v, want a conflict of %v", err, test.want)
					}
				})
			}
			wg.Wait()
			if n := made.Load(); n != 1 {
				t.Errorf("%d were created, want one", n)
			}
		})
	}
}

// TestPostgresAcceptsInvalidText: what PostgreSQL does not store must not keep a token
// pair from being saved.
func TestPostgresAcceptsInvalidText(t *testing.T) {
	s := openPostgresStore(t, Server.Schema(t), newKeyset(t))
	c := mustCreate(t, s, newOAuth("acme"))
	n := nextPair(mustRead(t, s, c.ID).Credential.Parent())
	n.Scope = "users\x00:read \xff"
	saved, err := s.Credentials.Save(t.Context(), n)
	if err != nil || saved.Scope != "users:read \uFFFD" {
		t.Errorf("Save with NUL and bytes that are no text = scope %q, %v, want it without them", saved.Scope, err)
	}
}

// TestPostgresPausedTransactionIsEnded: a process that is stopped in the
// middle of a transaction keeps others waiting for seconds at most.
func TestPostgresPausedTransactionIsEnded(t *testing.T) {
	dsn, keys := Server.Schema(t), newKeyset(t)
	s, other := openPostgresStore(t, dsn, keys), openPostgresStore(t, dsn, keys)
	c := mustCreate(t, s, newOAuth("acme"))
	parent := mustRead(t, s, c.ID).Credential.Parent()
	end := make(chan struct{})
	inside, paused := make(chan struct{}), make(chan error, 1)
	go func() {
		paused <- s.db.transact(context.Background(), "pausing", c.ID, func(tx *sql.Tx) error {
			close(inside)
			<-end
			_, err := tx.ExecContext(context.Background(), `UPDATE connections SET scope = 'too late' WHERE id = $1`, c.ID)
			return err
		})
	}()
	<-inside
	began := time.Now()
	if _, err := other.Credentials.Save(t.Context(), nextPair(parent)); err != nil {
		t.Errorf("Save beside a process that is paused = %v, want nil", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Save took %v, want 10 s at most", took)
	}
	close(end)
	if err := <-paused; !errors.Is(err, credstore.ErrUnavailable) {
		t.Errorf("the transaction that was paused = %v, want %v", err, credstore.ErrUnavailable)
	}
	if state := mustRead(t, other, c.ID); state.Connection.Version != 2 || strings.Contains(state.Connection.Scope, "late") {
		t.Errorf("afterwards: version %d, scope %q, want what was saved alone", state.Connection.Version, state.Connection.Scope)
	}
}

// TestPostgresRotateWaitsForWriters: once the store names another key, nothing is
// written with the old one.
func TestPostgresRotateWaitsForWriters(t *testing.T) {
	dsn, keys := Server.Schema(t), newKeyset(t)
	s, other := openPostgresStore(t, dsn, keys), openPostgresStore(t, dsn, keys)
	c := mustCreate(t, s, newOAuth("acme"))
	encrypted, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.db.transact(context.Background(), "encrypting", c.ID, func(tx *sql.Tx) error {
			_, err := s.db.encrypt(context.Background(), tx, c.ID, namedSecret{columnAccessToken, credstore.NewSecret("x")})
			close(encrypted)
			<-release
			return err
		})
	}()
	<-encrypted
	moved := make(chan error, 1)
	go func() {
		_, err := writer(other).ExecContext(context.Background(), `UPDATE store SET key_fingerprint = 'another'`)
		moved <- err
	}()
	select {
	case err := <-moved:
		t.Errorf("the store moved to the new key (%v) during a write with the old one", err)
	case <-time.After(300 * time.Millisecond):
	}
	close(release)
	if err := errors.Join(<-done, <-moved); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
