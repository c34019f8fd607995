package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
)

const canary = "canary-key" // the API key of connections

// Secrets of the receivers.
const (
	oldSecret = "whsec_b2xkIHNlY3JldCBvZiB0aGUgcmVjZWl2ZXIsIDMyIGI="
	newSecret = "whsec_bmV3IHNlY3JldCBvZiB0aGUgcmVjZWl2ZXIsIDMyIGI="
)

// fastTiming returns the timing of these tests.
func fastTiming() timing {
	p := defaultTiming()
	p.settleDelay, p.pollInterval, p.attemptTimeout, p.claimDuration = 0, 5*time.Millisecond, 5*time.Second, time.Minute
	p.retryDelays = []time.Duration{10 * time.Millisecond, 10 * time.Millisecond, 10 * time.Millisecond}
	p.jitter = func(d time.Duration) time.Duration { return d }
	return p
}

// env is a store with connections, and the log.
type env struct {
	t      *testing.T
	store  *sqlstore.Store
	log    *observer.ObservedLogs
	logger *zap.Logger
}

func newEnv(t *testing.T) *env {
	t.Helper()
	dir := t.TempDir()
	keyset, _, err := keyset.OpenOrCreate(filepath.Join(dir, "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlstore.Open(t.Context(), sqlstore.Config{
		Path: filepath.Join(dir, "store.db"), Keyset: keyset,
		Binding: credstore.Binding{Environment: "custom", AuthURL: "http://127.0.0.1:1", ClientID: "c"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	core, logs := observer.New(zap.DebugLevel)
	return &env{t: t, store: store, log: logs, logger: zap.New(core)}
}

// add adds a connection with a key that expires at expiresAt.
func (w *env) add(name string, expiresAt time.Time) credstore.Connection {
	w.t.Helper()
	c, err := w.store.Connections.Create(w.t.Context(), credstore.NewConnection{
		Name: name, Kind: credstore.StandaloneKey, Credential: &credstore.NewCredential{APIKey: credstore.NewSecret(canary), ExpiresAt: expiresAt},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// underLease calls change with a lease of the connection.
func (w *env) underLease(c credstore.Connection, change func(credstore.Lease, credstore.Parent) error) {
	w.t.Helper()
	lease, err := w.store.Credentials.Acquire(w.t.Context(), c.ID, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	state, err := w.store.Connections.Read(w.t.Context(), c.ID)
	if err == nil {
		err = change(lease, state.Parent())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if err := lease.Release(); err != nil {
		w.t.Fatal(err)
	}
}

// reject makes the connection need reauthorization.
func (w *env) reject(c credstore.Connection) {
	w.t.Helper()
	w.underLease(c, func(l credstore.Lease, p credstore.Parent) error {
		f := credstore.Failure{Code: "key_rejected", Message: "the API returns 401 for the key", At: time.Now()}
		return w.store.Credentials.MarkReauthorizationRequired(w.t.Context(), l, p, f, credstore.ReasonKeyRejected, false)
	})
}

// reinstate makes the connection active again.
func (w *env) reinstate(c credstore.Connection) {
	w.t.Helper()
	w.underLease(c, func(l credstore.Lease, p credstore.Parent) error {
		return w.store.Credentials.Reinstate(w.t.Context(), l, p)
	})
}

func (w *env) remove(c credstore.Connection) {
	w.t.Helper()
	if err := w.store.Connections.Remove(w.t.Context(), c.ID); err != nil {
		w.t.Fatal(err)
	}
}

// connectionJSON is the data of a delivery.
type connectionJSON struct {
	Name   string `json:"name"`
	Status string `json:"status"`
}

// run runs a dispatcher for the receivers until stop is called.
func (w *env) run(outbox credstore.Outbox, owner string, t timing, registerer prometheus.Registerer, receivers ...*receiver) (stop func()) {
	w.t.Helper()
	c := Config{Outbox: outbox, Owner: owner, Registerer: registerer}
	for _, r := range receivers {
		c.Endpoints = append(c.Endpoints, r.endpoint())
	}
	_, stop = w.start(c, t)
	return stop
}

// start runs a dispatcher until stop is called. It returns when the dispatcher has
// subscribed.
func (w *env) start(c Config, t timing) (d *Dispatcher, stop func()) {
	w.t.Helper()
	c.Logger = w.logger
	c.Describe = func(c credstore.Connection) any { return connectionJSON{Name: c.Name, Status: string(c.Status)} }
	d = newDispatcher(c, t)
	ctx, cancel := context.WithCancel(context.Background())
	if !d.subscribe(ctx) {
		w.t.Fatal("subscribe = false")
	}
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	return d, sync.OnceFunc(func() { cancel(); <-done })
}

// delivery is a request that a receiver received.
type delivery struct {
	id   string
	at   string // webhook-timestamp
	body string

	Type      string         `json:"type"`
	Timestamp time.Time      `json:"timestamp"`
	Data      connectionJSON `json:"data"`
}

func (g delivery) String() string { return fmt.Sprintf("%s %s %s", g.Type, g.Data.Name, g.Data.Status) }

// receiver is an HTTP server that verifies deliveries with the library of Standard
// Webhooks, as users do.
type receiver struct {
	t       *testing.T
	server  *httptest.Server
	secrets string // of the endpoint
	path    string

	// respond writes the response to delivery n, from 0. Nil means status 200.
	respond func(w http.ResponseWriter, r *http.Request, n int, g delivery)

	mu       sync.Mutex // guards received
	received []delivery
	signal   chan struct{} // receives one for each delivery
}

func newReceiver(t *testing.T, respond func(http.ResponseWriter, *http.Request, int, delivery)) *receiver {
	t.Helper()
	r := &receiver{t: t, secrets: newSecret, path: "/hooks?token=canary-url", respond: respond, signal: make(chan struct{}, 10000)}
	r.server = httptest.NewServer(r)
	t.Cleanup(func() { r.server.CloseClientConnections(); r.server.Close() })
	return r
}

func (r *receiver) endpoint() Endpoint {
	u, err := url.Parse(r.server.URL + r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	return Endpoint{
		URL: u, Transport: r.server.Client().Transport,
		Secrets: func() credstore.Secret { return credstore.NewSecret(r.secrets) },
	}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the dispatcher was stopped
	}
	verifier, err := standardwebhooks.NewWebhook(newSecret)
	if err != nil {
		r.t.Error(err)
	}
	if err := verifier.Verify(body, req.Header); err != nil {
		r.t.Errorf("verifying %s: %v", body, err)
	}
	g := delivery{id: req.Header.Get("webhook-id"), at: req.Header.Get("webhook-timestamp"), body: string(body)}
	if err := json.Unmarshal(body, &g); err != nil {
		r.t.Errorf("the body %s: %v", body, err)
	}
	r.mu.Lock()
	n := len(r.received)
	r.received = append(r.received, g)
	r.mu.Unlock()
	r.signal <- struct{}{}
	if r.respond != nil {
		r.respond(w, req, n, g)
	}
}

// await waits for n deliveries and returns all deliveries so far.
func (r *receiver) await(n int) []delivery {
	r.t.Helper()
	for deadline := time.After(30 * time.Second); ; {
		if all := r.deliveries(); len(all) >= n {
			return all
		}
		select {
		case <-r.signal:
		case <-deadline:
			r.t.Fatalf("received %v, want %d deliveries", r.deliveries(), n)
		}
	}
}

func (r *receiver) deliveries() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]delivery(nil), r.received...)
}

// waitForDeliveries waits until the queues of the receiver and the log are empty.
func (w *env) waitForDeliveries(r *receiver) {
	w.t.Helper()
	w.waitForEmptyQueue(r.endpoint().subscriptionName())
	w.waitForEmptyQueue("log")
}

// waitForEmptyQueue waits until no delivery of the subscription is queued.
func (w *env) waitForEmptyQueue(subscription string) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		next, err := w.store.Outbox.NextDelivery(w.t.Context(), subscription)
		if err != nil {
			w.t.Fatal(err)
		}
		if next.IsZero() {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("deliveries are still queued, due at %v", next)
		}
	}
}
