package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// plantedHookSecret is the secret of the webhooks in the tests.
const plantedHookSecret = "whsec_Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5IQ=="

// receivedWebhook is a webhook that a backOffice received.
type receivedWebhook struct {
	id        string
	raw       string
	Type      string            `json:"type"`
	Timestamp time.Time         `json:"timestamp"`
	Data      manage.Connection `json:"data"`
}

// backOffice is a receiver of webhooks.
type backOffice struct {
	t   *testing.T
	url string

	mu     sync.Mutex // guards what follows
	status int        // of its responses
	got    []receivedWebhook
	news   chan struct{} // receives one for each webhook
}

func newBackOffice(t *testing.T) *backOffice {
	t.Helper()
	verifier, err := standardwebhooks.NewWebhook(plantedHookSecret)
	if err != nil {
		t.Fatal(err)
	}
	b := &backOffice{t: t, status: http.StatusNoContent, news: make(chan struct{}, 1000)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the server was killed
		}
		if err := verifier.Verify(body, r.Header); err != nil {
			t.Errorf("verifying a webhook: %v", err)
		}
		n := receivedWebhook{id: r.Header.Get("webhook-id"), raw: fmt.Sprint(r.Header, string(body))}
		if err := json.Unmarshal(body, &n); err != nil {
			t.Errorf("reading a webhook: %v", err)
		}
		w.WriteHeader(b.take(n))
		b.news <- struct{}{}
	}))
	t.Cleanup(server.Close)
	b.url = server.URL + "/pleo?token=canary-in-the-url"
	return b
}

func (b *backOffice) take(n receivedWebhook) (status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, n)
	return b.status
}

func (b *backOffice) respondWith(status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = status
}

func (b *backOffice) all() []receivedWebhook {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// await waits for n webhooks of the type about the connection and returns the last of
// them.
func (b *backOffice) await(event, connection string, n int) receivedWebhook {
	b.t.Helper()
	for deadline := time.After(time.Minute); ; {
		var of []receivedWebhook
		for _, got := range b.all() {
			if got.Type == event && got.Data.Name == connection {
				of = append(of, got)
			}
		}
		if len(of) >= n {
			return of[n-1]
		}
		select {
		case <-b.news:
		case <-deadline:
			b.t.Fatalf("received %d webhooks %s about %s, want %d", len(of), event, connection, n)
		}
	}
}

// newWebhookEnv returns an env whose server sends webhooks to b.
func newWebhookEnv(t *testing.T, b *backOffice) *env {
	t.Helper()
	secrets := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(secrets, []byte("# for the back office\n"+plantedHookSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newEnv(t, simulator.Settings{}, "log: {level: debug}", fmt.Sprintf("webhooks: [{url: %q, secret_file: %q}]", b.url, secrets))
	w.plantClientSecret()
	return w
}

// TestWebhooks checks that a receiver which verifies signatures is notified of a grant
// that was revoked at Pleo and of a removal by a command, and that no secret appears.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	b := newBackOffice(t)
	w := newWebhookEnv(t, b)
	grant, line := w.expired("acme")
	w.importLines(line)
	p := w.serve()
	if err := w.sim.RevokeGrant(grant.ID); err != nil {
		t.Fatal(err)
	}
	if a, err := p.get(client(t), "acme", "/v2/employees"); err != nil || a.status != http.StatusUnauthorized {
		t.Fatalf("a request as acme: %d, %v, want 401", a.status, err)
	}
	alarm := b.await("connection.reauthorization_required", "acme", 1)
	if alarm.Data.Status != "reauthorization_required" || alarm.Data.LastError == nil || time.Since(alarm.Timestamp) > time.Minute {
		t.Errorf("received %s, want the connection as the admin API shows it", alarm.raw)
	}
	if code, _, stderr := w.run("", "connections", "remove", "acme"); code != exitDone {
		t.Fatal(stderr)
	}
	b.await("connection.removed", "acme", 1)
	p.waitForLog(`"event":"connection.removed"`)
	// They are counted after the response, which the receiver cannot observe.
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(p.admin("/metrics").body, `pleo_webhook_deliveries_total{result="delivered"} 2`); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("/metrics does not count two deliveries")
		}
	}
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d", code)
	}
	w.searchWebhooks(b, p)
}

// searchWebhooks searches the webhooks and the log for secrets.
func (w *env) searchWebhooks(b *backOffice, p *process) {
	w.t.Helper()
	text := p.log.String()
	for _, n := range b.all() {
		text += n.raw
	}
	w.search("webhooks and log", text)
	for _, secret := range []string{strings.TrimPrefix(plantedHookSecret, "whsec_"), "canary-in-the-url"} {
		if strings.Contains(text, secret) {
			w.t.Errorf("%q appears in a webhook or in the log", secret)
		}
	}
}

// TestWebhookDeliveredAfterKill checks that a webhook which the receiver rejected before
// the server was killed is delivered by the next server with the same id.
func TestWebhookDeliveredAfterKill(t *testing.T) {
	t.Parallel()
	b := newBackOffice(t)
	b.respondWith(http.StatusInternalServerError)
	w := newWebhookEnv(t, b)
	p := w.serve() // it registers the subscription
	_, line := w.grant("acme", simulator.GrantRequest{})
	w.importLines(line)
	if code, _, stderr := w.run("", "connections", "remove", "acme"); code != exitDone {
		t.Fatal(stderr)
	}
	first := b.await("connection.removed", "acme", 1)
	p.waitForLog("webhook delivery failed") // otherwise the claim has to expire first
	p.kill()
	b.respondWith(http.StatusOK)
	w.serve()
	if again := b.await("connection.removed", "acme", 2); again.id != first.id {
		t.Errorf("webhook-id %q after the kill, want %q", again.id, first.id)
	}
}
