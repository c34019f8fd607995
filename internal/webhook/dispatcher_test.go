package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// results returns the metric as result → count, without those that are 0.
func results(t *testing.T, registry *prometheus.Registry) map[string]int {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, m := range families[0].GetMetric() {
		if n := int(m.GetCounter().GetValue()); n > 0 {
			counts[m.GetLabel()[0].GetValue()] = n
		}
	}
	return counts
}

func summaries(all []delivery) []string {
	var said []string
	for _, g := range all {
		said = append(said, g.String())
	}
	return said
}

// TestDeliversEvents: every event of a connection's life arrives in
// order, as the connection was then, signed, and the log says the same.
func TestDeliversEvents(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	registry := prometheus.NewRegistry()
	defer w.run(w.store, "p1", fastTiming(), registry, r)()
	c := w.add("acme", time.Time{})
	w.reject(c)
	r.await(1)
	w.reinstate(c)
	r.await(2)
	w.remove(c)
	r.await(3)
	w.waitForDeliveries(r)
	want := []string{
		"connection.reauthorization_required acme reauthorization_required",
		"connection.recovered acme active",
		"connection.removed acme active",
	}
	if diff := cmp.Diff(want, summaries(r.deliveries())); diff != "" {
		t.Errorf("what arrived (-want +got):\n%s", diff)
	}
	if got, want := results(t, registry), map[string]int{"delivered": 3}; !cmp.Equal(got, want) {
		t.Errorf("pleo_webhook_deliveries_total = %v, want %v", got, want)
	}
	for _, g := range r.deliveries() {
		if g.id == "" || time.Since(g.Timestamp) > time.Minute || g.Timestamp.Location() != time.UTC {
			t.Errorf("id %q, timestamp %v, want an id, and a recent time in UTC", g.id, g.Timestamp)
		}
	}
	var logged []string
	for _, entry := range w.log.FilterMessageSnippet("connection.").All() {
		logged = append(logged, fmt.Sprintf("%s %v %v", entry.Message, entry.ContextMap()["connection"], entry.ContextMap()["status"]))
	}
	if diff := cmp.Diff(want, logged); diff != "" {
		t.Errorf("the log says (-want +got):\n%s", diff)
	}
	w.wantNoSecret(r)
}

// wantNoSecret searches all that was said for what must not be.
func (w *env) wantNoSecret(receivers ...*receiver) {
	w.t.Helper()
	said := ""
	for _, r := range receivers {
		for _, g := range r.deliveries() {
			said += g.body
		}
	}
	for _, entry := range w.log.All() {
		said += fmt.Sprintln(entry.Message, entry.ContextMap())
	}
	for _, secret := range []string{canary, strings.TrimPrefix(oldSecret, secretPrefix), strings.TrimPrefix(newSecret, secretPrefix), "canary-url"} {
		if strings.Contains(said, secret) {
			w.t.Errorf("%q is in what was said:\n%s", secret, said)
		}
	}
}

// TestSignsWithAllSecrets: a receiver that knows the old or the new
// secret only takes what is sent meanwhile.
func TestSignsWithAllSecrets(t *testing.T) {
	w := newEnv(t)
	byOld := make(chan error, 1)
	r := newReceiver(t, func(_ http.ResponseWriter, req *http.Request, _ int, g delivery) {
		verifier, err := standardwebhooks.NewWebhook(oldSecret)
		if err == nil {
			err = verifier.Verify([]byte(g.body), req.Header)
		}
		byOld <- err
	})
	r.secrets = "# rotated in March\n" + newSecret + "\n\n" + oldSecret + "\n"
	defer w.run(w.store, "p1", fastTiming(), nil, r)()
	w.reject(w.add("acme", time.Time{}))
	if err := <-byOld; err != nil {
		t.Errorf("a receiver with the old secret says %v", err)
	}
}

// TestRetriesFailedDelivery: whatever a receiver does but take it, a delivery
// comes again with the same id and body.
func TestRetriesFailedDelivery(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, tt := range []struct {
		name string
		fail http.HandlerFunc
	}{
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }},
		{"404", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}},
		{"busy", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "1"); w.WriteHeader(503) }},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{"hangs", hang},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newEnv(t)
			r := newReceiver(t, func(rw http.ResponseWriter, r *http.Request, n int, _ delivery) {
				if n < 2 {
					tt.fail(rw, r)
				}
			})
			p := fastTiming()
			p.attemptTimeout = 500 * time.Millisecond
			registry := prometheus.NewRegistry()
			defer w.run(w.store, "p1", p, registry, r)()
			w.reject(w.add("acme", time.Time{}))
			all := r.await(3)
			w.waitForDeliveries(r)
			if all[0].id != all[2].id || all[0].body != all[2].body || len(r.deliveries()) != 3 {
				t.Errorf("arrived %+v, want three times the same", r.deliveries())
			}
			if got, want := results(t, registry), map[string]int{"failed": 2, "delivered": 1}; !cmp.Equal(got, want) {
				t.Errorf("pleo_webhook_deliveries_total = %v, want %v", got, want)
			}
			w.wantNoSecret(r)
		})
	}
}

// TestObeysRetryAfter as long as it asks for.
func TestObeysRetryAfter(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, _ int, _ delivery) {
		rw.Header().Set("Retry-After", "7200")
		rw.WriteHeader(http.StatusTooManyRequests)
	})
	stop := w.run(w.store, "p1", fastTiming(), nil, r)
	before := time.Now()
	w.reject(w.add("acme", time.Time{}))
	for w.log.FilterMessageSnippet("was not told of an event yet").Len() == 0 {
		time.Sleep(time.Millisecond)
	}
	stop()
	next, err := w.store.NextDelivery(t.Context(), r.endpoint().subscriptionName())
	if err != nil || next.Sub(before).Round(time.Minute) != 2*time.Hour {
		t.Errorf("the next try is at %v, %v, want two hours after %v", next, err, before)
	}
}

// TestParseRetryAfter in seconds or by a date, and not beyond a day.
func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		value string
		want  time.Duration
	}{
		{"", 0},
		{"120", 2 * time.Minute},
		{"-1", 0},
		{"31536000", 24 * time.Hour},
		{"Wed, 02 Jan 2030 04:04:05 GMT", time.Hour},
		{"Wed, 02 Jan 2030 02:04:05 GMT", 0},
		{"Tue, 01 Jan 2099 00:00:00 GMT", 24 * time.Hour},
		{"soon", 0},
	} {
		resp := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {test.value}}}
		var busy *retryAfterError
		got := time.Duration(0)
		if errors.As(responseError(resp, now), &busy) {
			got = busy.after
		}
		if got != test.want {
			t.Errorf("Retry-After: %s is %v, want %v", test.value, got, test.want)
		}
	}
}

// TestAbandonsDeliveryAfterLastRetry after the last try, and that stands in the history.
func TestAbandonsDeliveryAfterLastRetry(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, _ int, _ delivery) { rw.WriteHeader(500) })
	registry := prometheus.NewRegistry()
	defer w.run(w.store, "p1", fastTiming(), registry, r)()
	c := w.add("acme", time.Time{})
	w.reject(c)
	w.waitForDeliveries(r)
	if got, want := results(t, registry), map[string]int{"failed": 3, "abandoned": 1}; !cmp.Equal(got, want) {
		t.Errorf("pleo_webhook_deliveries_total = %v, want %v", got, want)
	}
	page, err := w.store.History(t.Context(), c.ID, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if e := page.Events[0]; e.Type != credstore.EventNotDelivered || !strings.Contains(e.Message, "the receiver answered 500") || strings.Contains(e.Message, "canary") {
		t.Errorf("the latest event is %+v, want that nobody was told, and why", e)
	}
}

// TestReceiverGone is told nothing more, which the log says once.
func TestReceiverGone(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, _ int, _ delivery) { rw.WriteHeader(http.StatusGone) })
	other := newReceiver(t, nil)
	registry := prometheus.NewRegistry()
	defer w.run(w.store, "p1", fastTiming(), registry, r, other)()
	c := w.add("acme", time.Time{})
	w.reject(c)
	r.await(1)
	w.waitForDeliveries(r)
	w.reinstate(c)
	w.remove(c)
	w.waitForDeliveries(r)
	w.waitForDeliveries(other)
	if n := len(r.deliveries()); n != 1 {
		t.Errorf("%d deliveries have arrived where 410 was answered, want 1", n)
	}
	if n := w.log.FilterMessageSnippet("410 Gone").Len(); n != 1 {
		t.Errorf("the log says it %d times, want once", n)
	}
	if got, want := results(t, registry), map[string]int{"gone": 3, "delivered": 3}; !cmp.Equal(got, want) {
		t.Errorf("pleo_webhook_deliveries_total = %v, want %v", got, want)
	}
}

// TestReceiversAreIndependent: one that hangs keeps neither the others
// nor the store's writers waiting, and the events of a connection that fail do
// not hold up those of others.
func TestReceiversAreIndependent(t *testing.T) {
	w := newEnv(t)
	var awake atomic.Bool
	slow := newReceiver(t, func(_ http.ResponseWriter, r *http.Request, _ int, _ delivery) {
		if !awake.Load() {
			<-r.Context().Done()
		}
	})
	picky := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, _ int, g delivery) {
		if g.Data.Name == "bad" {
			rw.WriteHeader(500)
		}
	})
	p := fastTiming()
	p.attemptTimeout = time.Minute
	p.retryDelays = []time.Duration{time.Hour}
	stop := w.run(w.store, "p1", p, nil, slow, picky)
	bad := w.add("bad", time.Time{})
	w.reject(bad)
	for i := range 2 * maxConcurrentDeliveries {
		w.reject(w.add(fmt.Sprintf("good-%d", i), time.Time{}))
	}
	picky.await(1 + 2*maxConcurrentDeliveries)
	slow.await(maxConcurrentDeliveries)
	began := time.Now()
	stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopping took %v with a receiver that hangs", took)
	}
	if n := len(slow.deliveries()); n != maxConcurrentDeliveries {
		t.Errorf("%d deliveries to a receiver that hangs, want %d at a time", n, maxConcurrentDeliveries)
	}
	// What was under way is made again by the next process.
	awake.Store(true)
	defer w.run(w.store, "p2", fastTiming(), nil, slow)()
	slow.await(maxConcurrentDeliveries + 1 + 2*maxConcurrentDeliveries)
}

// TestOrderPerConnection: the second event of a connection waits for the first.
func TestOrderPerConnection(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, n int, _ delivery) {
		if n < 3 {
			rw.WriteHeader(500)
		}
	})
	defer w.run(w.store, "p1", fastTiming(), nil, r)()
	c := w.add("acme", time.Time{})
	w.reject(c)
	r.await(1)
	w.reinstate(c)
	w.remove(c)
	w.waitForDeliveries(r)
	var order []string
	for _, g := range r.deliveries() {
		order = append(order, strings.TrimPrefix(g.Type, "connection."))
	}
	want := "reauthorization_required reauthorization_required reauthorization_required reauthorization_required recovered removed"
	if got := strings.Join(order, " "); got != want {
		t.Errorf("arrived %s, want %s", got, want)
	}
}

// observedOutbox is an outbox that tells when it was asked how long a webhook may rest.
type observedOutbox struct {
	credstore.Outbox
	rests chan struct{}
}

func (a observedOutbox) NextDelivery(ctx context.Context, subscription string) (time.Time, error) {
	next, err := a.Outbox.NextDelivery(ctx, subscription)
	if subscription != "log" {
		a.rests <- struct{}{}
	}
	return next, err
}

// TestNextEventIsNotDelayed also where the outbox is looked at only when somebody
// rings: the second event of a connection came while the first was under way, and
// nothing rings when that has arrived.
func TestNextEventIsNotDelayed(t *testing.T) {
	w := newEnv(t)
	answer := make(chan struct{})
	r := newReceiver(t, func(http.ResponseWriter, *http.Request, int, delivery) { <-answer })
	p := fastTiming()
	p.claimDuration, p.idlePollInterval = time.Hour, time.Hour
	outbox := observedOutbox{w.store, make(chan struct{}, 10000)}
	n := newDispatcher(Config{
		Outbox: outbox, Owner: "p1", EventDriven: true, Endpoints: []Endpoint{r.endpoint()}, Describe: func(credstore.Connection) any { return nil },
	}, p)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	if !n.subscribe(ctx) {
		t.Fatal("not subscribed")
	}
	c := w.add("acme", time.Time{})
	w.reject(c)
	go func() { defer close(done); n.Run(ctx) }()
	r.await(1)
	w.remove(c)
	n.Wake()
	<-outbox.rests // at the first event's turn, for an hour
	close(answer)
	all := r.await(2)
	cancel()
	<-done
	if got := all[1].Type; got != "connection.removed" {
		t.Errorf("arrived %s, want connection.removed", got)
	}
}

// crashingOutbox is an outbox whose process is killed after the receiver has
// answered: nothing is written down any more.
type crashingOutbox struct{ credstore.Outbox }

var errKilled = errors.New("killed")

func (crashingOutbox) MarkDelivered(context.Context, int64) error { return errKilled }
func (crashingOutbox) PostponeDelivery(context.Context, int64, time.Time, string) error {
	return errKilled
}

// TestCrashBeforeRecording: what was delivered and not written down is delivered
// again, with the same id, once the claim has lapsed.
func TestCrashBeforeRecording(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	p := fastTiming()
	p.claimDuration = 300 * time.Millisecond
	stop := w.run(crashingOutbox{w.store}, "p1", p, nil, r)
	w.reject(w.add("acme", time.Time{}))
	first := r.await(1)[0]
	stop()
	defer w.run(w.store, "p2", p, nil, r)()
	all := r.await(2)
	w.waitForDeliveries(r)
	if again := all[len(all)-1]; again.id != first.id || again.body != first.body {
		t.Errorf("after the crash arrived %+v, want %+v again", again, first)
	}
}

// TestReplicasShareDeliveries: of several processes each delivery is made by one.
func TestReplicasShareDeliveries(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	for _, owner := range []string{"p1", "p2", "p3"} {
		defer w.run(w.store, owner, fastTiming(), nil, r)()
	}
	const connections = 30
	for i := range connections {
		w.reject(w.add(fmt.Sprintf("c%d", i), time.Time{}))
	}
	r.await(connections)
	w.waitForDeliveries(r)
	ids := map[string]int{}
	for _, g := range r.deliveries() {
		ids[g.id]++
	}
	if len(ids) != connections || len(r.deliveries()) != connections {
		t.Errorf("%d deliveries of %d events, want %d of each", len(r.deliveries()), len(ids), connections)
	}
	if n := w.log.FilterMessage("connection.reauthorization_required").Len(); n != connections {
		t.Errorf("the log says it %d times, want %d", n, connections)
	}
}

// TestReplicaWithoutEndpoint ends its subscription for all, and says so once.
func TestReplicaWithoutEndpoint(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	const ended = "receivers are told nothing any more"
	for _, start := range []struct {
		webhooks []Endpoint
		want     int // that the log has said it
	}{{[]Endpoint{r.endpoint()}, 0}, {[]Endpoint{r.endpoint()}, 0}, {nil, 1}, {nil, 1}} {
		n := New(Config{Outbox: w.store, Endpoints: start.webhooks, Owner: "p", Logger: w.logger})
		if !n.subscribe(t.Context()) {
			t.Fatal("subscribe = false")
		}
		said := w.log.FilterMessageSnippet(ended).All()
		if len(said) != start.want {
			t.Errorf("started with %d webhooks, the log says %d times that %s, want %d", len(start.webhooks), len(said), ended, start.want)
		}
		for _, s := range said {
			if names := fmt.Sprint(s.ContextMap()["receivers"]); !strings.Contains(names, r.endpoint().URL.Host) {
				t.Errorf("the log names %s, want the host of the receiver", names)
			}
		}
	}
}

// TestShortOutageIsNotDelivered wakes nobody.
func TestShortOutageIsNotDelivered(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	p := fastTiming()
	p.settleDelay = time.Second
	defer w.run(w.store, "p1", p, nil, r)()
	c := w.add("acme", time.Time{})
	w.reject(c)
	w.reinstate(c)
	w.remove(c)
	r.await(1)
	w.waitForDeliveries(r)
	if got, want := summaries(r.deliveries()), []string{"connection.removed acme active"}; !slices.Equal(got, want) {
		t.Errorf("arrived %v, want %v", got, want)
	}
}

// TestDeliversSelectedEventTypes arrives.
func TestDeliversSelectedEventTypes(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	hook := r.endpoint()
	hook.Types = []credstore.EventType{credstore.EventRemoved}
	n := newDispatcher(Config{Outbox: w.store, Owner: "p1", Endpoints: []Endpoint{hook}, Describe: func(c credstore.Connection) any { return nil }}, fastTiming())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	if !n.subscribe(ctx) {
		t.Fatal("not subscribed")
	}
	go func() { defer close(done); n.Run(ctx) }()
	c := w.add("acme", time.Time{})
	w.reject(c)
	w.remove(c)
	r.await(1)
	w.waitForDeliveries(r)
	cancel()
	<-done
	if all := r.deliveries(); len(all) != 1 || all[0].Type != "connection.removed" {
		t.Errorf("arrived %v, want connection.removed alone", all)
	}
}

// TestInvalidSecretsDelayDelivery: a delivery waits until it can be signed again.
func TestInvalidSecretsDelayDelivery(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	broken := make(chan struct{})
	hook := r.endpoint()
	hook.Secrets = func() credstore.Secret {
		select {
		case <-broken:
			return credstore.NewSecret(newSecret)
		default:
			return credstore.NewSecret("canary-key is no secret")
		}
	}
	p := fastTiming()
	p.retryDelays = slices.Repeat([]time.Duration{10 * time.Millisecond}, 1000)
	n := newDispatcher(Config{Outbox: w.store, Owner: "p1", Endpoints: []Endpoint{hook}, Logger: w.logger, Describe: func(credstore.Connection) any { return nil }}, p)
	ctx, cancel := context.WithCancel(t.Context())
	if !n.subscribe(ctx) {
		t.Fatal("not subscribed")
	}
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	w.reject(w.add("acme", time.Time{}))
	for w.log.FilterMessageSnippet("was not told of an event yet").Len() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(broken)
	r.await(1)
	cancel()
	<-done
	w.wantNoSecret(r)
}

// TestExpiringKeys are told of once, by the nearest of the days.
func TestExpiringKeys(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	for name, ends := range map[string]time.Duration{"tomorrow": 20 * time.Hour, "this-week": 6 * day, "this-month": 29 * day, "later": 31 * day, "past": -day} {
		w.add(name, time.Now().Add(ends))
	}
	w.add("never", time.Time{})
	defer w.run(w.store, "p1", fastTiming(), nil, r)()
	defer w.run(w.store, "p2", fastTiming(), nil, r)()
	r.await(4)
	w.waitForDeliveries(r)
	got := summaries(r.deliveries())
	slices.Sort(got)
	want := []string{
		"connection.key_expiring past active", "connection.key_expiring this-month active",
		"connection.key_expiring this-week active", "connection.key_expiring tomorrow active",
	}
	if !slices.Equal(got, want) {
		t.Errorf("arrived %v, want %v", got, want)
	}
}

func TestMetricStartsAtZero(t *testing.T) {
	registry := prometheus.NewRegistry()
	newMetric(registry)
	if n, err := testutil.GatherAndCount(registry, "pleo_webhook_deliveries_total"); err != nil || n != 4 {
		t.Errorf("%d results, %v, want 4", n, err)
	}
}

func TestDefaultTiming(t *testing.T) {
	total := time.Duration(0)
	for _, wait := range defaultTiming().retryDelays {
		for range 100 {
			if j := defaultTiming().jitter(wait); j < wait*4/5 || j > wait*6/5 {
				t.Fatalf("a wait of %v becomes %v, want a fifth more or less", wait, j)
			}
		}
		total += wait
	}
	if total < 3*day || total > 5*day {
		t.Errorf("a receiver may be away for %v, want three days or more", total)
	}
	if p := defaultTiming(); p.attemptTimeout+recordTimeout >= p.claimDuration {
		t.Errorf("a try of %v and the writing of its outcome, %v, outlast the claim of %v", p.attemptTimeout, recordTimeout, p.claimDuration)
	}
}
