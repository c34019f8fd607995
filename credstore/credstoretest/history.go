package credstoretest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// history returns all events of a connection, the earliest first.
func history(t *testing.T, s Store, id string) []credstore.Event {
	t.Helper()
	var all []credstore.Event
	for cursor := ""; ; {
		page, err := s.History.Events(t.Context(), id, cursor, 200)
		if err != nil {
			t.Fatalf("Events(%q): %v", id, err)
		}
		all = append(all, page.Events...)
		if cursor = page.Next; cursor == "" {
			slices.Reverse(all)
			return all
		}
	}
}

// wantHistory fails the test unless the history after its first seen events consists
// of events of exactly the wanted types.
func wantHistory(t *testing.T, s Store, id string, seen int, want ...credstore.EventType) {
	t.Helper()
	got := []credstore.EventType{}
	for _, e := range history(t, s, id)[seen:] {
		got = append(got, e.Type)
	}
	wantSame(t, "the history", got, append([]credstore.EventType{}, want...))
}

func recordEvent(t *testing.T, s Store, id string, e credstore.Event) {
	t.Helper()
	if err := s.History.RecordEvent(t.Context(), id, e); err != nil {
		t.Fatalf("RecordEvent(%q): %v", id, err)
	}
}

func testHistory(t *testing.T, data Data) {
	s := data.Open(t)
	before := time.Now().Add(-time.Second)
	c := create(t, s, pair("acme"))
	ctx := credstore.WithActor(t.Context(), credstore.ActorCustomer)
	if err := s.History.RecordEvent(ctx, c.ID, credstore.Event{Type: credstore.EventConsentFailed, Code: "access_denied", Message: "said no"}); err != nil {
		t.Fatalf("RecordEvent: %v", err)
	}
	got := history(t, data.Open(t), c.ID)
	if len(got) != 2 || got[0].ID == got[1].ID || len(got[0].ID) < 20 || got[0].At.Before(before) || got[0].At.After(time.Now().Add(time.Second)) {
		t.Fatalf("history = %+v, want two current events with different ids", got)
	}
	wantSame(t, "the recorded event", got[1], credstore.Event{
		ID: got[1].ID, ConnectionID: c.ID, Connection: "acme", Type: credstore.EventConsentFailed, At: got[1].At,
		Actor: credstore.ActorCustomer, Status: credstore.Active, Version: 1, Code: "access_denied", Message: "said no",
	})
	if got[0].Actor != credstore.ActorProxy || got[0].Type != credstore.EventImported {
		t.Errorf("first event = %+v, want the creation by %s", got[0], credstore.ActorProxy)
	}
	_, err := s.History.Events(t.Context(), "nothing", "", 0)
	wantErr(t, "Events of an unknown id", err, credstore.ErrNotFound)
	wantErr(t, "RecordEvent of an unknown id", s.History.RecordEvent(t.Context(), "nothing", credstore.Event{}), credstore.ErrNotFound)
}

// testInvalidText checks that a store records any text that a server sends.
func testInvalidText(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	odd := "no\x00\xff'\";--" + strings.Repeat("ø", credstore.MaxTextLength)
	f := failure(false)
	f.Failure.Code, f.Failure.Message = odd, odd
	recordFailure(t, s, c.ID, f)
	recordEvent(t, s, c.ID, credstore.Event{Type: credstore.EventConsentFailed, Code: odd, Message: odd})
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	if err := s.Credentials.MarkReauthorizationRequired(t.Context(), l, parentOf(t, s, c.ID), f.Failure, credstore.ReasonRefreshTokenRejected, false); err != nil {
		t.Fatalf("MarkReauthorizationRequired: %v", err)
	}
	failed := next(parentOf(t, s, c.ID), "2")
	failed.RefreshFailure = &f
	save(t, s, failed)
	texts := []string{read(t, s, c.ID).Connection.LastError.Message}
	for _, e := range history(t, s, c.ID)[1:] {
		texts = append(texts, e.Code, e.Message)
	}
	for _, text := range texts {
		if len(text) > credstore.MaxTextLength || len(text) < credstore.MaxTextLength-4 || !utf8.ValidString(text) || !strings.HasPrefix(text, "no\uFFFD\uFFFD'\";--ø") {
			t.Errorf("text = %q, want the beginning of the original in valid UTF-8", text)
		}
	}
}

func testHistoryPages(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	create(t, s, pair("other"))
	for i := range 6 {
		kind := credstore.EventConsentFailed
		if i%2 == 0 {
			kind = credstore.EventEnabled
		}
		recordEvent(t, s, c.ID, credstore.Event{Type: kind, Message: fmt.Sprint(i)})
	}
	for _, limit := range []int{1, 3, 7} {
		var got []string
		for cursor := ""; ; {
			page, err := s.History.Events(t.Context(), c.ID, cursor, limit)
			if err != nil {
				t.Fatalf("Events: %v", err)
			}
			if len(page.Events) > limit {
				t.Fatalf("Events with limit %d returned %d events", limit, len(page.Events))
			}
			for _, e := range page.Events {
				got = append(got, e.Message)
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		wantSame(t, fmt.Sprintf("the pages of %d", limit), got, []string{"5", "4", "3", "2", "1", "0", ""})
	}
	for _, bad := range []struct {
		cursor string
		limit  int
	}{{"", -1}, {"", 201}, {"!", 1}, {"YWZ0ZXI", 1}} {
		_, err := s.History.Events(t.Context(), c.ID, bad.cursor, bad.limit)
		wantErr(t, fmt.Sprintf("Events(%q, %d)", bad.cursor, bad.limit), err, credstore.ErrBadQuery)
	}
}

// testHistoryBounded checks that the history is limited, and that frequent events do
// not displace rare ones.
func testHistoryBounded(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	for i := range credstore.MaxFrequentEvents + 10 {
		save(t, s, next(parentOf(t, s, c.ID), fmt.Sprint(i)))
	}
	got := history(t, s, c.ID)
	if len(got) != credstore.MaxFrequentEvents+1 || got[0].Type != credstore.EventImported || got[len(got)-1].Version != c.Version+credstore.MaxFrequentEvents+10 {
		t.Fatalf("history has %d events from %s to version %d, want the creation and the latest %d refreshes",
			len(got), got[0].Type, got[len(got)-1].Version, credstore.MaxFrequentEvents)
	}
	for range credstore.MaxEvents + 10 {
		recordEvent(t, s, c.ID, credstore.Event{Type: credstore.EventEnabled})
	}
	if got := len(history(t, s, c.ID)); got != credstore.MaxEvents+credstore.MaxFrequentEvents {
		t.Errorf("history has %d events, want %d", got, credstore.MaxEvents+credstore.MaxFrequentEvents)
	}
}

func testHistoryOfRemoved(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	ctx := credstore.WithActor(t.Context(), credstore.ActorCommandLine)
	if err := s.Connections.Remove(ctx, c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	wantHistory(t, s, c.ID, 0, credstore.EventImported, credstore.EventRemoved)
	if got := history(t, s, c.ID)[1]; got.Actor != credstore.ActorCommandLine || got.Connection != "acme" {
		t.Errorf("removal = %+v, want the actor and the name", got)
	}
	later := create(t, s, pair("acme"))
	wantRemoved(t, s, "acme", c.ID) // the later one still exists
	if err := s.Connections.Remove(ctx, later.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	wantRemoved(t, s, "acme", later.ID)
	create(t, s, key("shop"))
	for _, name := range []string{"shop", "Acme", "unknown", ""} {
		_, err := s.History.Removed(t.Context(), name)
		wantErr(t, fmt.Sprintf("Removed(%q)", name), err, credstore.ErrNotFound)
	}
}

func wantRemoved(t *testing.T, s Store, name, want string) {
	t.Helper()
	if id, err := s.History.Removed(t.Context(), name); err != nil || id != want {
		t.Fatalf("Removed(%q) = %q, %v, want %q", name, id, err, want)
	}
}

// testHistoryOfRefreshes checks the events of a token pair that is refreshed, fails,
// is rejected and recovers.
func testHistoryOfRefreshes(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	seen := 1
	expect := func(want ...credstore.EventType) {
		t.Helper()
		wantHistory(t, s, c.ID, seen, want...)
		seen += len(want)
	}
	n := next(parentOf(t, s, c.ID), "2")
	save(t, s, n)
	save(t, s, n) // as after a lost response to COMMIT
	expect(credstore.EventRefreshed)

	f := failure(false)
	recordFailure(t, s, c.ID, f)
	expect(credstore.EventDegraded)
	recordFailure(t, s, c.ID, f)
	expect() // nothing new
	f.Failure.Code = "another"
	recordFailure(t, s, c.ID, f)
	expect(credstore.EventRefreshFailed)
	if e := history(t, s, c.ID)[seen-1]; e.Code != "another" || e.Message != f.Failure.Message || e.Status != credstore.Degraded {
		t.Errorf("event = %+v, want the failure and the status", e)
	}
	save(t, s, next(parentOf(t, s, c.ID), "3"))
	expect(credstore.EventRefreshed) // not EventRecovered: no notification was sent

	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	expect(credstore.EventReauthorizationRequired)
	if err := s.Credentials.RetryRejected(t.Context(), c.ID, start()); err != nil {
		t.Fatalf("RetryRejected: %v", err)
	}
	expect(credstore.EventRetryRequested)
	save(t, s, next(parentOf(t, s, c.ID), "4"))
	expect(credstore.EventRecovered)
	requestRefresh(t, s, c.ID)
	expect(credstore.EventRefreshRequested)
	failed := next(parentOf(t, s, c.ID), "5")
	failed.AccessToken, failed.RefreshFailure = credstore.Secret{}, &f
	save(t, s, failed)
	expect(credstore.EventDegraded)
}

func testHistoryOfKeys(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, key("legacy"))
	stage(t, s, c.ID, "next")
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	l := acquire(t, s, c.ID, "me")
	if _, err := s.Credentials.PromoteKey(t.Context(), l, parentOf(t, s, c.ID)); err != nil {
		t.Fatalf("PromoteKey: %v", err)
	}
	release(t, l)
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	l = acquire(t, s, c.ID, "me")
	defer release(t, l)
	for range 2 {
		if err := s.Credentials.Reinstate(t.Context(), l, parentOf(t, s, c.ID)); err != nil {
			t.Fatalf("Reinstate: %v", err)
		}
	}
	replace(t, s, l, credstore.Replacement{Credential: credstore.NewCredential{APIKey: secret("other")}})
	wantHistory(t, s, c.ID, 0, credstore.EventImported, credstore.EventKeyStaged, credstore.EventReauthorizationRequired,
		credstore.EventKeyPromoted, credstore.EventRecovered, credstore.EventReauthorizationRequired, credstore.EventRecovered, credstore.EventKeySet)
}

func testHistoryOfCompany(t *testing.T, data Data) {
	s := data.Open(t)
	n := credstore.NewConnection{Name: "acme", Kind: credstore.OAuth, SharedCompany: true}
	c := create(t, s, n)
	for range 2 {
		if err := s.Connections.SetCompany(t.Context(), c.ID, credstore.Company{ID: "c-1", Name: "Acme ApS"}); err != nil {
			t.Fatalf("SetCompany: %v", err)
		}
	}
	wantHistory(t, s, c.ID, 0, credstore.EventCreated, credstore.EventCompanyOverride, credstore.EventCompanyLearned)

	bound := create(t, s, pair("bound"))
	err := s.Connections.SetCompany(t.Context(), bound.ID, credstore.Company{ID: "c-1"})
	wantConflict(t, "SetCompany with a bound company", err, credstore.ErrCompanyBound, "acme")
	wantHistory(t, s, bound.ID, 1, credstore.EventDisabled, credstore.EventReauthorizationRequired)
}

func testDisable(t *testing.T, data Data) {
	s := data.Open(t)
	for _, test := range []struct {
		name    string
		prepare func(id string)
		while   func(id string) // called while it is disabled
		want    credstore.Status
	}{
		{"active", nil, nil, credstore.Active},
		{"degraded", func(id string) { recordFailure(t, s, id, failure(false)) }, nil, credstore.Degraded},
		{"reauthorization required", func(id string) { requireReauthorization(t, s, parentOf(t, s, id), false) }, nil, credstore.ReauthorizationRequired},
		{"reauthorization required while disabled", nil, func(id string) { requireReauthorization(t, s, parentOf(t, s, id), false) }, credstore.ReauthorizationRequired},
		{"saved while disabled", func(id string) { requireReauthorization(t, s, parentOf(t, s, id), false) }, func(id string) { save(t, s, next(parentOf(t, s, id), "of "+id)) }, credstore.Active},
		{"failed while disabled", nil, func(id string) { recordFailure(t, s, id, failure(false)) }, credstore.Degraded},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := create(t, s, pair(fmt.Sprintf("c-%x", test.name)))
			if test.prepare != nil {
				test.prepare(c.ID)
			}
			for range 2 {
				if err := s.Connections.Disable(t.Context(), c.ID, credstore.ReasonOperator); err != nil {
					t.Fatalf("Disable: %v", err)
				}
			}
			if test.while != nil {
				test.while(c.ID)
			}
			if got := read(t, s, c.ID).Connection; got.Status != credstore.Disabled || got.Reason != credstore.ReasonOperator {
				t.Errorf("connection = %+v, want it disabled (%s)", got, credstore.ReasonOperator)
			}
			for range 2 {
				if err := s.Connections.Enable(t.Context(), c.ID); err != nil {
					t.Fatalf("Enable: %v", err)
				}
			}
			got := read(t, s, c.ID).Connection
			if got.Status != test.want || (got.Reason == "") != (test.want == credstore.Active) {
				t.Errorf("enabled connection = %s (%s), want %s, with a reason if it is not active", got.Status, got.Reason, test.want)
			}
		})
	}
	wantErr(t, "Disable of an unknown id", s.Connections.Disable(t.Context(), "nothing", ""), credstore.ErrNotFound)
	wantErr(t, "Enable of an unknown id", s.Connections.Enable(t.Context(), "nothing"), credstore.ErrNotFound)
}

func testDisablePending(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, credstore.NewConnection{Name: "later", Kind: credstore.OAuth})
	if err := s.Connections.Disable(t.Context(), c.ID, credstore.ReasonOperator); err != nil {
		t.Fatalf("Disable: %v", err)
	}
	reports := watch(t, data.Open(t))
	if err := s.Connections.Enable(t.Context(), c.ID); err != nil {
		t.Fatalf("Enable: %v", err)
	}
	await(t, "the enabled connection", reports, c.ID)
	wantSame(t, "the enabled connection", read(t, s, c.ID).Connection, c)
	wantHistory(t, s, c.ID, 0, credstore.EventCreated, credstore.EventDisabled, credstore.EventEnabled)
}

// testEnableAlarms checks that changes of the status while a connection is disabled are
// notified when it is enabled: reauthorization_required as well as a recovery.
func testEnableAlarms(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, pair("acme"))
	disabled := func(f func()) {
		if err := s.Connections.Disable(t.Context(), c.ID, credstore.ReasonOperator); err != nil {
			t.Fatalf("Disable: %v", err)
		}
		f()
		if err := s.Connections.Enable(t.Context(), c.ID); err != nil {
			t.Fatalf("Enable: %v", err)
		}
	}
	disabled(func() { requireReauthorization(t, s, parentOf(t, s, c.ID), false) })
	disabled(func() { save(t, s, next(parentOf(t, s, c.ID), "2")) })
	wantHistory(t, s, c.ID, 1,
		credstore.EventDisabled, credstore.EventEnabled, credstore.EventReauthorizationRequired,
		credstore.EventDisabled, credstore.EventRefreshed, credstore.EventEnabled, credstore.EventRecovered)
}

func testExport(t *testing.T, data Data) {
	s := data.Open(t)
	for _, n := range []credstore.NewConnection{pair("acme"), key("legacy"), {Name: "later", Kind: credstore.OAuth}} {
		c := create(t, s, n)
		want := read(t, s, c.ID)
		l := acquire(t, data.Open(t), c.ID, "refresher")
		_, err := s.Connections.Export(t.Context(), c.ID)
		wantErr(t, "Export during a refresh", err, credstore.ErrBusy)
		wantSame(t, "the state", read(t, s, c.ID), want)
		release(t, l)

		want.Connection.Status, want.Connection.Reason = credstore.Disabled, credstore.ReasonExported
		for range 2 {
			got, err := s.Connections.Export(t.Context(), c.ID)
			if err != nil {
				t.Fatalf("Export(%q): %v", n.Name, err)
			}
			wantSame(t, "Export", got, want)
		}
		wantSame(t, "the state in another process", read(t, data.Open(t), c.ID), want)
		wantHistory(t, s, c.ID, 1, credstore.EventExported, credstore.EventExported)
	}
	_, err := s.Connections.Export(t.Context(), "nothing")
	wantErr(t, "Export of an unknown id", err, credstore.ErrNotFound)
}

func testListByKind(t *testing.T, data Data) {
	s := data.Open(t)
	create(t, s, pair("a"))
	create(t, s, key("b"))
	create(t, s, credstore.NewConnection{Name: "c", Kind: credstore.IntegratedKey})
	for _, test := range []struct {
		query credstore.Query
		want  []string
	}{
		{credstore.Query{Kind: credstore.OAuth}, []string{"a"}},
		{credstore.Query{Kind: credstore.IntegratedKey}, []string{"b", "c"}},
		{credstore.Query{Kind: credstore.IntegratedKey, Status: credstore.Pending}, []string{"c"}},
		{credstore.Query{Kind: credstore.IntegratedKey, Search: "B"}, []string{"b"}},
		{credstore.Query{Kind: credstore.StandaloneKey}, []string{}},
	} {
		test.query.Limit = 1
		wantSame(t, fmt.Sprintf("List(%+v)", test.query), listAll(t.Context(), t, s, test.query), test.want)
	}
}

// testLinkSecrets checks that the secrets of links, consents, replacements and staged
// keys are not stored in plain text.
func testLinkSecrets(t *testing.T, data Data) {
	s := data.Open(t)
	c := create(t, s, credstore.NewConnection{Name: "acme", Kind: credstore.OAuth})
	k := create(t, s, key("legacy"))
	link, _, err := s.Links.OpenLink(t.Context(), c.ID, credstore.LinkRequest{TTL: time.Hour})
	if err != nil {
		t.Fatalf("OpenLink: %v", err)
	}
	begin(t, s, credstore.Consent{State: secret("planted-state"), Link: link, Verifier: secret("planted-verifier"), Browser: []byte("b")})
	ctx := context.WithoutCancel(t.Context())
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	_, err = s.Connections.Replace(ctx, l, credstore.Replacement{Credential: credstore.NewCredential{
		AccessToken: secret("planted-access"), RefreshToken: secret("planted-refresh"),
	}})
	if err != nil {
		t.Fatalf("Replace: %v", err)
	}
	fresh, _, err := s.Links.OpenLink(ctx, c.ID, credstore.LinkRequest{TTL: time.Hour, ReplaceExisting: true})
	if err != nil {
		t.Fatalf("OpenLink: %v", err)
	}
	stage(t, s, k.ID, "planted-next-key")
	if _, err := s.Connections.Export(ctx, k.ID); err != nil {
		t.Fatalf("Export: %v", err)
	}
	dump := data.Dump(t)
	for _, plain := range []string{
		"planted-state", "planted-verifier", "planted-access", "planted-refresh", "planted-next-key", link.Reveal(), fresh.Reveal(),
	} {
		if bytes.Contains(dump, []byte(plain)) {
			t.Errorf("%q is in the data of the store in plain text", plain)
		}
	}
}
