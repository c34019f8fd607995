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

// watch starts a watcher that ends with the test, and returns what it reports.
func watch(t *testing.T, s credstore.Store) <-chan []string {
	t.Helper()
	reports, done := make(chan []string, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- s.Watch(ctx, func(ids []string) { reports <- slices.Clone(ids) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v, want %v", err, context.Canceled)
		}
	})
	return reports
}

// await fails the test unless the id is reported within a second.
func await(t *testing.T, what string, reports <-chan []string, id string) {
	t.Helper()
	timeout := time.After(time.Second)
	for {
		select {
		case ids := <-reports:
			if slices.Contains(ids, id) {
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
	await(t, "what was created between Open and Watch", reports, before.ID)

	c := create(t, other, pair("acme"))
	await(t, "a creation", reports, c.ID)
	save(t, other, next(parentOf(t, other, c.ID), "2"))
	await(t, "a save", reports, c.ID)
	setBack(t, other, c.ID, setback(false))
	await(t, "a setback", reports, c.ID)
	condemn(t, other, parentOf(t, other, c.ID), false)
	await(t, "a condemnation", reports, c.ID)
	if err := other.Identify(t.Context(), c.ID, credstore.Company{ID: "c-1"}); err != nil {
		t.Fatalf("Identify: %v", err)
	}
	await(t, "a company", reports, c.ID)
	if err := other.Remove(t.Context(), c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	await(t, "a removal", reports, c.ID)
}

func testWatchOwn(t *testing.T, data Data) {
	s := data.Open(t)
	reports := watch(t, s)
	c := create(t, s, pair("acme"))
	await(t, "an own creation", reports, c.ID)
	save(t, s, next(parentOf(t, s, c.ID), "2"))
	await(t, "an own save", reports, c.ID)
}

func testWatchEnds(t *testing.T, data Data) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := data.Open(t).Watch(ctx, func([]string) {})
	wantErr(t, "Watch with an ended context", err, context.Canceled)

	s := data.Open(t)
	done := make(chan error, 1)
	go func() { done <- s.Watch(t.Context(), func([]string) {}) }()
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
			t.Errorf("%q stands in the store's data", plain)
		}
	}
	if !bytes.Contains(dump, []byte("acme")) {
		t.Error("the dump does not hold the connection's name: it is not of the store's data")
	}
}
