// Package keyset encrypts secrets and rotates their keys.
package keyset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
)

// Keyset encrypts and decrypts secrets with the keys of a Tink AEAD keyset. The
// keyset is in a file, except that of [NewTemporary], and changes with the file: see
// [Keyset.Reload]. Keyset is safe for concurrent use.
//
// A ciphertext starts with Tink's prefix. It contains the id of the key, so that a
// keyset can have other keys beside its primary key:
//
//	01 | key id, 4 bytes, big-endian | nonce | encrypted data and tag
//
// A key that was removed from the file still decrypts until the process ends, so
// that a key that was removed too early can be put back before anything is lost.
type Keyset struct {
	path string // empty when there is no file

	mu      sync.Mutex                 // serializes Reload
	current atomic.Pointer[loadedKeys] // replaced, never changed
}

// Key describes a key of a keyset. It contains nothing secret.
type Key struct {
	// Fingerprint identifies the key and reveals nothing about it: 32
	// hexadecimal digits.
	Fingerprint string
	// ID is part of every ciphertext under the key. Unlike a fingerprint, it is
	// unique within its keyset only.
	ID uint32
	// Primary is set for the key that encrypts.
	Primary bool
}

// OpenOrCreate reads the cleartext Tink JSON keyset at path. If the file does not
// exist, it creates a keyset of one XChaCha20-Poly1305 key, readable by its owner
// only, and returns created as true. If several processes find no file, one of them
// creates the keyset and all of them return that one.
//
// If the file cannot be used, the error is a [*credstore.SetupError].
func OpenOrCreate(path string) (k *Keyset, created bool, err error) {
	k = &Keyset{path: path}
	_, err = k.Reload()
	if !errors.Is(err, fs.ErrNotExist) {
		return orNone(k, err), false, err
	}
	created, err = createKeyset(path)
	if err != nil {
		return nil, false, fmt.Errorf("creating keyset %s: %w", path, err)
	}
	_, err = k.Reload()
	return orNone(k, err), created, err
}

// Open is OpenOrCreate for a file that must exist. If it does not, the error matches
// [fs.ErrNotExist].
func Open(path string) (*Keyset, error) {
	k := &Keyset{path: path}
	_, err := k.Reload()
	return orNone(k, err), err
}

// NewTemporary returns a keyset of one new key that exists in memory only.
func NewTemporary() (*Keyset, error) {
	data, err := newKeyset()
	if err != nil {
		return nil, fmt.Errorf("creating a keyset: %w", err)
	}
	keys, err := parseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("creating a keyset: %w", err)
	}
	k := new(Keyset)
	k.current.Store(keys)
	return k, nil
}

func orNone(k *Keyset, err error) *Keyset {
	if err != nil {
		return nil
	}
	return k
}

// Reload reads the file again if it was written or replaced since the last time,
// and reports whether its keys have changed. A call is cheap while the file is
// unchanged. Encrypt calls Reload every time, EncryptWith and Decrypt when they lack
// a key. After an error the keys are those from before.
func (k *Keyset) Reload() (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.current.Load()
	if before != nil && (k.path == "" || before.upToDate(k.path)) {
		return false, nil
	}
	now, err := loadKeys(k.path)
	if err != nil {
		return false, err
	}
	if before == nil {
		k.current.Store(now)
		return true, nil
	}
	now.addRemoved(before)
	k.current.Store(now)
	return !slices.Equal(before.inFile, now.inFile), nil
}

// fresh returns the keys that are in the file now.
func (k *Keyset) fresh() *loadedKeys {
	// If the file cannot be read, the keys in memory are still good. The server's
	// periodic call of Reload logs the error.
	_, _ = k.Reload()
	return k.current.Load()
}

// Encrypt encrypts plaintext under the primary key. Decrypting the result requires
// the same label.
func (k *Keyset) Encrypt(label string, plaintext []byte) ([]byte, error) {
	keys := k.fresh()
	return keys.encrypt(keys.primary, label, plaintext)
}

// EncryptWith is Encrypt under the key with the fingerprint. If the keyset does not
// have the key, the error is a [*credstore.SetupError].
func (k *Keyset) EncryptWith(fingerprint, label string, plaintext []byte) ([]byte, error) {
	keys := k.current.Load()
	if !keys.contains(fingerprint) {
		keys = k.fresh() // it may have been added since
	}
	return keys.encrypt(fingerprint, label, plaintext)
}

// Decrypt decrypts a ciphertext that Encrypt or EncryptWith returned for the same
// label, under any key of the keyset. A ciphertext that was modified is an error.
func (k *Keyset) Decrypt(label string, ciphertext []byte) ([]byte, error) {
	keys := k.current.Load()
	id, ok := KeyID(ciphertext)
	if !ok {
		return nil, errors.New("decrypting: not a ciphertext of a keyset")
	}
	if keys.byID[id] == nil {
		keys = k.fresh() // another process may have encrypted under a new key
	}
	return keys.decrypt(id, label, ciphertext)
}

// Fingerprint returns the fingerprint of the primary key: see [Key].
func (k *Keyset) Fingerprint() string { return k.current.Load().primary }

// Contains reports whether the keyset can decrypt what was encrypted under the key
// with the fingerprint.
func (k *Keyset) Contains(fingerprint string) bool {
	return k.current.Load().contains(fingerprint) || k.fresh().contains(fingerprint)
}

// Keys returns the enabled keys of the file, oldest first.
func (k *Keyset) Keys() []Key { return slices.Clone(k.current.Load().inFile) }

// prefixLength is the length of Tink's prefix.
const prefixLength = 5

// KeyID returns the id of the key that a ciphertext was encrypted under. It returns
// false for data that is not a ciphertext of a keyset.
func KeyID(ciphertext []byte) (id uint32, ok bool) {
	if len(ciphertext) < prefixLength || ciphertext[0] != 1 {
		return 0, false
	}
	return binary.BigEndian.Uint32(ciphertext[1:]), true
}

// CiphertextPrefix returns the bytes that every ciphertext under the key with the id
// starts with, and no ciphertext under another key does.
func CiphertextPrefix(id uint32) []byte { return binary.BigEndian.AppendUint32([]byte{1}, id) }

// AssociatedData returns the label of a column of a connection, for Encrypt and
// Decrypt. Different arguments give different labels.
func AssociatedData(connectionID, column string) string {
	return fmt.Sprintf("%q %q", connectionID, column)
}
