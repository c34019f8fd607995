package credstoretest

import (
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func testSave(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	parent := parentOf(t, s, c.ID)
	recordIntent(t, s, l, parent)

	n := next(parent, "2")
	want := c
	want.Version, want.ExpiresAt, want.RefreshedAt = 2, n.ExpiresAt, n.ObtainedAt
	wantSame(t, "Save", save(t, s, n), want)
	wantSame(t, "the state in another process", read(t, data.Open(t), c.ID), credstore.State{
		Connection: want,
		Credential: credstore.Credential{
			ConnectionID: c.ID, Version: 2, AccessToken: secret("access-2"), RefreshToken: secret("refresh-2"),
			ExpiresAt: n.ExpiresAt, ObtainedAt: n.ObtainedAt,
		},
	})
}

func testSaveSuperseded(t *testing.T, data Data) {
	s := data.Open(t)
	c, legacy := create(t, s, pair("acme")), create(t, s, key("legacy"))
	parent := parentOf(t, s, c.ID)
	newer, other, unknown := parent, parent, parent
	newer.Version++
	other.RefreshHash = secret("another token").Hash()
	unknown.ConnectionID = "nothing"
	for _, test := range []struct {
		name   string
		parent credstore.Parent
	}{
		{"another version", newer},
		{"another token", other},
		{"an unknown connection", unknown},
		{"a key", parentOf(t, s, legacy.ID)},
	} {
		_, err := s.Credentials.Save(t.Context(), next(test.parent, "2"))
		wantErr(t, "Save onto "+test.name, err, credstore.ErrSuperseded)
	}
	save(t, s, next(parent, "2"))
	_, err := s.Credentials.Save(t.Context(), next(parent, "2b"))
	wantErr(t, "Save of a second successor", err, credstore.ErrSuperseded)
	if got := read(t, s, c.ID).Credential; got.Version != 2 || !got.AccessToken.Equal(secret("access-2")) {
		t.Errorf("credential = version %d, want the first successor at version 2", got.Version)
	}
}

func testSaveTwice(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	n := next(parentOf(t, s, c.ID), "2")
	first := save(t, s, n)
	wantSame(t, "Save of the same successor", save(t, s, n), first)

	// A refresh token that did not rotate does not make two pairs the same successor.
	n = next(parentOf(t, s, c.ID), "3")
	n.RefreshToken = secret("refresh-2")
	save(t, s, n)
	n.AccessToken = secret("access-3b")
	_, err := s.Credentials.Save(t.Context(), n)
	wantErr(t, "Save of another pair with the same refresh token", err, credstore.ErrSuperseded)

	save(t, s, next(parentOf(t, s, c.ID), "4"))
	_, err = s.Credentials.Save(t.Context(), n)
	wantErr(t, "Save of a grandparent", err, credstore.ErrSuperseded)
}

func testSaveWithoutAccess(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	n := next(parentOf(t, s, c.ID), "2")
	n.AccessToken, n.ExpiresAt = credstore.Secret{}, time.Time{}
	for range 2 {
		save(t, s, n)
	}
	got := read(t, s, c.ID).Credential
	if !got.AccessToken.IsZero() || !got.RefreshToken.Equal(secret("refresh-2")) || !got.ExpiresAt.IsZero() {
		t.Errorf("credential = %+v, want only the refresh token", got)
	}
}

func testSaveInvalid(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	n := next(parentOf(t, s, c.ID), "2")
	n.RefreshToken = credstore.Secret{}
	if _, err := s.Credentials.Save(t.Context(), n); err == nil {
		t.Error("Save without a refresh token = nil, want an error")
	}
	if v := read(t, s, c.ID).Credential.Version; v != 1 {
		t.Errorf("version = %d, want 1", v)
	}
}

func testSaveAfterRejection(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	parent := parentOf(t, s, c.ID)
	requireReauthorization(t, s, parent, true)
	saved := save(t, s, next(parent, "2"))
	if saved.Status != credstore.Active || saved.Reason != "" || saved.LastError != nil || saved.Version != 2 {
		t.Errorf("Save after reauthorization was required = %+v, want version 2, active, no error", saved)
	}
	if got := read(t, s, c.ID).Credential; !got.RejectedAt.IsZero() {
		t.Errorf("RejectedAt = %v, want zero", got.RejectedAt)
	}
}

func testForced(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	forced := start().Add(-time.Hour) // long before the latest refresh
	for _, pace := range []struct {
		at     time.Time
		streak int
	}{{forced, 1}, {forced, 2}, {time.Time{}, 0}, {start(), 1}} {
		n := next(parentOf(t, s, c.ID), "again")
		n.ForcedAt, n.ForcedStreak = pace.at, pace.streak
		save(t, s, n)
		got := read(t, s, c.ID).Credential
		if got.ForcedStreak != pace.streak || !got.ForcedAt.Equal(pace.at) {
			t.Errorf("ForcedAt, ForcedStreak = %v, %d, want %v, %d", got.ForcedAt, got.ForcedStreak, pace.at, pace.streak)
		}
	}
}

func failure(unexpected bool) credstore.RefreshFailure {
	return credstore.RefreshFailure{
		Failure:    credstore.Failure{Code: "busy", Message: "later", At: start()},
		Reason:     credstore.ReasonUnavailable,
		RetryAt:    start().Add(time.Hour),
		Unexpected: unexpected,
	}
}

// recordFailure makes the connection degraded by a refresh that failed with f.
func recordFailure(t *testing.T, s Store, id string, f credstore.RefreshFailure) {
	t.Helper()
	l := acquire(t, s, id, "me")
	defer release(t, l)
	parent := parentOf(t, s, id)
	recordIntent(t, s, l, parent)
	if err := s.Credentials.CancelIntent(t.Context(), l, parent, &f); err != nil {
		t.Fatalf("CancelIntent: %v", err)
	}
}

// testFailureAfterRejection checks that a temporary failure, for example of a retry
// that an operator requested, does not change reauthorization_required to degraded.
func testFailureAfterRejection(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	recordFailure(t, s, c.ID, failure(false))
	got := read(t, s, c.ID).Connection
	if got.Status != credstore.ReauthorizationRequired || got.Reason != credstore.ReasonRefreshTokenRejected || got.LastError.Code != "busy" {
		t.Errorf("connection = %+v, want an unchanged status and reason, and the new error", got)
	}
}

func testSaveClearsFailures(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	recordFailure(t, s, c.ID, failure(true))
	save(t, s, next(parentOf(t, s, c.ID), "2"))
	got := read(t, s, c.ID)
	want := credstore.State{Connection: got.Connection, Credential: got.Credential}
	wantSame(t, "the state after a success", got, want)
	if c := got.Connection; c.Status != credstore.Active || c.Reason != "" || c.LastError != nil {
		t.Errorf("connection = %+v, want it active without a reason and an error", c)
	}
}

// testSaveWithFailure checks that a refresh token is saved although the rest of the
// response was not usable, and that the refresh is due again later.
func testSaveWithFailure(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	parent, f := parentOf(t, s, c.ID), failure(false)
	n := next(parent, "2")
	n.AccessToken, n.RefreshFailure = credstore.Secret{}, &f
	for range 2 { // as after a lost response to COMMIT
		save(t, s, n)
	}
	got := read(t, s, c.ID)
	if c := got.Connection; c.Status != credstore.Degraded || c.Reason != f.Reason || c.Version != 2 {
		t.Errorf("connection = %+v, want version 2, degraded (%s)", c, f.Reason)
	}
	wantSame(t, "the last error", got.Connection.LastError, &f.Failure)
	if !got.RetryAt.Equal(f.RetryAt) {
		t.Errorf("RetryAt = %v, want %v", got.RetryAt, f.RetryAt)
	}
}

func testSaveScope(t *testing.T, data Data) {
	s := data.Open(t)
	n := pair("acme")
	n.Scope = "a b"
	c := create(t, s, n)
	for _, test := range []struct{ scope, want string }{{"", "a b"}, {"a", "a"}} {
		successor := next(parentOf(t, s, c.ID), "more")
		successor.Scope = test.scope
		if got := save(t, s, successor).Scope; got != test.want {
			t.Errorf("scope after a response with %q = %q, want %q", test.scope, got, test.want)
		}
	}
}

func testSaveDisabled(t *testing.T, data Data) {
	s := data.Open(t)
	n := pair("first")
	n.Company.ID = "c-1"
	create(t, s, n)
	c := create(t, s, pair("acme"))
	err := s.Connections.SetCompany(t.Context(), c.ID, credstore.Company{ID: "c-1"})
	wantErr(t, "SetCompany", err, credstore.ErrCompanyBound)
	saved := save(t, s, next(parentOf(t, s, c.ID), "2"))
	if saved.Status != credstore.Disabled || saved.Reason != credstore.ReasonCompanyConflict || saved.Version != 2 {
		t.Errorf("Save = %+v, want version 2, still disabled", saved)
	}
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	if got := read(t, s, c.ID).Connection; got.Status != credstore.Disabled || got.Reason != credstore.ReasonCompanyConflict {
		t.Errorf("after MarkReauthorizationRequired: %+v, want it still disabled", got)
	}
}

func testRecordIntent(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	parent := parentOf(t, s, c.ID)
	at := start()
	got, err := s.Credentials.RecordIntent(t.Context(), l, parent, at)
	if err != nil {
		t.Fatalf("RecordIntent: %v", err)
	}
	want := credstore.Intent{
		Parent: parent, Owner: "me", Fence: l.Fence(), At: at, FirstAt: at, Outcome: credstore.OutcomePending, Attempts: 1,
	}
	wantSame(t, "RecordIntent", got, want)
	wantSame(t, "the intent in another process", read(t, data.Open(t), c.ID).Intent, &want)
}

func testRecordIntentAgain(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	parent := parentOf(t, s, c.ID)
	l := acquire(t, s, c.ID, "first")
	first := recordIntent(t, s, l, parent)
	release(t, l)

	other := data.Open(t)
	second := acquire(t, other, c.ID, "second")
	later := start().Add(time.Minute)
	got, err := other.Credentials.RecordIntent(t.Context(), second, parent, later)
	if err != nil {
		t.Fatalf("RecordIntent: %v", err)
	}
	want := first
	want.Owner, want.Fence, want.At, want.Attempts = "second", second.Fence(), later, 2
	wantSame(t, "RecordIntent after an orphaned intent", got, want)

	save(t, other, next(parent, "2"))
	fresh := recordIntent(t, other, second, parentOf(t, other, c.ID))
	if fresh.Attempts != 1 || !fresh.FirstAt.Equal(fresh.At) {
		t.Errorf("RecordIntent for a new parent = %+v, want a first attempt", fresh)
	}
	release(t, second)
}

func testRecordIntentErrors(t *testing.T, data Data) {
	s := data.Open(t)
	c, d := create(t, s, pair("acme")), create(t, s, pair("other"))
	l := acquire(t, s, c.ID, "me")
	stale := parentOf(t, s, c.ID)
	save(t, s, next(stale, "2"))
	_, err := s.Credentials.RecordIntent(t.Context(), l, stale, start())
	wantErr(t, "RecordIntent for a used token", err, credstore.ErrSuperseded)
	_, err = s.Credentials.RecordIntent(t.Context(), l, parentOf(t, s, d.ID), start())
	wantErr(t, "RecordIntent with the lease of another connection", err, credstore.ErrLeaseLost)
	_, err = data.Open(t).Credentials.RecordIntent(t.Context(), l, parentOf(t, s, c.ID), start())
	wantErr(t, "RecordIntent with the lease of another process", err, credstore.ErrLeaseLost)
	parent := parentOf(t, s, c.ID)
	if err := s.Connections.Remove(t.Context(), c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	_, err = s.Credentials.RecordIntent(t.Context(), l, parent, start())
	wantErr(t, "RecordIntent for a removed connection", err, credstore.ErrSuperseded)
	release(t, l)
	if got := read(t, s, d.ID).Intent; got != nil {
		t.Errorf("intent = %+v, want none", got)
	}
}

func testCancelIntent(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	parent := parentOf(t, s, c.ID)

	before := read(t, s, c.ID)
	recordIntent(t, s, l, parent)
	if err := s.Credentials.CancelIntent(t.Context(), l, parent, nil); err != nil {
		t.Fatalf("CancelIntent: %v", err)
	}
	wantSame(t, "the state after a canceled intent", read(t, s, c.ID), before)

	recordIntent(t, s, l, parent)
	f := failure(false)
	if err := s.Credentials.CancelIntent(t.Context(), l, parent, &f); err != nil {
		t.Fatalf("CancelIntent: %v", err)
	}
	want := before
	want.Connection.Status, want.Connection.Reason = credstore.Degraded, f.Reason
	want.Connection.LastError, want.RetryAt = &f.Failure, f.RetryAt
	wantSame(t, "the state after a refresh failure", read(t, s, c.ID), want)
}

// unknownOutcome records an intent, marks its outcome unknown and returns its parent.
func unknownOutcome(t *testing.T, s Store, l credstore.Lease) credstore.Parent {
	t.Helper()
	parent := parentOf(t, s, l.ConnectionID())
	recordIntent(t, s, l, parent)
	if err := s.Credentials.MarkOutcomeUnknown(t.Context(), l, parent, failure(false)); err != nil {
		t.Fatalf("MarkOutcomeUnknown: %v", err)
	}
	return parent
}

func testCancelIntentAfterUnknownOutcome(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	parent := unknownOutcome(t, s, l)
	want := recordIntent(t, s, l, parent)
	if want.Attempts != 2 || want.Outcome != credstore.OutcomePending || !want.NextAt.IsZero() {
		t.Fatalf("RecordIntent after an unknown outcome = %+v, want the second attempt, pending", want)
	}
	f := failure(false)
	if err := s.Credentials.CancelIntent(t.Context(), l, parent, &f); err != nil {
		t.Fatalf("CancelIntent: %v", err)
	}
	want.Outcome, want.Attempts, want.NextAt = credstore.OutcomeUnknown, 1, f.RetryAt
	wantSame(t, "the intent", read(t, s, c.ID).Intent, &want)
}

func testCancelIntentTwice(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	parent := unknownOutcome(t, s, l)
	recordIntent(t, s, l, parent)
	f := failure(true)
	if err := s.Credentials.CancelIntent(t.Context(), l, parent, &f); err != nil {
		t.Fatalf("CancelIntent: %v", err)
	}
	want := read(t, s, c.ID)
	if err := s.Credentials.CancelIntent(t.Context(), l, parent, &f); err != nil {
		t.Fatalf("CancelIntent again: %v", err)
	}
	wantSame(t, "the state after canceling twice", read(t, s, c.ID), want)
}

func testCancelOrphanedIntent(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	parent := parentOf(t, s, c.ID)
	owner := acquire(t, s, c.ID, "first")
	want := recordIntent(t, s, owner, parent)
	release(t, owner)

	l := acquire(t, s, c.ID, "second")
	defer release(t, l)
	if err := s.Credentials.CancelIntent(t.Context(), l, parent, nil); err != nil {
		t.Fatalf("CancelIntent: %v", err)
	}
	wantSame(t, "the orphaned intent", read(t, s, c.ID).Intent, &want)
}

func testMarkOutcomeUnknown(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	parent := parentOf(t, s, c.ID)
	f := failure(false)
	wantErr(t, "MarkOutcomeUnknown without an intent", s.Credentials.MarkOutcomeUnknown(t.Context(), l, parent, f), credstore.ErrSuperseded)

	want := recordIntent(t, s, l, parent)
	for range 2 { // as after a lost response to COMMIT
		if err := s.Credentials.MarkOutcomeUnknown(t.Context(), l, parent, f); err != nil {
			t.Fatalf("MarkOutcomeUnknown: %v", err)
		}
	}
	want.Outcome, want.NextAt = credstore.OutcomeUnknown, f.RetryAt
	got := read(t, s, c.ID)
	wantSame(t, "the intent", got.Intent, &want)
	if conn := got.Connection; conn.Status != credstore.Degraded || conn.Reason != f.Reason || conn.LastError == nil {
		t.Errorf("connection = %+v, want it degraded with an error", conn)
	}
}

func testUnexpectedResponses(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	var since time.Time
	for i, unexpected := range []bool{false, true, false, true} {
		f := failure(unexpected)
		f.Failure.At = f.Failure.At.Add(time.Duration(i) * time.Hour)
		if i == 1 {
			since = f.Failure.At
		}
		recordFailure(t, s, c.ID, f)
		got, want := read(t, s, c.ID), (i+1)/2
		if got.UnexpectedResponses != want || !got.UnexpectedSince.Equal(since) {
			t.Errorf("after %d failures: UnexpectedResponses, UnexpectedSince = %d, %v, want %d, %v", i+1, got.UnexpectedResponses, got.UnexpectedSince, want, since)
		}
	}
}

func testReauthorizationRequired(t *testing.T, data Data) {
	for _, drop := range []bool{false, true} {
		s := data.Open(t)
		c := create(t, s, pair(map[bool]string{false: "keeps", true: "drops"}[drop]))
		want := read(t, s, c.ID)
		l := acquire(t, s, c.ID, "me")
		recordIntent(t, s, l, want.Credential.Parent())
		f := credstore.Failure{Code: "invalid_grant", Message: "rejected", At: start()}
		for range 2 { // as after a lost response to COMMIT
			err := s.Credentials.MarkReauthorizationRequired(t.Context(), l, want.Credential.Parent(), f, credstore.ReasonRefreshTokenRejected, drop)
			if err != nil {
				t.Fatalf("MarkReauthorizationRequired: %v", err)
			}
		}
		release(t, l)
		want.Connection.Status, want.Connection.Reason = credstore.ReauthorizationRequired, credstore.ReasonRefreshTokenRejected
		want.Connection.LastError, want.Credential.RejectedAt = &f, f.At
		if drop {
			want.Credential.AccessToken = credstore.Secret{}
			want.Credential.ExpiresAt, want.Connection.ExpiresAt = time.Time{}, time.Time{}
		}
		wantSame(t, "the state", read(t, s, c.ID), want)
	}
}

func testReauthorizationRequiredSuperseded(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	stale := parentOf(t, s, c.ID)
	save(t, s, next(stale, "2"))
	want := read(t, s, c.ID)
	err := s.Credentials.MarkReauthorizationRequired(t.Context(), l, stale, credstore.Failure{At: start()}, credstore.ReasonRefreshTokenRejected, true)
	wantErr(t, "MarkReauthorizationRequired for a used token", err, credstore.ErrSuperseded)
	wantSame(t, "the state", read(t, s, c.ID), want)
}

func testReauthorizationRequiredKey(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, key("legacy"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	got := read(t, s, c.ID)
	if got.Connection.Status != credstore.ReauthorizationRequired || !got.Credential.RejectedAt.IsZero() {
		t.Errorf("state = %+v, want reauthorization_required without RejectedAt", got)
	}
	if !got.Credential.APIKey.Equal(secret("key-legacy")) {
		t.Error("the key was dropped, but must stay for later checks")
	}
}

func testDue(t *testing.T, data Data) {
	s := data.Open(t)
	soon := start().Add(time.Hour)
	dueNames := func(limit int, before time.Time) []string {
		due, err := s.Credentials.Due(t.Context(), before, limit)
		if err != nil {
			t.Fatalf("Due: %v", err)
		}
		names := []string{}
		for _, c := range due {
			names = append(names, c.Name)
		}
		return names
	}
	for i, name := range []string{"middle", "oldest", "newest", "failing", "rejected", "unknown"} {
		c := create(t, s, pair(name))
		n := next(parentOf(t, s, c.ID), name)
		n.ObtainedAt = start().Add(time.Duration([]int{-2, -3, -1, -9, -9, -9}[i]) * 24 * time.Hour)
		save(t, s, n)
		blockRefresh(t, s, name, c.ID)
	}
	create(t, s, key("key"))
	create(t, s, credstore.NewConnection{Name: "pending", Kind: credstore.OAuth})
	noRefresh := pair("no-refresh-token")
	noRefresh.Credential.RefreshToken = credstore.Secret{}
	create(t, s, noRefresh)

	wantSame(t, "Due", dueNames(10, soon), []string{"oldest", "middle", "newest"})
	wantSame(t, "Due with a limit", dueNames(2, soon), []string{"oldest", "middle"})
	wantSame(t, "Due before a time", dueNames(10, start().Add(-36*time.Hour)), []string{"oldest", "middle"})
}

// blockRefresh puts the connection in the state that its name says, in which it is
// not due for a refresh.
func blockRefresh(t *testing.T, s Store, name, id string) {
	t.Helper()
	switch name {
	case "failing":
		recordFailure(t, s, id, failure(false))
	case "rejected":
		requireReauthorization(t, s, parentOf(t, s, id), false)
	case "unknown":
		l := acquire(t, s, id, "me")
		defer release(t, l)
		unknownOutcome(t, s, l)
	}
}

func testUnsettled(t *testing.T, data Data) {
	s := data.Open(t)
	ids := map[string]string{} // id → name
	for _, name := range []string{"settled", "failing", "sending"} {
		c := create(t, s, pair(name))
		ids[c.ID] = name
		blockRefresh(t, s, name, c.ID)
		if name == "sending" {
			l := acquire(t, s, c.ID, "first")
			recordIntent(t, s, l, parentOf(t, s, c.ID))
			release(t, l)
		}
	}
	c := create(t, s, pair("requested"))
	ids[c.ID] = "requested"
	if err := s.Credentials.RequestRefresh(t.Context(), c.ID, start().Add(-time.Minute)); err != nil {
		t.Fatalf("RequestRefresh: %v", err)
	}
	for limit, want := range map[int][]string{5: {"requested", "sending", "failing"}, 1: {"requested"}} {
		got, err := s.Credentials.Unsettled(t.Context(), limit)
		if err != nil {
			t.Fatalf("Unsettled: %v", err)
		}
		var names []string
		for _, id := range got {
			names = append(names, ids[id])
		}
		wantSame(t, "Unsettled", names, want)
	}
}
