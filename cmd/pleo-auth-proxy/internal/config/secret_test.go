package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func equalSecrets(a, b credstore.Secret) bool { return a.Equal(b) }

func secretFrom(t *testing.T, yaml string) SecretSource {
	t.Helper()
	return mustLoad(t, minimal+"oauth:\n  client_id: c\n  "+yaml+"\n").OAuth.ClientSecret
}

func open(t *testing.T, s SecretSource) *SecretReader {
	t.Helper()
	r, err := s.Open()
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return r
}

func TestSecretInTheConfiguration(t *testing.T) {
	r := open(t, secretFrom(t, `client_secret: "a/+ %:b"`))
	if got, want := r.Secret().Reveal(), "a/+ %:b"; got != want {
		t.Errorf("Secret = %q, want %q", got, want)
	}
}

func TestSecretFileIsReadAgainWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write := func(content string) {
		t.Helper()
		// Replace the file, as Kubernetes and careful editors do.
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write("first\r\n")
	r := open(t, secretFrom(t, "client_secret_file: "+path))
	for _, step := range []struct {
		name, content, want string
		broken              bool
	}{
		{name: "same length", content: "other", want: "other"},
		{name: "empty", content: "\n", want: "other", broken: true},
		{name: "two lines", content: "a\nb\n", want: "other", broken: true},
		{name: "fixed", content: "third\n", want: "third"},
	} {
		write(step.content)
		if got := r.Secret().Reveal(); got != step.want {
			t.Errorf("%s: Secret = %q, want %q", step.name, got, step.want)
		}
		if broken := r.Err() != nil; broken != step.broken {
			t.Errorf("%s: Err = %v, want an error: %v", step.name, r.Err(), step.broken)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := r.Secret().Reveal(); got != "third" || r.Err() == nil {
		t.Errorf("after the file was removed Secret = %q, Err = %v; want the last valid one and an error", got, r.Err())
	}
}

func TestUnusableSecretFiles(t *testing.T) {
	dir := t.TempDir()
	empty := writeFile(t, "empty", "\n")
	large := writeFile(t, "large", strings.Repeat("x", maxSecretSize+1))
	for _, test := range []struct{ name, path, want string }{
		{"absent", dir + "/none", "no such file"},
		{"directory", dir, "not a regular file"},
		{"empty", empty, "it is empty"},
		{"large", large, "larger than 64KiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := secretFrom(t, "client_secret_file: "+test.path).Open()
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.path) {
				t.Errorf("Open(%q) = %v, want an error that says %q and names the file", test.path, err, test.want)
			}
		})
	}
}
