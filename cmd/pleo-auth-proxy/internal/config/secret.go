package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

// maxSecretSize is far more than any secret needs, and little enough to read
// at any time.
const maxSecretSize = 64 << 10

// SecretSource is where a secret comes from: the configuration itself or a
// file of its own. The zero SecretSource is no secret.
type SecretSource struct {
	value credstore.Secret
	path  string
	lines bool // the file may hold several lines
}

// IsZero reports whether there is no secret.
func (s SecretSource) IsZero() bool { return s.value.IsZero() && s.path == "" }

// Key returns the path of the key that names the source, of which key is the one
// for the secret itself.
func (s SecretSource) Key(key string) string {
	if s.path != "" {
		return key + "_file"
	}
	return key
}

// Open reads the secret for the first time and returns what gives it from then
// on. The error says which file cannot be used.
func (s SecretSource) Open() (*SecretReader, error) {
	return s.OpenChecked(func(credstore.Secret) error { return nil })
}

// OpenChecked is Open for a secret that not every text is: check says what is wrong
// with one. What it refuses later is not taken, as an empty file is not.
func (s SecretSource) OpenChecked(check func(credstore.Secret) error) (*SecretReader, error) {
	r := &SecretReader{path: s.path, lines: s.lines, check: check, current: s.value}
	if s.path == "" {
		return r, check(s.value)
	}
	secret, stamp, err := readSecretFile(s.path, s.lines)
	if err == nil {
		err = check(secret)
	}
	if err != nil {
		return nil, err
	}
	r.current, r.seen = secret, stamp
	return r, nil
}

// SecretReader gives a secret, reading its file again when that has changed.
// It may be used by several goroutines at once.
type SecretReader struct {
	path  string // empty: the secret never changes
	lines bool   // as of SecretSource
	check func(credstore.Secret) error

	mu      sync.Mutex // guards what follows
	current credstore.Secret
	seen    durable.Stamp // of the file when current was read
	err     error         // why the file cannot be used now
}

// Secret returns the secret. While its file cannot be read, is empty or is refused,
// as happens while it is being replaced, it is the last one that was good.
func (r *SecretReader) Secret() credstore.Secret {
	if r.path == "" {
		return r.current
	}
	stamp, err := durable.StampOf(r.path)
	if err == nil && r.isCurrent(stamp) {
		return r.last()
	}
	secret, stamp, err := readSecretFile(r.path, r.lines)
	if err == nil {
		err = r.check(secret)
	}
	return r.keep(secret, stamp, err)
}

// Err returns why the file could not be used the last time, or nil.
func (r *SecretReader) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *SecretReader) isCurrent(stamp durable.Stamp) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err == nil && r.seen.Equal(stamp)
}

func (r *SecretReader) last() credstore.Secret {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

func (r *SecretReader) keep(secret credstore.Secret, stamp durable.Stamp, err error) credstore.Secret {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if err == nil {
		r.current, r.seen = secret, stamp
	}
	return r.current
}

// readSecretFile reads a file that holds one secret and at most one line break
// after it, which editors and echo leave behind, or one that may hold several
// lines.
func readSecretFile(path string, lines bool) (credstore.Secret, durable.Stamp, error) {
	f, err := os.Open(path)
	if err != nil {
		return credstore.Secret{}, durable.Stamp{}, fmt.Errorf("reading the secret: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	stamp, err := durable.StampOfFile(f)
	if err != nil {
		return credstore.Secret{}, durable.Stamp{}, fmt.Errorf("reading the secret: %w", err)
	}
	if !stamp.IsRegular() {
		return credstore.Secret{}, durable.Stamp{}, fmt.Errorf("reading the secret: %s is not a regular file", path)
	}
	secret, err := readSecret(f, lines)
	if err != nil {
		return credstore.Secret{}, durable.Stamp{}, fmt.Errorf("reading the secret in %s: %w", path, err)
	}
	return secret, stamp, nil
}

// ReadSecret reads one secret from r: everything but one line break at the end.
// Empty input, control characters and more than 64 KiB are errors, none of
// which shows what was read.
func ReadSecret(r io.Reader) (credstore.Secret, error) { return readSecret(r, false) }

func readSecret(r io.Reader, lines bool) (credstore.Secret, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxSecretSize+1))
	if err != nil {
		return credstore.Secret{}, err
	}
	if len(raw) > maxSecretSize {
		return credstore.Secret{}, errors.New("it is larger than 64KiB")
	}
	raw = bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
	if len(raw) == 0 {
		return credstore.Secret{}, errors.New("it is empty")
	}
	if bytes.ContainsFunc(raw, func(r rune) bool { return isControl(r) && !(lines && isSpace(r)) }) {
		return credstore.Secret{}, errors.New("it holds a control character, such as a second line")
	}
	return credstore.NewSecret(string(raw)), nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func isSpace(r rune) bool { return r == '\n' || r == '\r' || r == '\t' }

// SecretFile is a file that the configuration keeps a secret in.
type SecretFile struct{ Key, Path string }

// SecretFiles returns the files whose content nobody else should read, but for
// the keyset.
func (c *Config) SecretFiles() []SecretFile {
	files := []SecretFile{
		{"oauth.client_secret_file", c.OAuth.ClientSecret.path},
		{"oauth.previous_client_secret_file", c.OAuth.PreviousClientSecret.path},
		{"proxy.tls.key_file", c.Proxy.TLS.KeyFile},
		{"admin.tls.key_file", c.Admin.TLS.KeyFile},
		{"connect.tls.key_file", c.Connect.TLS.KeyFile},
		{"admin.token_file", c.Admin.TokenFile},
		{"store.dsn_file", c.Store.DSN.path},
	}
	for i, client := range c.Proxy.Clients {
		files = append(files, SecretFile{fmt.Sprintf("proxy.clients[%d].token_file", i), client.Token.path})
	}
	for i, declared := range c.Connections {
		files = append(files, SecretFile{fmt.Sprintf("connections[%d].api_key_file", i), declared.APIKey.path})
	}
	for i, w := range c.Webhooks {
		files = append(files, SecretFile{fmt.Sprintf("webhooks[%d].secret_file", i), w.Secrets.path})
	}
	return slices.DeleteFunc(files, func(f SecretFile) bool { return f.Path == "" })
}
