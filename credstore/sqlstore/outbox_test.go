package sqlstore_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// TestDeliveryHoldsConnectionSnapshot: a late or repeated delivery has the connection
// as it was after the event.
func TestDeliveryHoldsConnectionSnapshot(t *testing.T) {
	s, ctx := newDirectory(t).open(t), t.Context()
	if _, err := s.Outbox.Subscribe(ctx, []credstore.Subscription{{Name: "books", Types: credstore.PublicEvents()}}); err != nil {
		t.Fatal(err)
	}
	c, err := s.Connections.Create(ctx, credstore.NewConnection{
		Name: "acme", Kind: credstore.StandaloneKey, ExternalTenant: "4711",
		Company:    credstore.Company{ID: "8f14e45f-ceea-467f-a0e6-1d9c0c2b7a11", Name: "Acme", Subject: "urn:pleo:company:8f14e45f-ceea-467f-a0e6-1d9c0c2b7a11"},
		Credential: &credstore.NewCredential{APIKey: credstore.NewSecret("canary"), ExpiresAt: time.Now().UTC().Truncate(time.Second).Add(time.Hour)},
	})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := s.Credentials.Acquire(ctx, c.ID, "test")
	if err != nil {
		t.Fatal(err)
	}
	state, err := s.Connections.Read(ctx, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	rejected := credstore.Failure{Code: "key_rejected", Message: "the API rejected the key with status 401", At: time.Now().UTC().Truncate(time.Second)}
	if err := s.Credentials.MarkReauthorizationRequired(ctx, lease, state.Parent(), rejected, credstore.ReasonKeyRejected, false); err != nil {
		t.Fatal(err)
	}
	wantDelivery := func(event credstore.EventType, was credstore.Connection) {
		t.Helper()
		claimed, err := s.Outbox.ClaimDeliveries(ctx, "books", "test", time.Now(), time.Minute, 10)
		if err != nil || len(claimed) != 1 {
			t.Fatalf("ClaimDeliveries = %+v, %v, want one", claimed, err)
		}
		if d := claimed[0]; d.Event.Type != event || !cmp.Equal(d.Connection, was) {
			t.Errorf("delivery of %s, want of %s, about (-want +got):\n%s", d.Event.Type, event, cmp.Diff(was, d.Connection))
		}
		if err := s.Outbox.MarkDelivered(ctx, claimed[0].ID); err != nil {
			t.Fatal(err)
		}
	}
	find := func() credstore.Connection {
		t.Helper()
		found, err := s.Connections.Find(ctx, "acme")
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	needsPerson := find()
	wantDelivery(credstore.EventReauthorizationRequired, needsPerson)
	if err := s.Credentials.Reinstate(ctx, lease, state.Parent()); err != nil {
		t.Fatal(err)
	}
	reinstated := find()
	if err := s.Connections.Remove(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	wantDelivery(credstore.EventRecovered, reinstated)
	wantDelivery(credstore.EventRemoved, reinstated)
}
