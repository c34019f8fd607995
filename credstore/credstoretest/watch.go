package credstoretest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// watch starts a watcher that runs until the test ends, and returns its reports.
func watch(t *testing.T, s Store) <-chan []credstore.Change {
	t.Helper()
	reports, done := make(chan []credstore.Change, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- s.Changes.Watch(ctx, func(found []credstore.Change) { reports <- found }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v, want %v", err, context.Canceled)
		}
	})
	return reports
}

// await fails the test unless the id is reported within a second.
func await(t *testing.T, what string, reports <-chan []credstore.Change, id string) {
	t.Helper()
	timeout := time.After(time.Second)
	for {
		select {
		case found := <-reports:
			if slices.ContainsFunc(found, func(c credstore.Change) bool { return c.ID == id }) {
				return
			}
		case <-timeout:
			t.Fatalf("%s was not reported within a second", what)
		}
	}
}

func testWatch(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	before := create(t, other, pair("before"))
	reports := watch(t, s)
	await(t, "a creation between Open and Watch", reports, before.ID)

	c := create(t, other, pair("acme"))
	await(t, "the creation", reports, c.ID)
	save(t, other, next(parentOf(t, other, c.ID), "2"))
	await(t, "the save", reports, c.ID)
	recordFailure(t, other, c.ID, failure(false))
	await(t, "the failure", reports, c.ID)
	requireReauthorization(t, other, parentOf(t, other, c.ID), false)
	await(t, "the rejection", reports, c.ID)
	if err := other.Connections.SetCompany(t.Context(), c.ID, credstore.Company{ID: "c-1"}); err != nil {
		t.Fatalf("SetCompany: %v", err)
	}
	await(t, "the company", reports, c.ID)
	if err := other.Connections.Remove(t.Context(), c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	await(t, "the removal", reports, c.ID)
}

func testWatchOwn(t *testing.T, data Data) {
	s := data.Open(t)
	reports := watch(t, s)
	c := create(t, s, pair("acme"))
	await(t, "its own creation", reports, c.ID)
	save(t, s, next(parentOf(t, s, c.ID), "2"))
	await(t, "its own save", reports, c.ID)
}

// testWatchRequests checks that a watcher can tell the change that requests a refresh
// from every other change, without reading the connection.
func testWatchRequests(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	c := create(t, other, pair("acme"))
	reports := watch(t, s)
	parent := parentOf(t, other, c.ID)
	for _, test := range []struct {
		name   string
		change func() error
		want   bool
	}{
		{"creation", nil, false},
		{"request", func() error { return other.Credentials.RequestRefresh(t.Context(), c.ID, start()) }, true},
		{"save", func() error { _, err := other.Credentials.Save(t.Context(), next(parent, "2")); return err }, false},
	} {
		if test.change != nil {
			if err := test.change(); err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
		}
		awaitChange(t, test.name, reports, credstore.Change{ID: c.ID, RefreshRequested: test.want})
	}
}

// awaitChange fails the test unless exactly this change is reported within a second.
func awaitChange(t *testing.T, what string, reports <-chan []credstore.Change, want credstore.Change) {
	t.Helper()
	timeout := time.After(time.Second)
	for {
		select {
		case found := <-reports:
			if slices.Contains(found, want) {
				return
			}
		case <-timeout:
			t.Fatalf("%s: %+v was not reported within a second", what, want)
		}
	}
}

func testWatchEnds(t *testing.T, data Data) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := data.Open(t).Changes.Watch(ctx, func([]credstore.Change) {})
	wantErr(t, "Watch with a canceled context", err, context.Canceled)

	s := data.Open(t)
	done := make(chan error, 1)
	go func() { done <- s.Changes.Watch(t.Context(), func([]credstore.Change) {}) }()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if err := <-done; err == nil {
		t.Error("Watch of a closed store = nil, want an error")
	}
}

func testSecrets(t *testing.T, data Data) {
	s := data.Open(t)
	planted := []string{"planted-access", "planted-refresh", "planted-key", "planted-second-access", "planted-second-refresh"}
	n, k := pair("acme"), key("legacy")
	n.Credential.AccessToken, n.Credential.RefreshToken = secret(planted[0]), secret(planted[1])
	k.Credential.APIKey = secret(planted[2])
	c := create(t, s, n)
	create(t, s, k)
	successor := next(parentOf(t, s, c.ID), "")
	successor.AccessToken, successor.RefreshToken = secret(planted[3]), secret(planted[4])
	save(t, s, successor)

	dump := data.Dump(t)
	for _, plain := range planted {
		if bytes.Contains(dump, []byte(plain)) {
			t.Errorf("%q is in the data of the store in plain text", plain)
		}
	}
	if !bytes.Contains(dump, []byte("acme")) {
		t.Error("the dump does not contain the name of the connection, so it is not the data of the store")
	}
}
