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

// Keyset seals and opens what is kept secret, with the keys of a Tink AEAD
// keyset, which is in a file unless it is a [NewTemporary]. It follows the file: see [Keyset.Reload]. It may be used by
// several goroutines at once.
//
// What is sealed starts with Tink's prefix, which names the key it was sealed
// under, so that a keyset may hold other keys beside its primary one:
//
//	01 | key id, 4 bytes, big-endian | nonce | ciphertext and tag
//
// A key that is taken out of the file still opens what was sealed under it
// until the process ends, so that nothing is lost to a hasty hand.
type Keyset struct {
	path string // empty when there is no file

	mu      sync.Mutex                 // lets one goroutine at a time read the file
	current atomic.Pointer[loadedKeys] // replaced, never changed
}

// Key is a key of a keyset, without anything secret.
type Key struct {
	// Fingerprint names the key without giving anything of it away: 32
	// hexadecimal digits.
	Fingerprint string
	// ID stands in front of what was sealed under the key. Unlike fingerprints,
	// ids of different keysets may be the same.
	ID      uint32
	Primary bool
}

// OpenOrCreate reads the cleartext Tink JSON keyset at path. Where there is no
// file it makes a keyset of one XChaCha20-Poly1305 key, readable by its owner
// only, and reports created. Of several processes that find no file, one
// creates the keyset and all return that one.
//
// A file that cannot be used is a [credstore.SetupError].
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

// Open is OpenOrCreate for a file that must exist: where there is none it
// returns an error that matches [fs.ErrNotExist].
func Open(path string) (*Keyset, error) {
	k := &Keyset{path: path}
	_, err := k.Reload()
	return orNone(k, err), err
}

// NewTemporary returns a keyset of one key that no file holds: what is sealed
// under it can be opened only by this process.
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

// Reload reads the file again if it is another one than before, or was written
// to since, and reports whether its keys have changed. That costs little when
// nothing has happened, so it may be called often; and Seal, EncryptWith and Open
// do so themselves where it matters. When it returns an error the keys stay as
// they were.
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
	now.keep(before)
	k.current.Store(now)
	return !slices.Equal(before.inFile, now.inFile), nil
}

// fresh returns the keys as they are in the file now.
func (k *Keyset) fresh() *loadedKeys {
	// A file that cannot be read is no reason to stop: whoever calls Reload at
	// times says what is wrong with it.
	_, _ = k.Reload()
	return k.current.Load()
}

// Encrypt encrypts plaintext under the primary key, bound to label: it opens with
// the same label only.
func (k *Keyset) Encrypt(label string, plaintext []byte) ([]byte, error) {
	keys := k.fresh()
	return keys.seal(keys.primary, label, plaintext)
}

// EncryptWith is Seal under the key with the fingerprint. A keyset that does not
// hold the key is a [credstore.SetupError].
func (k *Keyset) EncryptWith(fingerprint, label string, plaintext []byte) ([]byte, error) {
	keys := k.current.Load()
	if !keys.holds(fingerprint) {
		keys = k.fresh() // it may have been added since
	}
	return keys.seal(fingerprint, label, plaintext)
}

// Decrypt decrypts what Seal returned for the same label, under any key of the
// keyset. It fails for anything else, altered in whatever way.
func (k *Keyset) Decrypt(label string, sealed []byte) ([]byte, error) {
	keys := k.current.Load()
	id, ok := KeyID(sealed)
	if !ok {
		return nil, errors.New("opening what was sealed: it is no ciphertext of ours")
	}
	if keys.byID[id] == nil {
		keys = k.fresh() // another process may have sealed under a new key
	}
	return keys.open(id, label, sealed)
}

// Fingerprint names the primary key without giving anything of it away.
func (k *Keyset) Fingerprint() string { return k.current.Load().primary }

// Contains reports whether the keyset can open what was sealed under the key with
// the fingerprint.
func (k *Keyset) Contains(fingerprint string) bool {
	return k.current.Load().holds(fingerprint) || k.fresh().holds(fingerprint)
}

// Keys returns the enabled keys of the file, in its order, which is that in
// which they were added.
func (k *Keyset) Keys() []Key { return slices.Clone(k.current.Load().inFile) }

// sealedPrefix is the length of Tink's prefix.
const sealedPrefix = 5

// KeyID returns the id of the key that something was sealed under. It
// reports false for what no keyset has sealed.
func KeyID(sealed []byte) (id uint32, ok bool) {
	if len(sealed) < sealedPrefix || sealed[0] != 1 {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[1:]), true
}

// CiphertextPrefix returns what everything that was sealed under the key with the
// id starts with, and nothing else does.
func CiphertextPrefix(id uint32) []byte { return binary.BigEndian.AppendUint32([]byte{1}, id) }

// AssociatedData names a column of a connection, for Seal and Open. Different arguments
// give different labels.
func AssociatedData(connectionID, column string) string {
	return fmt.Sprintf("%q %q", connectionID, column)
}
