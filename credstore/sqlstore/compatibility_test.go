package sqlstore

import (
	"cmp"
	"compress/gzip"
	"database/sql"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/postgrestest"
)

// openFixture opens a copy of the store of testdata/v0-4c88458, at the time when it
// was written: later its rejected refresh tokens would be pruned.
func openFixture(t *testing.T) *Store {
	t.Helper()
	const dir = "testdata/v0-4c88458"
	compressed, err := os.Open(filepath.Join(dir, "store.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer compressed.Close()
	content, err := gzip.NewReader(compressed)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "store.db")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(file, content); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	keys, err := keyset.Open(filepath.Join(dir, "keyset.json"))
	if err != nil {
		t.Fatalf("keyset.Open: %v", err)
	}
	s, err := Open(t.Context(), Config{
		Path: path, Keyset: keys, Now: func() time.Time { return time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC) },
		Binding: credstore.Binding{Environment: "staging", AuthURL: "https://auth.example.com", ClientID: "client"},
	})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestStoreOf4c88458 opens a store that an earlier program wrote: every connection
// is there, with the present reasons and codes, and every secret can be decrypted.
func TestStoreOf4c88458(t *testing.T) {
	s := openFixture(t)
	page, err := s.Connections.List(t.Context(), credstore.Query{})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	got := map[string]string{} // name → status, reason, code and secrets
	for _, c := range page.Connections {
		state, err := s.Connections.Read(t.Context(), c.ID)
		if err != nil {
			t.Fatalf("Read(%q): %v", c.Name, err)
		}
		got[c.Name] = describe(state)
	}
	want := map[string]string{
		"active":                  "active, access of active, version 2, refresh of active, version 2",
		"refresh_refused":         "reauthorization_required refresh_token_rejected refresh_token_rejected, access of refresh_refused, refresh of refresh_refused",
		"refresh_outcome_unknown": "reauthorization_required refresh_outcome_unknown refresh_token_rejected, access of refresh_outcome_unknown, refresh of refresh_outcome_unknown",
		"refresh_token_inactive":  "reauthorization_required refresh_token_inactive refresh_token_inactive, access of refresh_token_inactive, refresh of refresh_token_inactive",
		"refresh_answer_unusual":  "reauthorization_required unexpected_response unexpected_response, access of refresh_answer_unusual, refresh of refresh_answer_unusual",
		"client":                  "degraded oauth_client_rejected oauth_client_rejected, access of client, refresh of client",
		"mass":                    "degraded circuit_breaker_open circuit_breaker_open, access of mass, refresh of mass",
		"unusual":                 "degraded refresh_unavailable unexpected_response, access of unusual, refresh of unusual",
		"key":                     "reauthorization_required key_rejected key_rejected, key of key",
		"disabled":                "disabled operator key_rejected, key of disabled, next key of disabled",
		"pending":                 "pending no_credential",
		"orphaned":                "active, access of orphaned, refresh of orphaned, intent of fixture",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("connections (-want +got):\n%s", diff)
	}
}

func describe(s credstore.State) string {
	parts := []string{string(s.Connection.Status), s.Connection.Reason}
	if s.Connection.LastError != nil {
		parts = append(parts, s.Connection.LastError.Code)
	}
	parts = []string{strings.TrimSpace(strings.Join(parts, " "))}
	c := s.Credential
	for _, secret := range []credstore.Secret{c.AccessToken, c.RefreshToken, c.APIKey, c.NextKey} {
		if !secret.IsZero() {
			parts = append(parts, secret.Reveal())
		}
	}
	if s.Intent != nil {
		parts = append(parts, "intent of "+s.Intent.Owner)
	}
	return strings.Join(parts, ", ")
}

// TestStoreOf4c88458Enables checks the status under disabled, the history and the
// deliveries, which hold reasons and codes too.
func TestStoreOf4c88458Enables(t *testing.T) {
	s := openFixture(t)
	c, err := s.Connections.Find(t.Context(), "disabled")
	if err != nil {
		t.Fatalf("Find: %v", err)
	}
	page, err := s.History.Events(t.Context(), c.ID, "", 0)
	if err != nil {
		t.Fatalf("Events: %v", err)
	}
	alarm := slices.IndexFunc(page.Events, func(e credstore.Event) bool { return e.Type == credstore.EventReauthorizationRequired })
	if alarm < 0 || page.Events[alarm].Reason != credstore.ReasonKeyRejected || page.Events[alarm].Code != "key_rejected" {
		t.Errorf("history = %+v, want an alarm with the present reason and code", page.Events)
	}
	if err := s.Connections.Enable(t.Context(), c.ID); err != nil {
		t.Fatalf("Enable: %v", err)
	}
	if c, err = s.Connections.Find(t.Context(), "disabled"); err != nil || c.Reason != credstore.ReasonKeyRejected {
		t.Errorf("after Enable the reason is %q, %v, want %q", c.Reason, err, credstore.ReasonKeyRejected)
	}
	linked, err := s.Connections.Find(t.Context(), "pending")
	if err != nil {
		t.Fatalf("Find: %v", err)
	}
	if page, err = s.History.Events(t.Context(), linked.ID, "", 1); err != nil || page.Events[0].Type != credstore.EventLinkCreated {
		t.Errorf("history = %+v, %v, want %s", page.Events, err, credstore.EventLinkCreated)
	}
	wantDeliveries(t, s)
}

func wantDeliveries(t *testing.T, s *Store) {
	t.Helper()
	claimed, err := s.Outbox.ClaimDeliveries(t.Context(), "hook", "test", time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), time.Minute, 100)
	if err != nil {
		t.Fatalf("ClaimDeliveries: %v", err)
	}
	var got []string
	for _, d := range claimed {
		if d.Event.Type == credstore.EventReauthorizationRequired {
			got = append(got, d.Connection.Name+": "+d.Connection.Reason+" "+cmp.Or(d.Connection.LastError, &credstore.Failure{}).Code+" "+d.Event.Code)
		}
	}
	slices.Sort(got)
	want := []string{
		"disabled: key_rejected key_rejected key_rejected",
		"key: key_rejected key_rejected key_rejected",
		"refresh_answer_unusual: unexpected_response unexpected_response unexpected_response",
		"refresh_outcome_unknown: refresh_outcome_unknown refresh_token_rejected refresh_token_rejected",
		"refresh_refused: refresh_token_rejected refresh_token_rejected refresh_token_rejected",
		"refresh_token_inactive: refresh_token_inactive refresh_token_inactive refresh_token_inactive",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
}

// TestPostgresRenamesStoredReasons runs the same migration on PostgreSQL.
func TestPostgresRenamesStoredReasons(t *testing.T) {
	dsn := Server.Schema(t)
	for i := range postgresSchema()[:3] {
		db, err := sql.Open("pgx", dsn)
		if err != nil {
			t.Fatal(err)
		}
		err = migratePostgres(t.Context(), db, postgresSchema()[:i+1])
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatalf("migrating to version %d: %v", i+1, err)
		}
	}
	postgrestest.Exec(t, dsn, `
		INSERT INTO connections (id, name, folded_name, kind, status, reason, own_status, own_reason, error_code, error_at, search, created_at, refresh_hash)
			VALUES ('id', 'acme', 'acme', 'oauth', 'disabled', 'operator', 'degraded', 'mass_refusal', 'mass_refusal', 1, 'acme', 1, decode(repeat('00', 32), 'hex'));
		INSERT INTO events (number, id, connection_id, connection, frequent, type, at, actor, status, reason, version, code, message)
			VALUES (1, 'e', 'id', 'acme', 0, 'connection.link_made', 9000000000000, 'proxy', 'degraded', 'mass_refusal', 1, 'mass_refusal', '');
		INSERT INTO deliveries (subscription, event, connection_id, connection, due_at)
			VALUES ('hook', 1, 'id', '{"Name":"acme","Reason":"mass_refusal","LastError":{"Code":"key_refused"},"Unproven":true}', 1)`)
	s := openPostgresStore(t, dsn, newKeyset(t))
	if err := s.Connections.Enable(t.Context(), "id"); err != nil {
		t.Fatalf("Enable: %v", err)
	}
	c, err := s.Connections.Find(t.Context(), "acme")
	if err != nil || c.Reason != credstore.ReasonCircuitBreakerOpen || c.LastError.Code != "circuit_breaker_open" {
		t.Errorf("Find = %+v, %v, want the present reason and code", c, err)
	}
	claimed, err := s.Outbox.ClaimDeliveries(t.Context(), "hook", "test", time.Now(), time.Minute, 10)
	if err != nil || len(claimed) != 1 {
		t.Fatalf("ClaimDeliveries = %+v, %v, want one", claimed, err)
	}
	e, about := claimed[0].Event, claimed[0].Connection
	if e.Type != credstore.EventLinkCreated || e.Reason != credstore.ReasonCircuitBreakerOpen || e.Code != "circuit_breaker_open" {
		t.Errorf("event = %+v, want the present type, reason and code", e)
	}
	if about.Reason != credstore.ReasonCircuitBreakerOpen || about.LastError.Code != "key_rejected" || !about.CompanyUnverified {
		t.Errorf("connection = %+v, want the present reason, code and member", about)
	}
}
