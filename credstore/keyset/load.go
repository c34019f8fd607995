package keyset

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

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	tinkkeyset "github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"
	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

// maxKeysetSize bounds how much of a keyset file is read. A key takes about
// 200 bytes.
const maxKeysetSize = 1 << 20

// loadedKeys are the keys of one version of a keyset file.
type loadedKeys struct {
	file    durable.Stamp
	inFile  []Key
	primary string               // fingerprint
	byID    map[uint32]tink.AEAD // each under one key
	byName  map[string]tink.AEAD // the same, by fingerprint
}

// loadKeys reads the keyset file at path. If it does not exist, the error matches
// fs.ErrNotExist.
func loadKeys(path string) (*loadedKeys, error) {
	data, info, err := readRegularFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, &credstore.SetupError{
			Err:  fmt.Errorf("reading keyset: %w", err),
			Hint: "name a keyset file that this user can read",
		}
	}
	keys, err := parseKeys(data)
	if err != nil {
		return nil, &credstore.SetupError{
			Err:  fmt.Errorf("reading keyset %s: %w", path, err),
			Hint: "restore the file from a backup; a new keyset cannot decrypt what was encrypted under the old one",
		}
	}
	keys.file = durable.StampFrom(info)
	return keys, nil
}

// readRegularFile reads a file. It follows symbolic links, because Kubernetes mounts
// the files of a Secret as links.
func readRegularFile(path string) ([]byte, fs.FileInfo, error) {
	// Without O_NONBLOCK, opening a named pipe would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }() // opened for reading
	return readOpenFile(f)
}

func readOpenFile(f *os.File) ([]byte, fs.FileInfo, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", f.Name())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeysetSize+1))
	if err == nil && len(data) > maxKeysetSize {
		err = fmt.Errorf("%s is larger than a keyset can be", f.Name())
	}
	return data, info, err
}

// parseKeys parses a keyset file. It does not wrap the errors of the JSON parser,
// because they may quote key material.
func parseKeys(data []byte) (*loadedKeys, error) {
	handle, err := insecurecleartextkeyset.Read(tinkkeyset.NewJSONReader(bytes.NewReader(data)))
	if err != nil {
		return nil, errors.New("not a keyset in Tink's JSON format, or a damaged one")
	}
	k := &loadedKeys{byID: make(map[uint32]tink.AEAD), byName: make(map[string]tink.AEAD)}
	material := insecurecleartextkeyset.KeysetMaterial(handle)
	for _, key := range material.GetKey() {
		if key.GetStatus() != tinkpb.KeyStatusType_ENABLED {
			continue
		}
		if err := k.add(key, key.GetKeyId() == material.GetPrimaryKeyId()); err != nil {
			return nil, err
		}
	}
	if k.primary == "" {
		return nil, errors.New("the primary key is not enabled")
	}
	return k, nil
}

func (k *loadedKeys) add(key *tinkpb.Keyset_Key, primary bool) error {
	if key.GetOutputPrefixType() != tinkpb.OutputPrefixType_TINK {
		return errors.New("a key has no output prefix: its output prefix type must be TINK, so that a ciphertext names its key")
	}
	primitive, err := aeadOf(key)
	if err != nil {
		return err
	}
	name := fingerprint(key.GetKeyData())
	k.inFile = append(k.inFile, Key{Fingerprint: name, ID: key.GetKeyId(), Primary: primary})
	k.byID[key.GetKeyId()], k.byName[name] = primitive, primitive
	if primary {
		k.primary = name
	}
	return nil
}

// aeadOf returns a primitive that encrypts and decrypts under this key only.
func aeadOf(key *tinkpb.Keyset_Key) (tink.AEAD, error) {
	alone := &tinkpb.Keyset{PrimaryKeyId: key.GetKeyId(), Key: []*tinkpb.Keyset_Key{key}}
	var buf bytes.Buffer
	if err := tinkkeyset.NewBinaryWriter(&buf).Write(alone); err != nil {
		return nil, errors.New("a key cannot be used")
	}
	handle, err := insecurecleartextkeyset.Read(tinkkeyset.NewBinaryReader(&buf))
	if err != nil {
		return nil, errors.New("a key cannot be used")
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, errors.New("not a keyset for authenticated encryption (AEAD)")
	}
	return primitive, nil
}

// fingerprint returns a MAC under the key itself. Without the key it can be neither
// computed nor verified; 128 bits rule out collisions.
func fingerprint(key *tinkpb.KeyData) string {
	mac := hmac.New(sha256.New, key.GetValue())
	mac.Write([]byte("pleo-auth-proxy keyset fingerprint, version 1: " + key.GetTypeUrl()))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// upToDate reports whether the file at path is unchanged since it was loaded. It
// returns false if the file cannot be examined.
func (k *loadedKeys) upToDate(path string) bool {
	stamp, err := durable.StampOf(path)
	return err == nil && k.file.Equal(stamp)
}

// addRemoved adds the keys of an earlier version of the file that this one lacks.
func (k *loadedKeys) addRemoved(before *loadedKeys) {
	for id, primitive := range before.byID {
		if k.byID[id] == nil {
			k.byID[id] = primitive
		}
	}
	for name, primitive := range before.byName {
		if k.byName[name] == nil {
			k.byName[name] = primitive
		}
	}
}

func (k *loadedKeys) contains(fingerprint string) bool { return k.byName[fingerprint] != nil }

func (k *loadedKeys) encrypt(fingerprint, label string, plaintext []byte) ([]byte, error) {
	primitive := k.byName[fingerprint]
	if primitive == nil {
		return nil, &credstore.SetupError{
			Err:  fmt.Errorf("encrypting: the keyset does not have the key %s", fingerprint),
			Hint: "update the keyset file of this process: a new key must be in every copy before it is promoted",
		}
	}
	ciphertext, err := primitive.Encrypt(plaintext, []byte(label))
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return ciphertext, nil
}

func (k *loadedKeys) decrypt(id uint32, label string, ciphertext []byte) ([]byte, error) {
	primitive := k.byID[id]
	if primitive == nil {
		return nil, fmt.Errorf("decrypting: the keyset does not have the key with the id %d", id)
	}
	plaintext, err := primitive.Decrypt(ciphertext, []byte(label))
	if err != nil {
		return nil, fmt.Errorf("decrypting: %w", err)
	}
	return plaintext, nil
}
