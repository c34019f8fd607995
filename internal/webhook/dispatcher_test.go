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
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// results returns the values of the metric by result, without zeros.
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
	var texts []string
	for _, g := range all {
		texts = append(texts, g.String())
	}
	return texts
}

// TestDeliversEvents checks that the events of a connection arrive in order, signed,
// with the connection as it was at each event, and that the log has the same events.
func TestDeliversEvents(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	registry := prometheus.NewRegistry()
	defer w.run(w.store.Outbox, "p1", fastTiming(), registry, r)()
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
		t.Errorf("deliveries differ (-want +got):\n%s", diff)
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
	for _, entry := range w.log.FilterMessage("connection event").All() {
		logged = append(logged, fmt.Sprintf("%v %v %v", entry.ContextMap()["event"], entry.ContextMap()["connection"], entry.ContextMap()["status"]))
	}
	if diff := cmp.Diff(want, logged); diff != "" {
		t.Errorf("logged events differ (-want +got):\n%s", diff)
	}
	w.wantNoSecret(r)
}

// wantNoSecret checks that neither deliveries nor the log contain a secret.
func (w *env) wantNoSecret(receivers ...*receiver) {
	w.t.Helper()
	text := ""
	for _, r := range receivers {
		for _, g := range r.deliveries() {
			text += g.body
		}
	}
	for _, entry := range w.log.All() {
		text += fmt.Sprintln(entry.Message, entry.ContextMap())
	}
	for _, secret := range []string{canary, strings.TrimPrefix(oldSecret, secretPrefix), strings.TrimPrefix(newSecret, secretPrefix), "canary-url"} {
		if strings.Contains(text, secret) {
			w.t.Errorf("%q appears in a delivery or in the log:\n%s", secret, text)
		}
	}
}

// TestSignsWithAllSecrets checks that receivers with the old secret and receivers
// with the new one accept a delivery while both are configured.
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
	defer w.run(w.store.Outbox, "p1", fastTiming(), nil, r)()
	w.reject(w.add("acme", time.Time{}))
	if err := <-byOld; err != nil {
		t.Errorf("a receiver with the old secret rejects the signature: %v", err)
	}
}

// TestRetriesFailedDelivery checks that a delivery which the receiver does not accept
// is repeated with the same id and body.
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
		{"503 with Retry-After", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "1"); w.WriteHeader(503) }},
		{"connection closed", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{"timeout", hang},
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
			defer w.run(w.store.Outbox, "p1", p, registry, r)()
			w.reject(w.add("acme", time.Time{}))
			all := r.await(3)
			w.waitForDeliveries(r)
			if all[0].id != all[2].id || all[0].body != all[2].body || len(r.deliveries()) != 3 {
				t.Errorf("received %+v, want the same delivery three times", r.deliveries())
			}
			if got, want := results(t, registry), map[string]int{"failed": 2, "delivered": 1}; !cmp.Equal(got, want) {
				t.Errorf("pleo_webhook_deliveries_total = %v, want %v", got, want)
			}
			w.wantNoSecret(r)
		})
	}
}

// TestObeysRetryAfter checks that the next attempt waits as long as the receiver asks.
func TestObeysRetryAfter(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, _ int, _ delivery) {
		rw.Header().Set("Retry-After", "7200")
		rw.WriteHeader(http.StatusTooManyRequests)
	})
	stop := w.run(w.store.Outbox, "p1", fastTiming(), nil, r)
	before := time.Now()
	w.reject(w.add("acme", time.Time{}))
	for w.log.FilterMessageSnippet("webhook delivery failed").Len() == 0 {
		time.Sleep(time.Millisecond)
	}
	stop()
	next, err := w.store.Outbox.NextDelivery(t.Context(), r.endpoint().subscriptionName())
	if err != nil || next.Sub(before).Round(time.Minute) != 2*time.Hour {
		t.Errorf("next attempt at %v, %v, want two hours after %v", next, err, before)
	}
}

// TestAbandonsDeliveryAfterLastRetry checks the metric and the history.
func TestAbandonsDeliveryAfterLastRetry(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, _ int, _ delivery) { rw.WriteHeader(500) })
	registry := prometheus.NewRegistry()
	defer w.run(w.store.Outbox, "p1", fastTiming(), registry, r)()
	c := w.add("acme", time.Time{})
	w.reject(c)
	w.waitForDeliveries(r)
	if got, want := results(t, registry), map[string]int{"failed": 3, "abandoned": 1}; !cmp.Equal(got, want) {
		t.Errorf("pleo_webhook_deliveries_total = %v, want %v", got, want)
	}
	page, err := w.store.History.Events(t.Context(), c.ID, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if e := page.Events[0]; e.Type != credstore.EventNotDelivered || !strings.Contains(e.Message, "the receiver returned status 500") || strings.Contains(e.Message, "canary") {
		t.Errorf("latest event = %+v, want EventNotDelivered with the reason", e)
	}
}

// TestReceiverGone checks that nothing more is sent after a 410, which is logged once.
func TestReceiverGone(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, _ int, _ delivery) { rw.WriteHeader(http.StatusGone) })
	other := newReceiver(t, nil)
	registry := prometheus.NewRegistry()
	defer w.run(w.store.Outbox, "p1", fastTiming(), registry, r, other)()
	c := w.add("acme", time.Time{})
	w.reject(c)
	r.await(1)
	w.waitForDeliveries(r)
	w.reinstate(c)
	w.remove(c)
	w.waitForDeliveries(r)
	w.waitForDeliveries(other)
	if n := len(r.deliveries()); n != 1 {
		t.Errorf("%d deliveries after status 410, want 1", n)
	}
	if n := w.log.FilterMessageSnippet("410 Gone").Len(); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	if got, want := results(t, registry), map[string]int{"gone": 3, "delivered": 3}; !cmp.Equal(got, want) {
		t.Errorf("pleo_webhook_deliveries_total = %v, want %v", got, want)
	}
}

// TestReceiversAreIndependent checks that a receiver which does not respond delays
// neither other receivers nor writes to the store, and that a failing delivery delays
// no other connection's.
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
	stop := w.run(w.store.Outbox, "p1", p, nil, slow, picky)
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
		t.Errorf("stopping took %v while a receiver did not respond", took)
	}
	if n := len(slow.deliveries()); n != maxConcurrentDeliveries {
		t.Errorf("%d concurrent deliveries to a receiver that does not respond, want %d", n, maxConcurrentDeliveries)
	}
	// The next process repeats the interrupted deliveries.
	awake.Store(true)
	defer w.run(w.store.Outbox, "p2", fastTiming(), nil, slow)()
	slow.await(maxConcurrentDeliveries + 1 + 2*maxConcurrentDeliveries)
}

// TestOrderPerConnection checks that the second event of a connection waits until the
// first was delivered.
func TestOrderPerConnection(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, n int, _ delivery) {
		if n < 3 {
			rw.WriteHeader(500)
		}
	})
	defer w.run(w.store.Outbox, "p1", fastTiming(), nil, r)()
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
		t.Errorf("received %s, want %s", got, want)
	}
}

// observedOutbox is an outbox that reports calls of NextDelivery.
type observedOutbox struct {
	credstore.Outbox
	asked chan struct{} // receives one for each call
}

func (a observedOutbox) NextDelivery(ctx context.Context, subscription string) (time.Time, error) {
	next, err := a.Outbox.NextDelivery(ctx, subscription)
	if subscription != "log" {
		a.asked <- struct{}{}
	}
	return next, err
}

// TestNextEventIsNotDelayed checks an event-driven dispatcher: the second event of a
// connection occurs during the delivery of the first, whose end is no event.
func TestNextEventIsNotDelayed(t *testing.T) {
	w := newEnv(t)
	respond := make(chan struct{})
	r := newReceiver(t, func(http.ResponseWriter, *http.Request, int, delivery) { <-respond })
	p := fastTiming()
	p.claimDuration, p.idlePollInterval = time.Hour, time.Hour
	outbox := observedOutbox{w.store.Outbox, make(chan struct{}, 10000)}
	d, stop := w.start(Config{Outbox: outbox, Owner: "p1", EventDriven: true, Endpoints: []Endpoint{r.endpoint()}}, p)
	defer stop()
	c := w.add("acme", time.Time{})
	w.reject(c)
	d.Wake()
	r.await(1)
	for len(outbox.asked) > 0 {
		<-outbox.asked
	}
	w.remove(c)
	d.Wake()
	<-outbox.asked // now it waits for an hour, unless the delivery ends
	close(respond)
	if got := r.await(2)[1].Type; got != "connection.removed" {
		t.Errorf("received %s, want connection.removed", got)
	}
}

// crashingOutbox is the outbox of a process that is killed after the receiver has
// responded: no result is recorded.
type crashingOutbox struct{ credstore.Outbox }

var errKilled = errors.New("killed")

func (crashingOutbox) MarkDelivered(context.Context, int64) error { return errKilled }
func (crashingOutbox) PostponeDelivery(context.Context, int64, time.Time, string) error {
	return errKilled
}

// TestCrashBeforeRecording checks that a delivery without a recorded result is
// repeated with the same id when its claim expires.
func TestCrashBeforeRecording(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	p := fastTiming()
	p.claimDuration = 300 * time.Millisecond
	stop := w.run(crashingOutbox{w.store.Outbox}, "p1", p, nil, r)
	w.reject(w.add("acme", time.Time{}))
	first := r.await(1)[0]
	stop()
	defer w.run(w.store.Outbox, "p2", p, nil, r)()
	all := r.await(2)
	w.waitForDeliveries(r)
	if again := all[len(all)-1]; again.id != first.id || again.body != first.body {
		t.Errorf("after the crash received %+v, want %+v again", again, first)
	}
}

// TestReplicasShareDeliveries checks that several processes deliver each event once.
func TestReplicasShareDeliveries(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	for _, owner := range []string{"p1", "p2", "p3"} {
		defer w.run(w.store.Outbox, owner, fastTiming(), nil, r)()
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
	if n := w.log.FilterField(zap.String("event", "connection.reauthorization_required")).Len(); n != connections {
		t.Errorf("logged %d times, want %d", n, connections)
	}
}

// TestReplicaWithoutEndpoint checks that a replica which does not configure an
// endpoint ends its subscription for all replicas, and logs it once.
func TestReplicaWithoutEndpoint(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	const ended = "webhooks removed for all replicas"
	for _, start := range []struct {
		webhooks []Endpoint
		want     int // log entries so far
	}{{[]Endpoint{r.endpoint()}, 0}, {[]Endpoint{r.endpoint()}, 0}, {nil, 1}, {nil, 1}} {
		n := New(Config{Outbox: w.store.Outbox, Endpoints: start.webhooks, Owner: "p", Logger: w.logger})
		if !n.subscribe(t.Context()) {
			t.Fatal("subscribe = false")
		}
		entries := w.log.FilterMessageSnippet(ended).All()
		if len(entries) != start.want {
			t.Errorf("started with %d webhooks: %d log entries %q, want %d", len(start.webhooks), len(entries), ended, start.want)
		}
		for _, e := range entries {
			if names := fmt.Sprint(e.ContextMap()["receivers"]); !strings.Contains(names, r.endpoint().URL.Host) {
				t.Errorf("the log names %s, want the host of the receiver", names)
			}
		}
	}
}

// TestShortOutageIsNotDelivered checks that neither the start nor the end of an
// outage is delivered if it ends within the settle delay.
func TestShortOutageIsNotDelivered(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	p := fastTiming()
	p.settleDelay = time.Second
	defer w.run(w.store.Outbox, "p1", p, nil, r)()
	c := w.add("acme", time.Time{})
	w.reject(c)
	w.reinstate(c)
	w.remove(c)
	r.await(1)
	w.waitForDeliveries(r)
	if got, want := summaries(r.deliveries()), []string{"connection.removed acme active"}; !slices.Equal(got, want) {
		t.Errorf("received %v, want %v", got, want)
	}
}

func TestDeliversSelectedEventTypes(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	hook := r.endpoint()
	hook.Types = []credstore.EventType{credstore.EventRemoved}
	_, stop := w.start(Config{Outbox: w.store.Outbox, Owner: "p1", Endpoints: []Endpoint{hook}}, fastTiming())
	defer stop()
	c := w.add("acme", time.Time{})
	w.reject(c)
	w.remove(c)
	r.await(1)
	w.waitForDeliveries(r)
	if all := r.deliveries(); len(all) != 1 || all[0].Type != "connection.removed" {
		t.Errorf("received %v, want only connection.removed", all)
	}
}

// TestInvalidSecretsDelayDelivery checks that a delivery is retried until it can be
// signed.
func TestInvalidSecretsDelayDelivery(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	fixed := make(chan struct{})
	hook := r.endpoint()
	hook.Secrets = func() credstore.Secret {
		select {
		case <-fixed:
			return credstore.NewSecret(newSecret)
		default:
			return credstore.NewSecret("canary-key is not a secret")
		}
	}
	p := fastTiming()
	p.retryDelays = slices.Repeat([]time.Duration{10 * time.Millisecond}, 1000)
	_, stop := w.start(Config{Outbox: w.store.Outbox, Owner: "p1", Endpoints: []Endpoint{hook}}, p)
	defer stop()
	w.reject(w.add("acme", time.Time{}))
	for w.log.FilterMessageSnippet("webhook delivery failed").Len() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(fixed)
	r.await(1)
	w.wantNoSecret(r)
}

// TestExpiringKeys checks that each key has one event, for the shortest period that
// applies.
func TestExpiringKeys(t *testing.T) {
	w := newEnv(t)
	r := newReceiver(t, nil)
	for name, until := range map[string]time.Duration{"tomorrow": 20 * time.Hour, "this-week": 6 * day, "this-month": 29 * day, "later": 31 * day, "past": -day} {
		w.add(name, time.Now().Add(until))
	}
	w.add("never", time.Time{})
	defer w.run(w.store.Outbox, "p1", fastTiming(), nil, r)()
	defer w.run(w.store.Outbox, "p2", fastTiming(), nil, r)()
	r.await(4)
	w.waitForDeliveries(r)
	got := summaries(r.deliveries())
	slices.Sort(got)
	want := []string{
		"connection.key_expiring past active", "connection.key_expiring this-month active",
		"connection.key_expiring this-week active", "connection.key_expiring tomorrow active",
	}
	if !slices.Equal(got, want) {
		t.Errorf("received %v, want %v", got, want)
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
	for _, delay := range defaultTiming().retryDelays {
		for range 100 {
			if j := defaultTiming().jitter(delay); j < delay*4/5 || j > delay*6/5 {
				t.Fatalf("a delay of %v becomes %v, want at most a fifth more or less", delay, j)
			}
		}
		total += delay
	}
	if total < 3*day || total > 5*day {
		t.Errorf("retries end after %v, want three to five days", total)
	}
	if p := defaultTiming(); p.attemptTimeout+recordTimeout >= p.claimDuration {
		t.Errorf("an attempt of %v and its recording, %v, outlast the claim of %v", p.attemptTimeout, recordTimeout, p.claimDuration)
	}
}
