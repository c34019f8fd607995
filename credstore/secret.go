package credstore

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"strings"
)

// redactedText is what a secret looks like wherever it is printed.
const redactedText = "[redacted]"

// Secret holds a value that must not be seen: a token, a key, a client secret.
// Every way of printing or encoding it gives "[redacted]"; [Secret.Reveal] is
// the only way out, and belongs where bytes leave for the wire or are encrypted.
//
// The zero Secret holds the empty string. A Secret is immutable and may be
// copied and used by several goroutines at once.
type Secret struct {
	// A pointer, because fmt prints the unexported fields of an enclosing
	// struct by reflection, without calling any method: a string would show.
	value *string
}

// NewSecret returns a Secret that holds value.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{value: &value}
}

// Reveal returns the value.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether the Secret holds the empty string.
func (s Secret) IsZero() bool { return s.value == nil }

// Equal reports whether both hold the same value, in a time that does not
// depend on where they differ.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// Sendable reports whether the value can stand in a header field (RFC 6750
// section 2.1 is narrower still). The usual mistakes are line breaks and quotes
// that came along from a file.
func (s Secret) Sendable() bool {
	return !strings.ContainsFunc(s.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' })
}

// Hash returns the SHA-256 of the value. It names a token of high entropy
// without showing it.
func (s Secret) Hash() Hash { return sha256.Sum256([]byte(s.Reveal())) }

// String returns "[redactedText]".
func (s Secret) String() string { return redactedText }

// GoString returns "[redactedText]".
func (s Secret) GoString() string { return redactedText }

// Format writes "[redactedText]" for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedText) }

// MarshalText returns "[redactedText]", for encoding/json and yaml too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redactedText), nil }

// Hash is the SHA-256 of a secret.
type Hash [sha256.Size]byte
