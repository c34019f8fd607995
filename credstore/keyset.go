package credstore

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"
	"golang.org/x/sys/unix"
)

// maxKeysetSize bounds how much of a keyset file is read. A key takes about
// 200 bytes.
const maxKeysetSize = 1 << 20

// Keyset seals and opens what a store keeps secret, with a Tink AEAD keyset.
// It is immutable and may be used by several goroutines at once.
//
// What is sealed starts with Tink's prefix, which names the key it was sealed
// under, so that a keyset may hold older keys beside its primary one:
//
//	01 | key id, 4 bytes, big-endian | nonce | ciphertext and tag
type Keyset struct {
	aead    tink.AEAD
	primary string              // fingerprint
	held    map[string]struct{} // fingerprints of the enabled keys
}

// OpenKeyset reads the cleartext Tink JSON keyset at path. Where there is no
// file it makes a keyset of one XChaCha20-Poly1305 key, readable by its owner
// only, and reports created. Of several processes that find no file, one
// creates the keyset and all return that one.
//
// A file that cannot be used is a [SetupError].
func OpenKeyset(path string) (k *Keyset, created bool, err error) {
	k, err = readKeyset(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, false, err
	}
	created, err = createKeyset(path)
	if err != nil {
		return nil, false, fmt.Errorf("creating keyset %s: %w", path, err)
	}
	k, err = readKeyset(path)
	return k, created, err
}

// Seal encrypts plaintext under the primary key, bound to label: it opens with
// the same label only.
func (k *Keyset) Seal(label string, plaintext []byte) ([]byte, error) {
	sealed, err := k.aead.Encrypt(plaintext, []byte(label))
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return sealed, nil
}

// Open decrypts what Seal returned for the same label, under any key of the
// keyset. It fails for anything else, altered in whatever way.
func (k *Keyset) Open(label string, sealed []byte) ([]byte, error) {
	plaintext, err := k.aead.Decrypt(sealed, []byte(label))
	if err != nil {
		return nil, fmt.Errorf("opening what was sealed: %w", err)
	}
	return plaintext, nil
}

// Fingerprint names the primary key without giving anything of it away.
func (k *Keyset) Fingerprint() string { return k.primary }

// Holds reports whether the keyset can open what was sealed under the key with
// the fingerprint.
func (k *Keyset) Holds(fingerprint string) bool {
	_, ok := k.held[fingerprint]
	return ok
}

// Label names a column of a connection, for Seal and Open. Different arguments
// give different labels.
func Label(connectionID, column string) string {
	return fmt.Sprintf("%q %q", connectionID, column)
}

// readKeyset returns an error that matches fs.ErrNotExist when there is no file.
func readKeyset(path string) (*Keyset, error) {
	data, err := readRegularFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, &SetupError{
			Err:  fmt.Errorf("reading keyset: %w", err),
			Hint: "name a keyset file that this user can read",
		}
	}
	k, err := parseKeyset(data)
	if err != nil {
		return nil, &SetupError{
			Err:  fmt.Errorf("reading keyset %s: %w", path, err),
			Hint: "restore the file from a backup; a new keyset does not open what the old one sealed",
		}
	}
	return k, nil
}

// readRegularFile follows symbolic links, since Kubernetes mounts a Secret's
// files as such.
func readRegularFile(path string) ([]byte, error) {
	// Without O_NONBLOCK the open of a named pipe would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeysetSize+1))
	if err == nil && len(data) > maxKeysetSize {
		return nil, fmt.Errorf("%s is larger than a keyset can be", path)
	}
	return data, err
}

// parseKeyset keeps the errors of the JSON parser to itself: they may quote
// what they stumbled over.
func parseKeyset(data []byte) (*Keyset, error) {
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(data)))
	if err != nil {
		return nil, errors.New("not a keyset in Tink's JSON format, or a damaged one")
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, errors.New("not a keyset for authenticated encryption (AEAD)")
	}
	k := &Keyset{aead: primitive, held: make(map[string]struct{})}
	material := insecurecleartextkeyset.KeysetMaterial(handle)
	for _, key := range material.GetKey() {
		k.note(key, key.GetKeyId() == material.GetPrimaryKeyId())
	}
	return k, nil
}

func (k *Keyset) note(key *tinkpb.Keyset_Key, primary bool) {
	if key.GetStatus() != tinkpb.KeyStatusType_ENABLED {
		return
	}
	name := fingerprint(key.GetKeyData())
	k.held[name] = struct{}{}
	if primary {
		k.primary = name
	}
}

// fingerprint is a MAC under the key itself: whoever lacks the key can neither
// make nor test it, and 128 bits tell any two keys apart.
func fingerprint(key *tinkpb.KeyData) string {
	mac := hmac.New(sha256.New, key.GetValue())
	mac.Write([]byte("pleo-auth-proxy keyset fingerprint, version 1: " + key.GetTypeUrl()))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// createKeyset makes the keyset file, or reports created = false where somebody
// else has just done so.
func createKeyset(path string) (created bool, err error) {
	data, err := newKeyset()
	if err != nil {
		return false, err
	}
	temp, err := writeTemporary(path, data)
	if err != nil {
		return false, &SetupError{Err: err, Hint: "the directory must exist and this user be allowed to write to it"}
	}
	defer os.Remove(temp) // what is left over if that fails is as private as the keyset

	// A link, unlike a rename, never takes the place of a file that is there.
	err = os.Link(temp, path)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, &SetupError{Err: err, Hint: "keep the keyset on a local file system"}
	}
	return true, syncDirectory(filepath.Dir(path))
}

// newKeyset returns a keyset file. XChaCha20-Poly1305 because its nonces are
// long enough to be drawn at random for ever; AES-GCM's suffice for 2^32 of
// them under one key (NIST SP 800-38D section 8.3).
func newKeyset() ([]byte, error) {
	handle, err := keyset.NewHandle(aead.XChaCha20Poly1305KeyTemplate())
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&buf)); err != nil {
		return nil, err
	}
	buf.WriteByte('\n')
	return buf.Bytes(), nil
}

// writeTemporary writes data, durably, to a new file beside path that only its
// owner can read.
func writeTemporary(path string, data []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
