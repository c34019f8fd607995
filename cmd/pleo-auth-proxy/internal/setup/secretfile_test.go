package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
)

// A secret file is checked every second, or for every request. One that is missing
// for a day must not be logged 86,400 times.
func TestUnusableSecretFileIsLoggedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	file := filepath.Join(t.TempDir(), "secret")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, "one")
	write(path, "environment: staging\noauth: {client_id: id, client_secret_file: "+file+"}\n")
	cfg, err := config.Load(config.Source{Path: path, Environ: []string{"HOME=" + t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := cfg.OAuth.ClientSecret.Open()
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.WarnLevel)
	secret := secretFile("oauth.client_secret_file", reader, zap.New(core))
	steps := []struct {
		name   string
		change func()
		secret string
		logged string // the error in the only new line of the log; empty: no line
	}{
		{"unchanged", func() {}, "one", ""},
		{"emptied", func() { write(file, "") }, "one", "it is empty"},
		{"removed", func() { _ = os.Remove(file) }, "one", "no such file"},
		{"put back", func() { write(file, "two") }, "two", ""},
		{"removed again", func() { _ = os.Remove(file) }, "two", "no such file"},
	}
	for _, step := range steps {
		step.change()
		for range 3 {
			if got := secret(); got.Reveal() != step.secret {
				t.Errorf("%s: the secret is %q, want %q", step.name, got.Reveal(), step.secret)
			}
		}
		var logged []string
		for _, line := range logs.TakeAll() {
			logged = append(logged, line.ContextMap()["error"].(string))
		}
		want := 0
		if step.logged != "" {
			want = 1
		}
		if len(logged) != want || !strings.Contains(strings.Join(logged, ""), step.logged) {
			t.Errorf("%s: logged %q, want %q once", step.name, logged, step.logged)
		}
	}
}

// A mistake while the secrets of a webhook are replaced must not stop deliveries:
// those that fail are retried hours later.
func TestWebhookIsSignedWithLastGoodSecret(t *testing.T) {
	const first, second = "whsec_b2xkIHNlY3JldCBvZiB0aGUgcmVjZWl2ZXIsIDMyIGI=\n", "whsec_bmV3IHNlY3JldCBvZiB0aGUgcmVjZWl2ZXIsIDMyIGI=\n"
	path := filepath.Join(t.TempDir(), "config.yaml")
	file := filepath.Join(t.TempDir(), "secret")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, first)
	write(path, "environment: staging\noauth: {client_id: id, client_secret: s}\nwebhooks: [{url: 'http://127.0.0.1:1/', secret_file: "+file+"}]\n")
	cfg, err := config.Load(config.Source{Path: path, Environ: []string{"HOME=" + t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.WarnLevel)
	webhooks, err := openWebhooks(cfg, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		text, signs string
		logged      int // lines
	}{
		{first + "mistyped\n", first, 1},
		{"# none yet\n", first, 1},
		{second, second, 0},
	} {
		write(file, step.text)
		if got := webhooks[0].Secrets(); strings.TrimSpace(got.Reveal()) != strings.TrimSpace(step.signs) {
			t.Errorf("with %q in the file it is signed by %q, want %q", step.text, got.Reveal(), step.signs)
		}
		if logged := logs.TakeAll(); len(logged) != step.logged {
			t.Errorf("with %q in the file %d lines were logged, want %d", step.text, len(logged), step.logged)
		}
	}
}
