package examples

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/freeport"
)

// TestReceiverVerifies checks that the receiver accepts only messages that were
// signed recently with one of its secrets.
func TestReceiverVerifies(t *testing.T) {
	if !*clients {
		t.Skip("requires Python; make clients runs this")
	}
	const old, current = "whsec_b2xkIHNlY3JldCBvZiB0aGUgcmVjZWl2ZXIsIDMyIGI=", "whsec_bmV3IHNlY3JldCBvZiB0aGUgcmVjZWl2ZXIsIDMyIGI="
	secrets := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(secrets, []byte("# current, then old\n"+current+"\n"+old+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url, output := receive(t, secrets)
	for _, tt := range []struct {
		name   string
		secret string
		at     time.Time
		body   string // sent instead of the signed one; empty: the signed one
		want   int
	}{
		{name: "current secret", secret: current, at: time.Now(), want: http.StatusNoContent},
		{name: "old secret", secret: old, at: time.Now(), want: http.StatusNoContent},
		{name: "unknown secret", secret: "whsec_c3RyYW5nZSBzZWNyZXQgb2Ygbm9ib2R5LCAzMiBieQ==", at: time.Now(), want: http.StatusUnauthorized},
		{name: "an hour ago", secret: current, at: time.Now().Add(-time.Hour), want: http.StatusUnauthorized},
		{name: "modified in transit", secret: current, at: time.Now(), body: "{}", want: http.StatusUnauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const signed = `{"type":"connection.removed","timestamp":"2030-01-02T03:04:05Z","data":{"name":"acme","status":"active"}}`
			signer, err := standardwebhooks.NewWebhook(tt.secret)
			if err != nil {
				t.Fatal(err)
			}
			signature, err := signer.Sign("id-1", tt.at, []byte(signed))
			if err != nil {
				t.Fatal(err)
			}
			body := signed
			if tt.body != "" {
				body = tt.body
			}
			r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader([]byte(body)))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("webhook-id", "id-1")
			r.Header.Set("webhook-timestamp", strconv.FormatInt(tt.at.Unix(), 10))
			r.Header.Set("webhook-signature", "v1,b3RoZXI= "+signature)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil || resp.StatusCode != tt.want {
				t.Errorf("status = %d, %v, want %d", resp.StatusCode, err, tt.want)
			}
		})
	}
	if line, err := output.ReadString('\n'); err != nil || line != "id-1 connection.removed acme active\n" {
		t.Errorf("output = %q, %v, want the event", line, err)
	}
}

// receive starts the receiver and returns its URL and its output.
func receive(t *testing.T, secrets string) (url string, output *bufio.Reader) {
	t.Helper()
	address, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "python/webhooks.py", port, secrets)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it does not exit by itself
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			return fmt.Sprintf("http://%s/", address), bufio.NewReader(out)
		}
		if time.Now().After(deadline) {
			t.Fatal("timeout while waiting for the receiver")
		}
	}
}
