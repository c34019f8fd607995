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

// Data is what outlives the processes that have a store open.
type Data interface {
	// Open opens the store as one more process would. The test closes it.
	Open(t *testing.T) Store
	// Dump returns all bytes that stores have left behind where others might
	// find them. The stores that were opened are closed by then.
	Dump(t *testing.T) []byte
}

// TestStore runs the suite. fresh makes a place without any data.
func TestStore(t *testing.T, fresh func(t *testing.T) Data) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Data)
	}{
		{"create and find", testCreate},
		{"create without a credential", testCreatePending},
		{"create refuses what cannot be", testCreateInvalid},
		{"create refuses a taken name", testNameTaken},
		{"times that cannot be written", testOutOfRangeTimes},
		{"create refuses a bound company", testCompanyBound},
		{"create refuses another's refresh token", testTokenTaken},
		{"read what was created", testRead},
		{"read an unknown connection", testReadUnknown},
		{"list by page", testPages},
		{"list what stays exactly once", testPagesWhileChanging},
		{"list by status and text", testSearch},
		{"list by reason", testListByReason},
		{"list refuses bad pages", testBadPages},
		{"count", testCount},
		{"identify", testSetCompany},
		{"identify refuses a bound company", testSetCompanyConflict},
		{"remove", testRemove},
		{"facts", testFacts},
		{"position", testPosition},
		{"ping", testPing},

		{"save onto the parent", testSave},
		{"save onto anything else", testSaveSuperseded},
		{"save twice", testSaveTwice},
		{"save what half an answer held", testSaveWithoutAccess},
		{"save without a refresh token", testSaveInvalid},
		{"save onto a condemned credential", testSaveAfterRejection},
		{"save paces forced refreshes", testForced},
		{"save ends setbacks", testSaveClearsFailures},
		{"save with a setback", testSaveWithFailure},
		{"save keeps the scope", testSaveScope},
		{"identify disables, and save does not enable", testSaveDisabled},

		{"intend", testRecordIntent},
		{"intend once more", testRecordIntentAgain},
		{"intend without right", testRecordIntentErrors},
		{"withdraw", testCancelIntent},
		{"withdraw back to unknown", testCancelIntentAfterUnknownOutcome},
		{"withdraw twice", testCancelIntentTwice},
		{"withdraw leaves a stranger's intent", testCancelOrphanedIntent},
		{"withdraw keeps a worse status", testFailureAfterRejection},
		{"doubt", testMarkOutcomeUnknown},
		{"unusual answers are counted", testUnexpectedResponses},
		{"condemn", testReauthorizationRequired},
		{"condemn only the parent", testReauthorizationRequiredSuperseded},
		{"condemn a key", testReauthorizationRequiredKey},
		{"acquit", testReinstate},
		{"request a refresh", testRequestRefresh},
		{"requests end when a refresh is settled", testRequestSettled},
		{"retry", testRetryRejected},
		{"retry what was not refused", testRetryNotRejected},
		{"promote a staged key", testPromoteKey},
		{"promote nothing", testPromoteNothing},
		{"due", testDue},
		{"unsettled", testUnsettled},

		{"save onto nothing", testSaveOnPending},
		{"save a consent", testSaveConsent},
		{"company conflict ends", testCompanyConflictEnds},

		{"replace", testReplace},
		{"replace nothing", testReplacePending},
		{"replace a key", testReplaceKey},
		{"replace what is disabled", testReplaceDisabled},
		{"replace refused", testReplaceErrors},
		{"replace without a lease", testReplaceLeaseLost},
		{"replace by what an operator allows", testReplaceOverrides},
		{"replace spends links", testReplaceSpendsLinks},
		{"replace wins against refreshes", testReplaceDuringRefresh},
		{"disable and enable", testDisable},
		{"disable what is pending", testDisablePending},
		{"enable what needs a person", testEnableAlarms},
		{"export", testExport},
		{"list by kind", testListByKind},

		{"history", testHistory},
		{"history of odd texts", testInvalidText},
		{"history by page", testHistoryPages},
		{"history within bounds", testHistoryBounded},
		{"history of what is removed", testHistoryOfRemoved},
		{"history of refreshes", testHistoryOfRefreshes},
		{"history of keys", testHistoryOfKeys},
		{"history of the company", testHistoryOfCompany},

		{"links", testLinks},
		{"links end with a fresh one", testReplaceExistingLinks},
		{"links expire", testLinkExpires},
		{"links within bounds", testLinksBounded},
		{"consent", testConsent},
		{"consent refused", testConsentErrors},
		{"consent is taken once", testConsentOnce},
		{"consents within bounds", testConsentsBounded},

		{"lease excludes", testLeaseExcludes},
		{"lease of each connection is its own", testLeasePerConnection},
		{"lease is released once", testLeaseRelease},
		{"lease ends with its store", testLeaseClose},
		{"lease that was released guards nothing", testLeaseLost},
		{"lease on nothing", testLeaseUnknown},
		{"fence grows", testFence},

		{"watch", testWatch},
		{"watch own changes", testWatchOwn},
		{"watch requests", testWatchRequests},
		{"watch ends with its context", testWatchEnds},
		{"one by one", testOneByOne},
		{"secrets are sealed", testSecrets},
		{"secrets of people are sealed", testLinkSecrets},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

// start is a time that a store can keep exactly.
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

// key returns a new connection with an API key.
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

// parentOf reads what a refresh would name as its parent.
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
		t.Fatalf("Intend(%v): %v", parent, err)
	}
	return i
}

// next is what a refresh of the parent may bring.
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
	l := acquire(t, s, parent.ConnectionID, "condemner")
	defer release(t, l)
	f := credstore.Failure{Code: "refused", Message: "no longer", At: start()}
	if err := s.Credentials.MarkReauthorizationRequired(t.Context(), l, parent, f, credstore.ReasonRefreshTokenRejected, dropAccess); err != nil {
		t.Fatalf("Condemn(%v): %v", parent, err)
	}
}

// wantErr fails the test unless err matches want.
func wantErr(t *testing.T, call string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s = %v, want %v", call, err, want)
	}
}

// wantConflict fails the test unless err is a Conflict of the sentinel with the
// connection called with.
func wantConflict(t *testing.T, call string, err, sentinel error, with string) {
	t.Helper()
	wantErr(t, call, err, sentinel)
	var conflict *credstore.ConflictError
	if !errors.As(err, &conflict) || conflict.With != with {
		t.Fatalf("%s = %v, want a conflict with %q", call, err, with)
	}
}

// wantSame fails the test unless got and want are equal, secrets compared by
// what they hold.
func wantSame(t *testing.T, what string, got, want any) {
	t.Helper()
	sameSecret := cmp.Comparer(func(a, b credstore.Secret) bool { return a.Equal(b) })
	if diff := cmp.Diff(want, got, sameSecret); diff != "" {
		t.Fatalf("%s is not as wanted (-want +got):\n%s", what, diff)
	}
}

// listAll returns the names on all pages.
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
