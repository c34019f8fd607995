package keyset_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

func newKeyset(t testing.TB) *keyset.Keyset {
	t.Helper()
	k, _, err := keyset.OpenOrCreate(filepath.Join(t.TempDir(), "keyset.json"))
	if err != nil {
		t.Fatalf("OpenOrCreate: %v", err)
	}
	return k
}

func encrypt(t testing.TB, k *keyset.Keyset, label, plaintext string) []byte {
	t.Helper()
	ciphertext, err := k.Encrypt(label, []byte(plaintext))
	if err != nil {
		t.Fatalf("Encrypt: %v", err)
	}
	return ciphertext
}

func TestKeysetIsCreatedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	first, created, err := keyset.OpenOrCreate(path)
	if err != nil || !created {
		t.Fatalf("OpenOrCreate without a file = created %v, %v, want true", created, err)
	}
	ciphertext := encrypt(t, first, "label", "secret")
	second, created, err := keyset.OpenOrCreate(path)
	if err != nil || created {
		t.Fatalf("OpenOrCreate again = created %v, %v, want false", created, err)
	}
	if got, err := second.Decrypt("label", ciphertext); err != nil || string(got) != "secret" {
		t.Errorf("Decrypt under the keyset read again = %q, %v, want secret", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode of the keyset = %v, %v, want 0600", info.Mode(), err)
	}
}

func TestConcurrentCreate(t *testing.T) {
	dir := t.TempDir()
	const openers = 16
	fingerprints, creators := make([]string, openers), make([]bool, openers)
	var wg sync.WaitGroup
	for i := range openers {
		wg.Go(func() {
			k, created, err := keyset.OpenOrCreate(filepath.Join(dir, "keyset.json"))
			if err != nil {
				t.Errorf("OpenOrCreate: %v", err)
				return
			}
			fingerprints[i], creators[i] = k.Fingerprint(), created
		})
	}
	wg.Wait()
	creations := 0
	for i := range openers {
		if creators[i] {
			creations++
		}
		if fingerprints[i] != fingerprints[0] {
			t.Errorf("fingerprints %q and %q, want one keyset for all", fingerprints[0], fingerprints[i])
		}
	}
	left, err := os.ReadDir(dir)
	if creations != 1 || len(left) != 1 || err != nil {
		t.Errorf("%d goroutines created the keyset, files = %v, %v, want one of each", creations, left, err)
	}
}

func TestUnusableKeyset(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, path string) error
		want    string
	}{
		{"empty", func(_ *testing.T, path string) error { return os.WriteFile(path, nil, 0o600) }, "JSON"},
		{"cut off", cutOff, "JSON"},
		{"other JSON", func(_ *testing.T, path string) error { return os.WriteFile(path, []byte(`{"a":1}`), 0o600) }, "JSON"},
		{"too large", func(_ *testing.T, path string) error { return os.WriteFile(path, make([]byte, 2<<20), 0o600) }, "larger"},
		{"directory", func(_ *testing.T, path string) error { return os.Mkdir(path, 0o700) }, "not a regular file"},
		{"named pipe", func(_ *testing.T, path string) error { return unix.Mkfifo(path, 0o600) }, "not a regular file"},
		{"missing directory", func(_ *testing.T, path string) error { return os.Remove(filepath.Dir(path)) }, "directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys", "keyset.json")
			if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), test.prepare(t, path)); err != nil {
				t.Fatalf("preparing: %v", err)
			}
			_, _, err := keyset.OpenOrCreate(path)
			var setup *credstore.SetupError
			if !errors.As(err, &setup) || setup.Hint == "" || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("OpenOrCreate = %v, want a SetupError with a hint, the text %q and the name of the file", err, test.want)
			}
		})
	}
}

// cutOff leaves half of a keyset in the file.
func cutOff(_ *testing.T, path string) error {
	if _, _, err := keyset.OpenOrCreate(path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()/2)
}

// TestKeysetErrorsContainNoSecret: a damaged file may still contain key material.
func TestKeysetErrorsContainNoSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	const material = "cGxhbnRlZCBrZXkgbWF0ZXJpYWw"
	damaged := `{"primaryKeyId":1,"key":[{"keyData":{"value":"` + material + `","typeUrl":"` + material + `"}}]}`
	for _, data := range []string{damaged, damaged[:len(damaged)-3], material} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatalf("WriteFile: %v", err)
		}
		_, _, err := keyset.OpenOrCreate(path)
		if err == nil || strings.Contains(err.Error(), material) {
			t.Errorf("OpenOrCreate = %v, want an error without key material", err)
		}
	}
}

func TestKeysetThroughSymbolicLink(t *testing.T) {
	target := filepath.Join(t.TempDir(), "keyset.json")
	want, _, err := keyset.OpenOrCreate(target)
	if err != nil {
		t.Fatalf("OpenOrCreate: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link") // Kubernetes mounts the files of a Secret as links
	if err := os.Symlink(target, link); err != nil {
		t.Fatalf("Symlink: %v", err)
	}
	got, created, err := keyset.OpenOrCreate(link)
	if err != nil || created || got.Fingerprint() != want.Fingerprint() {
		t.Errorf("OpenOrCreate through a link = created %v, %v, want the keyset that the link points to", created, err)
	}
}

func TestFingerprint(t *testing.T) {
	k, other := newKeyset(t), newKeyset(t)
	if len(k.Fingerprint()) != 32 || k.Fingerprint() == other.Fingerprint() {
		t.Errorf("fingerprints %q and %q, want two of 32 digits", k.Fingerprint(), other.Fingerprint())
	}
	for fingerprint, want := range map[string]bool{k.Fingerprint(): true, other.Fingerprint(): false, "": false} {
		if got := k.Contains(fingerprint); got != want {
			t.Errorf("Contains(%q) = %v, want %v", fingerprint, got, want)
		}
	}
}

func TestCiphertextIsBoundToItsData(t *testing.T) {
	k := newKeyset(t)
	label := keyset.AssociatedData("id", "column")
	ciphertext := encrypt(t, k, label, "secret")
	if again := encrypt(t, k, label, "secret"); bytes.Equal(ciphertext, again) {
		t.Error("encrypting twice gave the same bytes, which shows that two secrets are equal")
	}
	for name, attempt := range map[string]func() ([]byte, error){
		"another column":     func() ([]byte, error) { return k.Decrypt(keyset.AssociatedData("id", "columns"), ciphertext) },
		"another connection": func() ([]byte, error) { return k.Decrypt(keyset.AssociatedData("other", "column"), ciphertext) },
		"another keyset":     func() ([]byte, error) { return newKeyset(t).Decrypt(label, ciphertext) },
		"nothing":            func() ([]byte, error) { return k.Decrypt(label, nil) },
	} {
		if got, err := attempt(); err == nil {
			t.Errorf("%s: Decrypt = %q, want an error", name, got)
		}
	}
}

func TestAssociatedDataDiffers(t *testing.T) {
	pairs := [][2]string{{"a", "b"}, {"a b", ""}, {"", "a b"}, {"a\" \"b", ""}, {"a", "b\" \""}, {"ab", ""}, {"a", "\"b"}, {"a\\", "b"}}
	seen := map[string][2]string{}
	for _, p := range pairs {
		label := keyset.AssociatedData(p[0], p[1])
		if earlier, ok := seen[label]; ok {
			t.Errorf("AssociatedData(%q) = AssociatedData(%q) = %s", p, earlier, label)
		}
		seen[label] = p
	}
}

func FuzzTamperedCiphertextDoesNotDecrypt(f *testing.F) {
	k := newKeyset(f)
	ciphertext := encrypt(f, k, "label", "secret")
	f.Add(ciphertext, "other label")
	f.Add(ciphertext[:len(ciphertext)-1], "label")
	f.Add(append(bytes.Clone(ciphertext), 0), "label")
	for i := range ciphertext {
		tampered := bytes.Clone(ciphertext)
		tampered[i] ^= 1
		f.Add(tampered, "label")
	}
	f.Fuzz(func(t *testing.T, data []byte, label string) {
		if bytes.Equal(data, ciphertext) && label == "label" {
			return
		}
		if got, err := k.Decrypt(label, data); err == nil {
			t.Errorf("Decrypt(%q, %x) = %q, want an error", label, data, got)
		}
	})
}

func TestTemporaryKeysetDecryptsItsCiphertexts(t *testing.T) {
	k, err := keyset.NewTemporary()
	if err != nil {
		t.Fatalf("NewTemporary: %v", err)
	}
	if changed, err := k.Reload(); changed || err != nil {
		t.Errorf("Reload = %t, %v, want no change", changed, err)
	}
	ciphertext, err := k.Encrypt("label", []byte("secret"))
	if err != nil {
		t.Fatalf("Encrypt: %v", err)
	}
	got, err := k.Decrypt("label", ciphertext)
	if err != nil || string(got) != "secret" {
		t.Errorf("Decrypt = %q, %v, want secret", got, err)
	}
	other, err := keyset.NewTemporary()
	if err != nil {
		t.Fatalf("NewTemporary: %v", err)
	}
	if _, err := other.Decrypt("label", ciphertext); err == nil {
		t.Error("another temporary keyset decrypts the ciphertext")
	}
}
