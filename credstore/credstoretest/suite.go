// Package credstoretest checks that a store keeps its guarantees.
package credstoretest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Store is an open store.
type Store struct {
	credstore.Store
	Ping  func(context.Context) error // reads from the store
	Close func() error                // ends the leases
}

// Data is the data of a store, which outlives the processes that open it.
type Data interface {
	// Open opens the store as another process would, and closes it when the test
	// ends.
	Open(t *testing.T) Store
	// Dump returns everything that the stores have written, for example the
	// database files. It may close the stores: the test does not use them any more.
	Dump(t *testing.T) []byte
}

// TestStore runs the suite. fresh returns an empty Data for each test.
func TestStore(t *testing.T, fresh func(t *testing.T) Data) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Data)
	}{
		{"create and find", testCreate},
		{"create without a credential", testCreatePending},
		{"create rejects invalid connections", testCreateInvalid},
		{"create rejects a name in use", testNameTaken},
		{"times that cannot be encoded", testOutOfRangeTimes},
		{"create rejects a company of another connection", testCompanyBound},
		{"create rejects a refresh token of another connection", testTokenTaken},
		{"read", testRead},
		{"read an unknown connection", testReadUnknown},
		{"list by page", testPages},
		{"list by page while connections change", testPagesWhileChanging},
		{"list by status and text", testSearch},
		{"list by reason", testListByReason},
		{"list rejects invalid queries", testBadPages},
		{"count", testCount},
		{"set company", testSetCompany},
		{"set company rejects a company of another connection", testSetCompanyConflict},
		{"remove", testRemove},
		{"facts", testFacts},
		{"position", testPosition},
		{"ping", testPing},

		{"save", testSave},
		{"save with another parent", testSaveSuperseded},
		{"save twice", testSaveTwice},
		{"save without an access token", testSaveWithoutAccess},
		{"save without a refresh token", testSaveInvalid},
		{"save after reauthorization is required", testSaveAfterRejection},
		{"save records forced refreshes", testForced},
		{"save clears refresh failures", testSaveClearsFailures},
		{"save with a refresh failure", testSaveWithFailure},
		{"save keeps the scope", testSaveScope},
		{"save does not enable a disabled connection", testSaveDisabled},

		{"record intent", testRecordIntent},
		{"record intent again", testRecordIntentAgain},
		{"record intent errors", testRecordIntentErrors},
		{"cancel intent", testCancelIntent},
		{"cancel intent after an unknown outcome", testCancelIntentAfterUnknownOutcome},
		{"cancel intent twice", testCancelIntentTwice},
		{"cancel intent keeps an orphaned intent", testCancelOrphanedIntent},
		{"failure keeps reauthorization required", testFailureAfterRejection},
		{"mark outcome unknown", testMarkOutcomeUnknown},
		{"unexpected responses are counted", testUnexpectedResponses},
		{"mark reauthorization required", testReauthorizationRequired},
		{"mark reauthorization required with another parent", testReauthorizationRequiredSuperseded},
		{"mark reauthorization required for a key", testReauthorizationRequiredKey},
		{"reinstate", testReinstate},
		{"request a refresh", testRequestRefresh},
		{"refresh request ends with the refresh", testRequestSettled},
		{"retry rejected", testRetryRejected},
		{"retry what was not rejected", testRetryNotRejected},
		{"promote a staged key", testPromoteKey},
		{"promote without a staged key", testPromoteNothing},
		{"due", testDue},
		{"unsettled", testUnsettled},

		{"save on a pending connection", testSaveOnPending},
		{"save a consent", testSaveConsent},
		{"company conflict ends", testCompanyConflictEnds},

		{"replace", testReplace},
		{"replace on a pending connection", testReplacePending},
		{"replace a key", testReplaceKey},
		{"replace on a disabled connection", testReplaceDisabled},
		{"replace errors", testReplaceErrors},
		{"replace without a lease", testReplaceLeaseLost},
		{"replace with overrides", testReplaceOverrides},
		{"replace uses up links", testReplaceSpendsLinks},
		{"replace during a refresh", testReplaceDuringRefresh},
		{"disable and enable", testDisable},
		{"disable a pending connection", testDisablePending},
		{"enable notifies", testEnableAlarms},
		{"export", testExport},
		{"list by kind", testListByKind},

		{"history", testHistory},
		{"history with invalid text", testInvalidText},
		{"history by page", testHistoryPages},
		{"history is bounded", testHistoryBounded},
		{"history of removed connections", testHistoryOfRemoved},
		{"history of refreshes", testHistoryOfRefreshes},
		{"history of keys", testHistoryOfKeys},
		{"history of the company", testHistoryOfCompany},

		{"links", testLinks},
		{"link that replaces existing links", testReplaceExistingLinks},
		{"links expire", testLinkExpires},
		{"links are bounded", testLinksBounded},
		{"consent", testConsent},
		{"consent errors", testConsentErrors},
		{"consent is taken once", testConsentOnce},
		{"consents are bounded", testConsentsBounded},

		{"lease excludes", testLeaseExcludes},
		{"lease per connection", testLeasePerConnection},
		{"lease is released once", testLeaseRelease},
		{"lease ends when its store closes", testLeaseClose},
		{"lease lost", testLeaseLost},
		{"lease on an unknown connection", testLeaseUnknown},
		{"fence grows", testFence},

		{"watch", testWatch},
		{"watch own changes", testWatchOwn},
		{"watch refresh requests", testWatchRequests},
		{"watch ends with its context", testWatchEnds},
		{"concurrent refreshes", testOneByOne},
		{"secrets are encrypted", testSecrets},
		{"secrets of links and consents are encrypted", testLinkSecrets},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

// start returns the current time, truncated to what every store can represent.
func start() time.Time { return time.Now().UTC().Truncate(time.Second) }

func secret(value string) credstore.Secret { return credstore.NewSecret(value) }

// pair returns a new connection of kind oauth with a token pair.
func pair(name string) credstore.NewConnection {
	return credstore.NewConnection{
		Name: name,
		Kind: credstore.OAuth,
		Credential: &credstore.NewCredential{
			AccessToken:  secret("access-1-" + name),
			RefreshToken: secret("refresh-1-" + name),
			ExpiresAt:    start().Add(time.Hour),
		},
	}
}

// key returns a new connection of kind integrated_key with an API key.
func key(name string) credstore.NewConnection {
	return credstore.NewConnection{
		Name:       name,
		Kind:       credstore.IntegratedKey,
		Credential: &credstore.NewCredential{APIKey: secret("key-" + name)},
	}
}

// create fails the test if the connection cannot be created.
func create(t *testing.T, s Store, n credstore.NewConnection) credstore.Connection {
	t.Helper()
	c, err := s.Connections.Create(t.Context(), n)
	if err != nil {
		t.Fatalf("Create(%q): %v", n.Name, err)
	}
	return c
}

func read(t *testing.T, s Store, id string) credstore.State {
	t.Helper()
	state, err := s.Connections.Read(t.Context(), id)
	if err != nil {
		t.Fatalf("Read(%q): %v", id, err)
	}
	return state
}

// parentOf returns the parent that a refresh would send now.
func parentOf(t *testing.T, s Store, id string) credstore.Parent {
	t.Helper()
	return read(t, s, id).Credential.Parent()
}

func acquire(t *testing.T, s Store, id, owner string) credstore.Lease {
	t.Helper()
	l, err := s.Credentials.Acquire(t.Context(), id, owner)
	if err != nil {
		t.Fatalf("Acquire(%q, %q): %v", id, owner, err)
	}
	return l
}

func release(t *testing.T, l credstore.Lease) {
	t.Helper()
	if err := l.Release(); err != nil {
		t.Fatalf("Release(): %v", err)
	}
}

func recordIntent(t *testing.T, s Store, l credstore.Lease, parent credstore.Parent) credstore.Intent {
	t.Helper()
	i, err := s.Credentials.RecordIntent(t.Context(), l, parent, start())
	if err != nil {
		t.Fatalf("RecordIntent(%v): %v", parent, err)
	}
	return i
}

// next returns a possible result of a refresh of the parent.
func next(parent credstore.Parent, tokens string) credstore.Successor {
	return credstore.Successor{
		Parent:       parent,
		AccessToken:  secret("access-" + tokens),
		RefreshToken: secret("refresh-" + tokens),
		ExpiresAt:    start().Add(time.Hour),
		ObtainedAt:   start(),
	}
}

func save(t *testing.T, s Store, n credstore.Successor) credstore.Connection {
	t.Helper()
	c, err := s.Credentials.Save(t.Context(), n)
	if err != nil {
		t.Fatalf("Save(%v): %v", n.Parent, err)
	}
	return c
}

func requireReauthorization(t *testing.T, s Store, parent credstore.Parent, dropAccess bool) {
	t.Helper()
	l := acquire(t, s, parent.ConnectionID, "refresher")
	defer release(t, l)
	f := credstore.Failure{Code: "invalid_grant", Message: "rejected", At: start()}
	if err := s.Credentials.MarkReauthorizationRequired(t.Context(), l, parent, f, credstore.ReasonRefreshTokenRejected, dropAccess); err != nil {
		t.Fatalf("MarkReauthorizationRequired(%v): %v", parent, err)
	}
}

// wantErr fails the test unless err matches want.
func wantErr(t *testing.T, call string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s = %v, want %v", call, err, want)
	}
}

// wantConflict fails the test unless err is a ConflictError that matches sentinel and
// names the connection with.
func wantConflict(t *testing.T, call string, err, sentinel error, with string) {
	t.Helper()
	wantErr(t, call, err, sentinel)
	var conflict *credstore.ConflictError
	if !errors.As(err, &conflict) || conflict.With != with {
		t.Fatalf("%s = %v, want a conflict with %q", call, err, with)
	}
}

// wantSame fails the test unless got and want are equal. Secrets are equal if their
// values are.
func wantSame(t *testing.T, what string, got, want any) {
	t.Helper()
	sameSecret := cmp.Comparer(func(a, b credstore.Secret) bool { return a.Equal(b) })
	if diff := cmp.Diff(want, got, sameSecret); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// listAll returns the names of the connections on all pages.
func listAll(ctx context.Context, t *testing.T, s Store, q credstore.Query) []string {
	t.Helper()
	names := []string{}
	for {
		page, err := s.Connections.List(ctx, q)
		if err != nil {
			t.Fatalf("List(%+v): %v", q, err)
		}
		for _, c := range page.Connections {
			names = append(names, c.Name)
		}
		if page.Next == "" {
			return names
		}
		q.Cursor = page.Next
	}
}
