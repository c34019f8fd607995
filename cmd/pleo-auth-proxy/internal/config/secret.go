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

// maxSecretSize is more than any secret needs, and little enough to read at any
// time.
const maxSecretSize = 64 << 10

// SecretSource is where a secret is read from: the configuration itself or a file
// of its own. The zero SecretSource means no secret.
type SecretSource struct {
	value credstore.Secret
	path  string
	lines bool // the file may have several lines
}

// IsZero reports whether there is no secret.
func (s SecretSource) IsZero() bool { return s.value.IsZero() && s.path == "" }

// Key returns the path of the key that sets the source: key, which is for the
// secret itself, or the key for its file.
func (s SecretSource) Key(key string) string {
	if s.path != "" {
		return key + fileSuffix
	}
	return key
}

// Open reads the secret for the first time, and returns a reader that follows its
// file. The error names the file.
func (s SecretSource) Open() (*SecretReader, error) {
	return s.OpenChecked(func(credstore.Secret) error { return nil })
}

// OpenChecked is Open with a check of the secret. A later secret that does not
// pass the check is not used, like that of an empty file.
func (s SecretSource) OpenChecked(check func(credstore.Secret) error) (*SecretReader, error) {
	r := &SecretReader{path: s.path, lines: s.lines, check: check, current: s.value}
	if s.path == "" {
		return r, check(s.value)
	}
	secret, stamp, err := r.read()
	if err != nil {
		return nil, err
	}
	r.current, r.stamp = secret, stamp
	return r, nil
}

// SecretReader returns a secret, and reads its file again when the file has
// changed. It may be used by several goroutines at once.
type SecretReader struct {
	path  string // empty: the secret never changes
	lines bool
	check func(credstore.Secret) error

	mu      sync.Mutex // guards the fields below
	current credstore.Secret
	stamp   durable.Stamp // of the file that current was read from
	err     error         // why the file cannot be used; nil if it can
}

// Secret returns the secret. While the file cannot be read, is empty or does not
// pass the check, as may happen while it is replaced, it returns the last secret
// that was valid.
func (r *SecretReader) Secret() credstore.Secret {
	if r.path == "" {
		return r.current
	}
	stamp, err := durable.StampOf(r.path)
	if err == nil && r.upToDate(stamp) {
		return r.last()
	}
	return r.update(r.read())
}

// Err returns why the file could not be used the last time, or nil.
func (r *SecretReader) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *SecretReader) upToDate(stamp durable.Stamp) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err == nil && r.stamp.Equal(stamp)
}

func (r *SecretReader) last() credstore.Secret {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// update records the result of read and returns the secret to use.
func (r *SecretReader) update(secret credstore.Secret, stamp durable.Stamp, err error) credstore.Secret {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if err == nil {
		r.current, r.stamp = secret, stamp
	}
	return r.current
}

// read reads and checks the file: one secret with at most one line break after
// it, which editors and echo add, or several lines.
func (r *SecretReader) read() (credstore.Secret, durable.Stamp, error) {
	f, err := os.Open(r.path)
	if err != nil {
		return credstore.Secret{}, durable.Stamp{}, fmt.Errorf("reading the secret: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	stamp, err := durable.StampOfFile(f)
	if err == nil && !stamp.IsRegular() {
		err = errors.New("not a regular file")
	}
	var secret credstore.Secret
	if err == nil {
		secret, err = readSecret(f, r.lines)
	}
	if err != nil {
		return secret, stamp, fmt.Errorf("reading the secret in %s: %w", r.path, err)
	}
	return secret, stamp, r.check(secret)
}

// ReadSecret reads one secret from r: everything except one line break at the
// end. Empty input, control characters and more than 64 KiB are errors, which do
// not show what was read.
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
		return credstore.Secret{}, errors.New("it contains a control character, such as a second line")
	}
	return credstore.NewSecret(string(raw)), nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func isSpace(r rune) bool { return r == '\n' || r == '\r' || r == '\t' }

// SecretFile is a file with a secret that the configuration names.
type SecretFile struct{ Key, Path string }

// SecretFiles returns the files that only their owner should be able to read,
// except the keyset.
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
		files = append(files, SecretFile{itemPath("proxy.clients", i) + ".token_file", client.Token.path})
	}
	for i, connection := range c.Connections {
		files = append(files, SecretFile{itemPath("connections", i) + ".api_key_file", connection.APIKey.path})
	}
	for i, w := range c.Webhooks {
		files = append(files, SecretFile{itemPath("webhooks", i) + ".secret_file", w.Secrets.path})
	}
	return slices.DeleteFunc(files, func(f SecretFile) bool { return f.Path == "" })
}
