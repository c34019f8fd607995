package keyset

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	tinkkeyset "github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

// Errors of the functions that edit a keyset file. The file is unchanged.
var (
	// ErrKeyNotFound means that the keyset has no key with the fingerprint.
	ErrKeyNotFound = errors.New("the keyset has no such key")
	// ErrPrimaryKey means that the key is in use for new ciphertexts.
	ErrPrimaryKey = errors.New("the key is the primary one")
	// ErrBusy means that another process is editing the keyset.
	ErrBusy = errors.New("another process is changing the keyset")
)

// Create creates a keyset of one key at path. If the file exists, the error matches
// [fs.ErrExist].
func Create(path string) (Key, error) {
	created, err := createKeyset(path)
	if err != nil {
		return Key{}, fmt.Errorf("creating keyset %s: %w", path, err)
	}
	if !created {
		return Key{}, fmt.Errorf("creating keyset %s: %w", path, fs.ErrExist)
	}
	keys, err := loadKeys(path)
	if err != nil {
		return Key{}, err
	}
	return keys.inFile[0], nil
}

// Add appends a new key to the keyset at path. Nothing is encrypted under the key
// until it is promoted: this leaves time to distribute the file to every process
// that reads the ciphertexts.
func Add(path string) (Key, error) {
	keys, err := editKeyset(path, func(file *tinkpb.Keyset) (bool, error) {
		key, err := newKey(file)
		file.Key = append(file.Key, key)
		return true, err
	})
	if err != nil {
		return Key{}, fmt.Errorf("adding a key to keyset %s: %w", path, err)
	}
	return keys.inFile[len(keys.inFile)-1], nil
}

// Promote makes the key with the fingerprint the primary key of the keyset at path.
// It returns false if it already was. The error may match [ErrKeyNotFound].
func Promote(path, name string) (changed bool, err error) {
	_, err = editKeyset(path, func(file *tinkpb.Keyset) (bool, error) {
		i := findKey(file, name)
		if i < 0 {
			return false, ErrKeyNotFound
		}
		changed = file.GetPrimaryKeyId() != file.GetKey()[i].GetKeyId()
		file.PrimaryKeyId = file.GetKey()[i].GetKeyId()
		return changed, nil
	})
	if err != nil {
		return false, fmt.Errorf("promoting a key of keyset %s: %w", path, err)
	}
	return changed, nil
}

// Retire removes the key with the fingerprint from the keyset at path, provided
// that unused returns nil. The file is locked against other edits during that call.
// The error may match [ErrKeyNotFound], [ErrPrimaryKey] or the error of unused.
func Retire(path, name string, unused func() error) error {
	_, err := editKeyset(path, func(file *tinkpb.Keyset) (bool, error) {
		i := findKey(file, name)
		if i < 0 {
			return false, ErrKeyNotFound
		}
		if file.GetPrimaryKeyId() == file.GetKey()[i].GetKeyId() {
			return false, ErrPrimaryKey
		}
		file.Key = slices.Delete(file.Key, i, i+1)
		return true, unused()
	})
	if err != nil {
		return fmt.Errorf("retiring a key of keyset %s: %w", path, err)
	}
	return nil
}

// findKey returns the index of the enabled key with the fingerprint, or -1.
func findKey(file *tinkpb.Keyset, name string) int {
	return slices.IndexFunc(file.GetKey(), func(key *tinkpb.Keyset_Key) bool {
		return key.GetStatus() == tinkpb.KeyStatusType_ENABLED && fingerprint(key.GetKeyData()) == name
	})
}

// newKey returns a new key whose id is unique in the file.
func newKey(file *tinkpb.Keyset) (*tinkpb.Keyset_Key, error) {
	for {
		handle, err := tinkkeyset.NewHandle(aead.XChaCha20Poly1305KeyTemplate())
		if err != nil {
			return nil, fmt.Errorf("creating a key: %w", err)
		}
		key := insecurecleartextkeyset.KeysetMaterial(handle).GetKey()[0]
		taken := slices.ContainsFunc(file.GetKey(), func(other *tinkpb.Keyset_Key) bool { return other.GetKeyId() == key.GetKeyId() })
		if !taken {
			return key, nil
		}
	}
}

// editKeyset applies edit to the keyset and replaces its file atomically: a reader,
// and a process that starts after a power failure, finds the old keyset or the new
// one. Nothing is written if edit returns false or an error. One process at a time
// edits a file; the others get ErrBusy.
func editKeyset(path string, edit func(*tinkpb.Keyset) (bool, error)) (*loadedKeys, error) {
	path, err := filepath.EvalSymlinks(path) // the file is replaced, not the link to it
	if err != nil {
		return nil, editError(err)
	}
	f, err := lockKeyset(path)
	if err != nil {
		return nil, editError(err)
	}
	defer func() { _ = f.Close() }() // releases the lock
	data, info, err := readOpenFile(f)
	if err != nil {
		return nil, editError(err)
	}
	if _, err := parseKeys(data); err != nil {
		return nil, &credstore.SetupError{Err: err, Hint: "restore the file from a backup"}
	}
	data, keys, err := applyEdit(data, edit)
	if err != nil || data == nil {
		return keys, err
	}
	return keys, editError(replaceFile(path, data, info))
}

// applyEdit applies edit to the keyset in data and returns the new content of the
// file, nil if edit changed nothing.
func applyEdit(data []byte, edit func(*tinkpb.Keyset) (bool, error)) ([]byte, *loadedKeys, error) {
	file, err := tinkkeyset.NewJSONReader(bytes.NewReader(data)).Read()
	if err != nil {
		return nil, nil, errors.New("not a keyset in Tink's JSON format")
	}
	changed, err := edit(file)
	if err != nil || !changed {
		return nil, nil, err
	}
	var buf bytes.Buffer
	if err := tinkkeyset.NewJSONWriter(&buf).Write(file); err != nil {
		return nil, nil, errors.New("encoding the keyset")
	}
	buf.WriteByte('\n')
	keys, err := parseKeys(buf.Bytes()) // an unreadable keyset must not replace a readable one
	return buf.Bytes(), keys, err
}

// lockKeyset opens the file and locks it until it is closed. It does not wait for a
// lock. It opens the file for writing so that a read-only file system is reported
// before anything is done.
func lockKeyset(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) //nolint:gosec // a descriptor fits
	if errors.Is(err, unix.EWOULDBLOCK) || err == nil && !durable.Names(path, f) {
		err = ErrBusy
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// replaceFile replaces the file durably. The new file has the owner of the old one,
// so that the server can still read it after an edit by root, and the same
// permissions, without those of other users.
func replaceFile(path string, data []byte, old fs.FileInfo) (err error) {
	f, err := durable.New(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := copyAccess(f.File, old); err != nil {
		return err
	}
	return f.Replace()
}

func copyAccess(f *os.File, old fs.FileInfo) error {
	if err := f.Chmod(old.Mode().Perm()&0o660 | 0o600); err != nil {
		return err
	}
	now, err := f.Stat()
	if err != nil {
		return err
	}
	was := ownerOf(old)
	if was == ownerOf(now) {
		return nil
	}
	return f.Chown(was.uid, was.gid)
}

// editError adds a hint to the error of an edit. It returns nil for nil.
func editError(err error) error {
	var hint string
	switch {
	case err == nil, errors.Is(err, ErrBusy):
		return err
	case errors.Is(err, fs.ErrNotExist):
		hint = "create a keyset with: pleo-auth-proxy keyset create"
	case errors.Is(err, unix.EROFS):
		hint = "the keyset is on a read-only mount: edit the original, such as the Kubernetes Secret, and roll it out"
	case errors.Is(err, unix.EBUSY):
		hint = "the keyset is mounted as a single file, which cannot be replaced atomically: mount its directory instead"
	default:
		hint = "the keyset file and its directory must be writable by this user"
	}
	return &credstore.SetupError{Err: err, Hint: hint}
}
