package credstoretest

import (
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func requestRefresh(t *testing.T, s Store, id string) {
	t.Helper()
	if err := s.Credentials.RequestRefresh(t.Context(), id, start()); err != nil {
		t.Fatalf("RequestRefresh(%q): %v", id, err)
	}
}

func testRequestRefresh(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c := create(t, s, pair("acme"))
	reports := watch(t, other)
	await(t, "the creation", reports, c.ID)
	want := read(t, s, c.ID)
	requestRefresh(t, s, c.ID)
	await(t, "the request", reports, c.ID)
	want.RequestedAt = start()
	got := read(t, other, c.ID)
	if got.RequestedAt.IsZero() || got.RequestedAt.After(want.RequestedAt) {
		t.Errorf("RequestedAt = %v, want about %v", got.RequestedAt, want.RequestedAt)
	}
	want.RequestedAt = got.RequestedAt
	wantSame(t, "the state", got, want)
	wantErr(t, "RequestRefresh of an unknown id", s.Credentials.RequestRefresh(t.Context(), "nothing", start()), credstore.ErrNotFound)
}

func testRequestSettled(t *testing.T, data Data) {
	s := data.Open(t)
	f := failure(false)
	for _, test := range []struct {
		name   string
		settle func(l credstore.Lease, parent credstore.Parent) error
		want   bool // whether the request is still there
	}{
		{"save", func(_ credstore.Lease, parent credstore.Parent) error {
			_, err := s.Credentials.Save(t.Context(), next(parent, "2"))
			return err
		}, false},
		{"failure", func(l credstore.Lease, parent credstore.Parent) error {
			return s.Credentials.CancelIntent(t.Context(), l, parent, &f)
		}, false},
		{"unknown-outcome", func(l credstore.Lease, parent credstore.Parent) error {
			return s.Credentials.MarkOutcomeUnknown(t.Context(), l, parent, f)
		}, false},
		{"rejection", func(l credstore.Lease, parent credstore.Parent) error {
			return s.Credentials.MarkReauthorizationRequired(t.Context(), l, parent, f.Failure, f.Reason, false)
		}, false},
		{"cancellation", func(l credstore.Lease, parent credstore.Parent) error {
			return s.Credentials.CancelIntent(t.Context(), l, parent, nil)
		}, true},
	} {
		c := create(t, s, pair(test.name))
		requestRefresh(t, s, c.ID)
		l := acquire(t, s, c.ID, "me")
		parent := parentOf(t, s, c.ID)
		recordIntent(t, s, l, parent)
		if err := test.settle(l, parent); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		release(t, l)
		if got := !read(t, s, c.ID).RequestedAt.IsZero(); got != test.want {
			t.Errorf("refresh still requested after %s = %v, want %v", test.name, got, test.want)
		}
	}
}

func testRetryRejected(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), true)
	reports := watch(t, data.Open(t))
	if err := s.Credentials.RetryRejected(t.Context(), c.ID, start()); err != nil {
		t.Fatalf("RetryRejected: %v", err)
	}
	await(t, "the retry", reports, c.ID)
	got := read(t, s, c.ID)
	if got.Connection.Status != credstore.Degraded || got.Connection.Reason != credstore.ReasonRetryRequested || got.RequestedAt.IsZero() {
		t.Errorf("state = %+v, want degraded (%s) with a request", got, credstore.ReasonRetryRequested)
	}
	if !got.Credential.RejectedAt.IsZero() || got.Credential.RefreshToken.IsZero() || got.Connection.LastError == nil {
		t.Errorf("state = %+v, want the token without RejectedAt, and the last error", got)
	}
	due, err := s.Credentials.Due(t.Context(), start().Add(1e12), 10)
	if err != nil || len(due) != 1 {
		t.Errorf("Due = %v, %v, want the connection", due, err)
	}
}

func testRetryNotRejected(t *testing.T, data Data) {
	s := data.Open(t)
	apiKey, tokens := create(t, s, key("legacy")), create(t, s, pair("works"))
	requireReauthorization(t, s, parentOf(t, s, apiKey.ID), false)
	for _, c := range []credstore.Connection{apiKey, tokens} {
		want := read(t, s, c.ID)
		wantErr(t, "RetryRejected of "+c.Name, s.Credentials.RetryRejected(t.Context(), c.ID, start()), credstore.ErrNotRejected)
		wantSame(t, "the state", read(t, s, c.ID), want)
	}
	wantErr(t, "RetryRejected of an unknown id", s.Credentials.RetryRejected(t.Context(), "nothing", start()), credstore.ErrNotFound)
}

func testReinstate(t *testing.T, data Data) {
	s := data.Open(t)
	for _, n := range []credstore.NewConnection{pair("acme"), key("legacy")} {
		c := create(t, s, n)
		want := read(t, s, c.ID)
		parent := want.Credential.Parent()
		requireReauthorization(t, s, parent, false)
		l := acquire(t, s, c.ID, "me")
		for range 2 { // as after a lost response to COMMIT
			if err := s.Credentials.Reinstate(t.Context(), l, parent); err != nil {
				t.Fatalf("Reinstate: %v", err)
			}
		}
		wantSame(t, "the state", read(t, s, c.ID), want)
		parent.Version++
		wantErr(t, "Reinstate of another version", s.Credentials.Reinstate(t.Context(), l, parent), credstore.ErrSuperseded)
		release(t, l)
		wantErr(t, "Reinstate without a lease", s.Credentials.Reinstate(t.Context(), l, want.Credential.Parent()), credstore.ErrLeaseLost)
	}
}

func stage(t *testing.T, s Store, id, value string) {
	t.Helper()
	if err := s.Connections.StageKey(t.Context(), id, secret(value), time.Time{}); err != nil {
		t.Fatalf("StageKey(%q): %v", id, err)
	}
}

func testPromoteKey(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, key("legacy"))
	want := read(t, s, c.ID)
	stage(t, s, c.ID, "first")
	stage(t, s, c.ID, "second")
	want.Credential.NextKey = secret("second")
	wantSame(t, "the state with a staged key", read(t, s, c.ID), want)

	parent := want.Credential.Parent()
	requireReauthorization(t, s, parent, false)
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	promoted, err := s.Credentials.PromoteKey(t.Context(), l, parent)
	if err != nil {
		t.Fatalf("PromoteKey: %v", err)
	}
	want.Connection.Version, want.Credential.Version = 2, 2
	want.Credential.APIKey, want.Credential.NextKey = secret("second"), credstore.Secret{}
	wantSame(t, "PromoteKey", promoted, want.Connection)
	wantSame(t, "the state in another process", read(t, data.Open(t), c.ID), want)
	_, err = s.Credentials.PromoteKey(t.Context(), l, parent)
	wantErr(t, "PromoteKey of the version before", err, credstore.ErrSuperseded)
}

func testPromoteNothing(t *testing.T, data Data) {
	s := data.Open(t)
	c, tokens := create(t, s, key("legacy")), create(t, s, pair("acme"))
	want := read(t, s, c.ID)
	l := acquire(t, s, c.ID, "me")
	_, err := s.Credentials.PromoteKey(t.Context(), l, want.Credential.Parent())
	wantErr(t, "PromoteKey with none staged", err, credstore.ErrSuperseded)
	wantSame(t, "the state", read(t, s, c.ID), want)

	stage(t, s, c.ID, "next")
	release(t, l)
	_, err = s.Credentials.PromoteKey(t.Context(), l, want.Credential.Parent())
	wantErr(t, "PromoteKey without a lease", err, credstore.ErrLeaseLost)
	wantErr(t, "StageKey of an unknown id", s.Connections.StageKey(t.Context(), "nothing", secret("k"), time.Time{}), credstore.ErrNotFound)
	if s.Connections.StageKey(t.Context(), tokens.ID, secret("k"), time.Time{}) == nil || s.Connections.StageKey(t.Context(), c.ID, credstore.Secret{}, time.Time{}) == nil {
		t.Error("StageKey on a token pair, or of an empty key = nil, want an error")
	}
}
