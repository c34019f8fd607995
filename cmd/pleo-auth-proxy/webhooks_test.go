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

// plantedHookSecret is what webhooks of the tests are signed with.
const plantedHookSecret = "whsec_Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5IQ=="

// reported is a webhook as it arrived.
type told struct {
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
	status int        // of its answers
	got    []told
	news   chan struct{} // gets one for each arrival
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
			return // whoever sent it was killed
		}
		if err := verifier.Verify(body, r.Header); err != nil {
			t.Errorf("verifying a webhook: %v", err)
		}
		n := told{id: r.Header.Get("webhook-id"), raw: fmt.Sprint(r.Header, string(body))}
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

func (b *backOffice) take(n told) (status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, n)
	return b.status
}

func (b *backOffice) answer(status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = status
}

func (b *backOffice) all() []told {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// waitForRefresh waits until something of the type about the connection has arrived, n
// times.
func (b *backOffice) await(event, connection string, n int) told {
	b.t.Helper()
	for deadline := time.After(time.Minute); ; {
		var of []told
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
			b.t.Fatalf("%d of %s about %s have arrived, want %d", len(of), event, connection, n)
		}
	}
}

// webhooked is a world whose server tells b.
func webhooked(t *testing.T, b *backOffice) *env {
	t.Helper()
	secrets := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(secrets, []byte("# for the back office\n"+plantedHookSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newEnv(t, simulator.Settings{}, "log: {level: debug}", fmt.Sprintf("webhooks: [{url: %q, secret_file: %q}]", b.url, secrets))
	w.plantClientSecret()
	return w
}

// TestWebhooks: a grant that is revoked at Pleo is told of, and its
// removal by a command, to a receiver that verifies, without a secret anywhere.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	b := newBackOffice(t)
	w := webhooked(t, b)
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
		t.Errorf("told of %s, want the connection as the admin API shows it", alarm.raw)
	}
	if code, _, stderr := w.run("", "connections", "remove", "acme"); code != exitDone {
		t.Fatal(stderr)
	}
	b.await("connection.removed", "acme", 1)
	p.waitForLog(`"msg":"connection.removed"`)
	// They are counted once they are answered, which the receiver cannot see.
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(p.admin("/metrics").body, `pleo_webhook_deliveries_total{result="delivered"} 2`); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("/metrics does not count two deliveries")
		}
	}
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d", code)
	}
	w.searchTold(b, p)
}

// searchTold looks for secrets in what was told and logged.
func (w *env) searchTold(b *backOffice, p *process) {
	w.t.Helper()
	said := p.log.String()
	for _, n := range b.all() {
		said += n.raw
	}
	w.search("what was told and logged", said)
	for _, secret := range []string{strings.TrimPrefix(plantedHookSecret, "whsec_"), "canary-in-the-url"} {
		if strings.Contains(said, secret) {
			w.t.Errorf("%q is in what was told and logged", secret)
		}
	}
}

// TestWebhookDeliveredAfterKill: what a receiver refused before the server was killed
// comes from the next one, with the same id.
func TestWebhookDeliveredAfterKill(t *testing.T) {
	t.Parallel()
	b := newBackOffice(t)
	b.answer(http.StatusInternalServerError)
	w := webhooked(t, b)
	p := w.serve() // from now on there is somebody to tell
	_, line := w.grant("acme", simulator.GrantRequest{})
	w.importLines(line)
	if code, _, stderr := w.run("", "connections", "remove", "acme"); code != exitDone {
		t.Fatal(stderr)
	}
	first := b.await("connection.removed", "acme", 1)
	p.waitForLog("webhook delivery failed") // otherwise the claim has to expire first
	p.kill()
	b.answer(http.StatusOK)
	w.serve()
	if again := b.await("connection.removed", "acme", 2); again.id != first.id {
		t.Errorf("webhook-id %q after the kill, want %q", again.id, first.id)
	}
}
