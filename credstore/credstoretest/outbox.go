package credstoretest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// TestOutbox runs the tests of the outbox. fresh returns an empty Data for each test.
func TestOutbox(t *testing.T, fresh func(t *testing.T) Data) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Data)
	}{
		{"delivery", testDelivery},
		{"watch deliveries", testWatchDeliveries},
		{"delay", testDelay},
		{"order of deliveries", testDeliveryOrder},
		{"redelivery after a crash", testRedelivery},
		{"concurrent claims", testMarkDelivered},
		{"postpone and abandon", testPostpone},
		{"debounce", testDebounce},
		{"no debounce after a claim", testDebounceAfterClaim},
		{"notify once", testAlarmOnce},
		{"subscribe", testSubscribe},
		{"queue is bounded", testQueueBounded},
		{"record key expiring", testRecordKeyExpiring},
		{"keys expiring", testKeysExpiring},
		{"key expiry", testKeyExpiry},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

// testWatchDeliveries checks that a watcher learns of a new delivery.
func testWatchDeliveries(t *testing.T, data Data) {
	s := data.Open(t)
	if _, err := s.Outbox.Subscribe(t.Context(), []credstore.Subscription{{Name: "hook", Types: credstore.PublicEvents()}}); err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	reports := watch(t, data.Open(t))
	c := create(t, s, pair("acme"))
	save(t, s, next(parentOf(t, s, c.ID), "2"))
	awaitChange(t, "the refresh", reports, credstore.Change{ID: c.ID})
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	awaitChange(t, "the rejection", reports, credstore.Change{ID: c.ID, DeliveriesPending: true})
}

func subscribe(t *testing.T, s Store, subscriptions ...credstore.Subscription) {
	t.Helper()
	if _, err := s.Outbox.Subscribe(t.Context(), subscriptions); err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
}

// all returns a subscription to all public events.
func all(name string) credstore.Subscription {
	return credstore.Subscription{Name: name, Types: credstore.PublicEvents()}
}

// claim claims all deliveries that are due at now, for a minute.
func claim(t *testing.T, s Store, subscription string, now time.Time) []credstore.Delivery {
	t.Helper()
	got, err := s.Outbox.ClaimDeliveries(t.Context(), subscription, "me", now, time.Minute, 100)
	if err != nil {
		t.Fatalf("ClaimDeliveries: %v", err)
	}
	return got
}

// drain marks all deliveries that are due at now as delivered, and returns their
// types.
func drain(t *testing.T, s Store, subscription string, now time.Time) (types []credstore.EventType) {
	t.Helper()
	for {
		claimed := claim(t, s, subscription, now)
		if len(claimed) == 0 {
			return types
		}
		for _, d := range claimed {
			types = append(types, d.Event.Type)
			if err := s.Outbox.MarkDelivered(t.Context(), d.ID); err != nil {
				t.Fatalf("MarkDelivered: %v", err)
			}
		}
	}
}

// soon returns a time at which every delivery without a delay is due.
func soon() time.Time { return time.Now().Add(time.Second) }

func testDelivery(t *testing.T, data Data) {
	s := data.Open(t)
	subscribe(t, s, all("everything"), credstore.Subscription{Name: "ends", Types: []credstore.EventType{credstore.EventRemoved}})
	c := create(t, s, credstore.NewConnection{Name: "acme", Kind: credstore.OAuth})
	l := acquire(t, s, c.ID, "me")
	replace(t, s, l, grant("1"))
	release(t, l)
	save(t, s, next(parentOf(t, s, c.ID), "2")) // a refresh is not a public event

	claimed := claim(t, s, "everything", soon())
	if len(claimed) != 1 || claimed[0].Attempts != 1 || claimed[0].LastError != "" {
		t.Fatalf("ClaimDeliveries = %+v, want one with one attempt", claimed)
	}
	wantSame(t, "the delivered event", claimed[0].Event, history(t, s, c.ID)[1])
	if err := s.Outbox.MarkDelivered(t.Context(), claimed[0].ID); err != nil {
		t.Fatalf("MarkDelivered: %v", err)
	}
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	if err := s.Connections.Remove(t.Context(), c.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	wantSame(t, "the deliveries of everything", drain(t, s, "everything", soon()),
		[]credstore.EventType{credstore.EventReauthorizationRequired, credstore.EventRemoved})
	wantSame(t, "the deliveries of ends", drain(t, s, "ends", soon()), []credstore.EventType{credstore.EventRemoved})
	if next, err := s.Outbox.NextDelivery(t.Context(), "everything"); err != nil || !next.IsZero() {
		t.Errorf("NextDelivery of an empty queue = %v, %v, want zero", next, err)
	}
}

func testDelay(t *testing.T, data Data) {
	s := data.Open(t)
	late := all("late")
	late.Delay = time.Hour
	subscribe(t, s, late)
	c := create(t, s, pair("acme"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	if got := claim(t, s, "late", soon()); len(got) > 0 {
		t.Fatalf("ClaimDeliveries before its time = %+v, want none", got)
	}
	at := history(t, s, c.ID)[1].At.Add(time.Hour)
	next, err := s.Outbox.NextDelivery(t.Context(), "late")
	if err != nil || next.Sub(at).Abs() > time.Second {
		t.Errorf("NextDelivery = %v, %v, want %v", next, err, at)
	}
	if got := claim(t, s, "late", next); len(got) != 1 {
		t.Errorf("ClaimDeliveries at its time = %+v, want one", got)
	}
}

func testDeliveryOrder(t *testing.T, data Data) {
	s := data.Open(t)
	subscribe(t, s, all("hook"))
	c, d := create(t, s, pair("acme")), create(t, s, pair("other"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	requireReauthorization(t, s, parentOf(t, s, d.ID), false)
	now := soon()
	first := claim(t, s, "hook", now)
	save(t, s, next(parentOf(t, s, c.ID), "2"))
	if len(first) != 2 {
		t.Fatalf("ClaimDeliveries = %+v, want one of each connection", first)
	}
	if got := claim(t, s, "hook", now); len(got) > 0 {
		t.Fatalf("ClaimDeliveries while the previous delivery is claimed = %+v, want none", got)
	}
	if next, err := s.Outbox.NextDelivery(t.Context(), "hook"); err != nil || next.Before(now) {
		t.Errorf("NextDelivery while all is claimed = %v, %v, want the end of the claims", next, err)
	}
	for _, d := range first {
		if d.Event.ConnectionID == c.ID {
			if err := s.Outbox.MarkDelivered(t.Context(), d.ID); err != nil {
				t.Fatalf("MarkDelivered: %v", err)
			}
		}
	}
	got := claim(t, s, "hook", now)
	if len(got) != 1 || got[0].Event.Type != credstore.EventRecovered {
		t.Errorf("ClaimDeliveries afterwards = %+v, want the recovery", got)
	}
}

func testRedelivery(t *testing.T, data Data) {
	s := data.Open(t)
	subscribe(t, s, all("hook"))
	c := create(t, s, pair("acme"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	now := soon()
	first, other := claim(t, s, "hook", now), data.Open(t)
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if got := claim(t, other, "hook", now.Add(59*time.Second)); len(got) > 0 {
		t.Errorf("ClaimDeliveries before the claim has ended = %+v, want none", got)
	}
	again := claim(t, other, "hook", now.Add(time.Minute))
	if len(again) != 1 || again[0].Event.ID != first[0].Event.ID || again[0].Attempts != 2 {
		t.Errorf("ClaimDeliveries after it = %+v, want the second attempt of the same event", again)
	}
}

func testMarkDelivered(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	subscribe(t, s, all("hook"))
	const connections = 40
	for i := range connections {
		c := create(t, s, key(fmt.Sprint("c-", i)))
		requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	}
	now := soon()
	var mu sync.Mutex // guards claimed
	claimed := map[int64]int{}
	var all sync.WaitGroup
	for _, store := range []Store{s, other, s, other} {
		all.Go(func() {
			for {
				got, err := store.Outbox.ClaimDeliveries(t.Context(), "hook", "me", now, time.Minute, 3)
				if err != nil {
					t.Errorf("ClaimDeliveries: %v", err)
				}
				if len(got) == 0 {
					return
				}
				mu.Lock()
				for _, d := range got {
					claimed[d.ID]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for id, times := range claimed {
		if times > 1 {
			t.Errorf("delivery %d was claimed %d times at once", id, times)
		}
	}
	if len(claimed) != connections {
		t.Errorf("%d deliveries were claimed, want %d", len(claimed), connections)
	}
}

func testPostpone(t *testing.T, data Data) {
	s := data.Open(t)
	subscribe(t, s, all("hook"))
	c := create(t, s, pair("acme"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	now := soon().Truncate(time.Millisecond)
	id := claim(t, s, "hook", now)[0].ID
	if err := s.Outbox.PostponeDelivery(t.Context(), id, now.Add(time.Hour), "status 500"); err != nil {
		t.Fatalf("PostponeDelivery: %v", err)
	}
	if next, err := s.Outbox.NextDelivery(t.Context(), "hook"); err != nil || !next.Equal(now.Add(time.Hour)) {
		t.Errorf("NextDelivery = %v, %v, want %v", next, err, now.Add(time.Hour))
	}
	if got := claim(t, s, "hook", now.Add(time.Hour-time.Second)); len(got) > 0 {
		t.Errorf("ClaimDeliveries of a postponed one = %+v, want none", got)
	}
	got := claim(t, s, "hook", now.Add(time.Hour))
	if len(got) != 1 || got[0].LastError != "status 500" || got[0].Attempts != 2 {
		t.Fatalf("ClaimDeliveries = %+v, want the second attempt and the error of the first", got)
	}
	for range 2 {
		if err := s.Outbox.AbandonDelivery(t.Context(), id, "status 500 for days"); err != nil {
			t.Fatalf("AbandonDelivery: %v", err)
		}
	}
	if err := s.Outbox.MarkDelivered(t.Context(), id); err != nil {
		t.Errorf("MarkDelivered of an abandoned delivery = %v, want nil", err)
	}
	if err := s.Outbox.PostponeDelivery(t.Context(), id, now, ""); err != nil {
		t.Errorf("PostponeDelivery of an abandoned delivery = %v, want nil", err)
	}
	wantHistory(t, s, c.ID, 2, credstore.EventNotDelivered)
	if got := drain(t, s, "hook", now.Add(24*time.Hour)); len(got) > 0 {
		t.Errorf("deliveries after AbandonDelivery = %v, want none", got)
	}
}

func testDebounce(t *testing.T, data Data) {
	s := data.Open(t)
	patient := all("patient")
	patient.Delay = time.Minute
	only := credstore.Subscription{Name: "only", Types: []credstore.EventType{credstore.EventRecovered}}
	alarms := credstore.Subscription{Name: "alarms", Types: []credstore.EventType{credstore.EventReauthorizationRequired}, Delay: time.Minute}
	subscribe(t, s, patient, only, alarms)
	c := create(t, s, pair("acme"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	save(t, s, next(parentOf(t, s, c.ID), "2"))
	later := soon().Add(time.Hour)
	wantSame(t, "deliveries of a problem that has ended", drain(t, s, "patient", later), []credstore.EventType(nil))
	wantSame(t, "its deliveries to a subscription without recoveries", drain(t, s, "alarms", later), []credstore.EventType(nil))
	wantSame(t, "its deliveries to a subscription of recoveries only", drain(t, s, "only", later), []credstore.EventType{credstore.EventRecovered})
	wantHistory(t, s, c.ID, 1, credstore.EventReauthorizationRequired, credstore.EventRecovered)
}

// testDebounceAfterClaim checks that a recovery is delivered if its alarm may have been
// delivered.
func testDebounceAfterClaim(t *testing.T, data Data) {
	s := data.Open(t)
	subscribe(t, s, all("hook"))
	c := create(t, s, pair("acme"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	now := soon()
	alarm := claim(t, s, "hook", now)[0]
	save(t, s, next(parentOf(t, s, c.ID), "2"))
	if err := s.Outbox.PostponeDelivery(t.Context(), alarm.ID, now, "no response"); err != nil {
		t.Fatalf("PostponeDelivery: %v", err)
	}
	wantSame(t, "the deliveries", drain(t, s, "hook", now), []credstore.EventType{credstore.EventReauthorizationRequired, credstore.EventRecovered})
}

// testAlarmOnce checks that a second rejection of the same credential is recorded in the
// history, but not delivered.
func testAlarmOnce(t *testing.T, data Data) {
	s := data.Open(t)
	subscribe(t, s, all("hook"))
	c := create(t, s, pair("acme"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	drain(t, s, "hook", soon())
	l := acquire(t, s, c.ID, "me")
	f := credstore.Failure{Code: "inactive", At: start()}
	if err := s.Credentials.MarkReauthorizationRequired(t.Context(), l, parentOf(t, s, c.ID), f, credstore.ReasonRefreshTokenInactive, false); err != nil {
		t.Fatalf("MarkReauthorizationRequired: %v", err)
	}
	release(t, l)
	wantHistory(t, s, c.ID, 1, credstore.EventReauthorizationRequired, credstore.EventReauthorizationRequired)
	save(t, s, next(parentOf(t, s, c.ID), "2"))
	wantSame(t, "the deliveries after the first", drain(t, s, "hook", soon()), []credstore.EventType{credstore.EventRecovered})
}

func testSubscribe(t *testing.T, data Data) {
	s := data.Open(t)
	for name, wrong := range map[string][]credstore.Subscription{
		"an event that is not public": {{Name: "a", Types: []credstore.EventType{credstore.EventRefreshed}}},
		"a name twice":                {all("a"), all("a")},
	} {
		if _, err := s.Outbox.Subscribe(t.Context(), wrong); err == nil {
			t.Errorf("Subscribe with %s = nil, want an error", name)
		}
	}
	subscribe(t, s, all("stays"), all("goes"))
	c := create(t, s, pair("acme"))
	requireReauthorization(t, s, parentOf(t, s, c.ID), false)
	_, before, err := s.Changes.Position(t.Context())
	if err != nil {
		t.Fatalf("Position: %v", err)
	}
	for range 2 {
		subscribe(t, s, all("stays"), all("new"))
	}
	if _, after, err := s.Changes.Position(t.Context()); err != nil || after != before {
		t.Errorf("Position after Subscribe = %d, %v, want %d: no connection has changed", after, err, before)
	}
	for name, want := range map[string]int{"stays": 1, "goes": 0, "new": 0} {
		if got := drain(t, s, name, soon()); len(got) != want {
			t.Errorf("deliveries of %q = %v, want %d", name, got, want)
		}
	}
	ended, err := s.Outbox.Subscribe(t.Context(), nil)
	if slices.Sort(ended); err != nil || !slices.Equal(ended, []string{"new", "stays"}) {
		t.Errorf("Subscribe to nothing = %v, %v, want both names", ended, err)
	}
	if ended, err := s.Outbox.Subscribe(t.Context(), nil); err != nil || len(ended) > 0 {
		t.Errorf("Subscribe to nothing again = %v, %v, want none", ended, err)
	}
	save(t, s, next(parentOf(t, s, c.ID), "2"))
	if got := drain(t, s, "stays", soon()); len(got) > 0 {
		t.Errorf("deliveries without a subscription = %v, want none", got)
	}
}

// testQueueBounded checks that a webhook that never responds takes no more space than
// the history.
func testQueueBounded(t *testing.T, data Data) {
	s := data.Open(t)
	subscribe(t, s, credstore.Subscription{Name: "unreachable", Types: []credstore.EventType{credstore.EventConnected}})
	c := create(t, s, key("legacy"))
	for range credstore.MaxEvents + 20 {
		recordEvent(t, s, c.ID, credstore.Event{Type: credstore.EventConnected})
	}
	if got := len(drain(t, s, "unreachable", soon())); got != credstore.MaxEvents {
		t.Errorf("%d deliveries are queued, want the latest %d", got, credstore.MaxEvents)
	}
}

// keyUntil creates a connection with a key that expires at ends.
func keyUntil(t *testing.T, s Store, name string, ends time.Time) credstore.Connection {
	t.Helper()
	n := key(name)
	n.Credential.ExpiresAt = ends
	return create(t, s, n)
}

const day = 24 * time.Hour

func testRecordKeyExpiring(t *testing.T, data Data) {
	s, other := data.Open(t), data.Open(t)
	subscribe(t, s, all("hook"))
	c := keyUntil(t, s, "legacy", start().Add(5*day))
	remind := func(within time.Duration) {
		t.Helper()
		for _, store := range []Store{s, other, s} {
			if err := store.Outbox.RecordKeyExpiring(t.Context(), c.ID, within); err != nil {
				t.Fatalf("RecordKeyExpiring: %v", err)
			}
		}
	}
	remind(day) // too early
	wantHistory(t, s, c.ID, 1)
	remind(7 * day)
	remind(30 * day) // a shorter time was recorded already
	wantHistory(t, s, c.ID, 1, credstore.EventKeyExpiring)
	wantSame(t, "the deliveries", drain(t, s, "hook", soon()), []credstore.EventType{credstore.EventKeyExpiring})

	l := acquire(t, s, c.ID, "me")
	replace(t, s, l, credstore.Replacement{Credential: credstore.NewCredential{APIKey: secret("new"), ExpiresAt: start().Add(6 * day)}})
	release(t, l)
	remind(7 * day)
	wantHistory(t, s, c.ID, 2, credstore.EventKeySet, credstore.EventKeyExpiring)
	wantErr(t, "RecordKeyExpiring of an unknown id", s.Outbox.RecordKeyExpiring(t.Context(), "nothing", day), credstore.ErrNotFound)
}

func testKeysExpiring(t *testing.T, data Data) {
	s := data.Open(t)
	keyUntil(t, s, "ended", start().Add(-day))
	keyUntil(t, s, "soon", start().Add(2*day))
	keyUntil(t, s, "later", start().Add(20*day))
	create(t, s, key("endless"))
	create(t, s, pair("tokens")) // access tokens expire within the hour and are not reported
	covered, short := keyUntil(t, s, "covered", start().Add(2*day)), keyUntil(t, s, "short", start().Add(3*day))
	stage(t, s, covered.ID, "next")
	if err := s.Connections.StageKey(t.Context(), short.ID, secret("next"), start().Add(4*day)); err != nil {
		t.Fatalf("StageKey: %v", err)
	}
	off, rejected := keyUntil(t, s, "off", start().Add(day)), keyUntil(t, s, "rejected", start().Add(day))
	if err := s.Connections.Disable(t.Context(), off.ID, credstore.ReasonOperator); err != nil {
		t.Fatalf("Disable: %v", err)
	}
	requireReauthorization(t, s, parentOf(t, s, rejected.ID), false)
	names := func(within time.Duration, limit int) (names []string) {
		found, err := s.Outbox.KeysExpiring(t.Context(), within, limit)
		if err != nil {
			t.Fatalf("KeysExpiring: %v", err)
		}
		for _, c := range found {
			names = append(names, c.Name)
			if !slices.Contains([]string{"later", "soon"}, c.Name) {
				continue
			}
			if err := s.Outbox.RecordKeyExpiring(t.Context(), c.ID, within); err != nil {
				t.Fatalf("RecordKeyExpiring: %v", err)
			}
		}
		return names
	}
	for _, test := range []struct {
		query credstore.Query
		want  []string
	}{
		{credstore.Query{KeyExpiresBefore: start()}, []string{"ended"}},
		{credstore.Query{KeyExpiresBefore: start().Add(7 * day)}, []string{"ended", "short", "soon"}},
		{credstore.Query{KeyExpiresBefore: start().Add(30 * day), Search: "later"}, []string{"later"}},
		{credstore.Query{KeyExpiresBefore: start().Add(30 * day), Status: credstore.Disabled}, []string{}},
	} {
		test.query.Limit = 1
		wantSame(t, fmt.Sprintf("List(%+v)", test.query), listAll(t.Context(), t, s, test.query), test.want)
	}
	wantSame(t, "KeysExpiring within a day", names(day, 10), []string{"ended"})
	wantSame(t, "KeysExpiring within 7 days, of which 2", names(7*day, 2), []string{"ended", "soon"})
	wantSame(t, "KeysExpiring within 7 days", names(7*day, 10), []string{"ended", "short"})
	wantSame(t, "KeysExpiring within 30 days", names(30*day, 10), []string{"ended", "short", "later"})
}

func testKeyExpiry(t *testing.T, data Data) {
	s := data.Open(t)
	c := keyUntil(t, s, "legacy", start().Add(day))
	ends := start().Add(90 * day)
	if err := s.Connections.StageKey(t.Context(), c.ID, secret("next"), ends); err != nil {
		t.Fatalf("StageKey: %v", err)
	}
	got := read(t, s, c.ID)
	if !got.Connection.ExpiresAt.Equal(c.ExpiresAt) || !got.Credential.NextKeyExpiresAt.Equal(ends) || !got.Credential.ExpiresAt.IsZero() {
		t.Errorf("state = %+v, want the expiry times of the key and of the next key", got)
	}
	l := acquire(t, s, c.ID, "me")
	defer release(t, l)
	promoted, err := s.Credentials.PromoteKey(t.Context(), l, got.Credential.Parent())
	if err != nil || !promoted.ExpiresAt.Equal(ends) {
		t.Errorf("PromoteKey = until %v, %v, want %v", promoted.ExpiresAt, err, ends)
	}
	if got := read(t, s, c.ID).Credential; !got.NextKeyExpiresAt.IsZero() {
		t.Errorf("NextKeyExpiresAt = %v, want zero", got.NextKeyExpiresAt)
	}
}
