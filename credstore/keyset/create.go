package keyset

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	tinkkeyset "github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// createKeyset makes the keyset file, or reports created = false where somebody
// else has just done so.
func createKeyset(path string) (created bool, err error) {
	data, err := newKeyset()
	if err != nil {
		return false, err
	}
	temp, err := writeTemporary(path, data)
	if err != nil {
		return false, &credstore.SetupError{Err: err, Hint: "the directory must exist and this user be allowed to write to it"}
	}
	defer os.Remove(temp) // what is left over if that fails is as private as the keyset

	// A link, unlike a rename, never takes the place of a file that is there.
	err = os.Link(temp, path)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, &credstore.SetupError{Err: err, Hint: "keep the keyset on a local file system"}
	}
	return true, syncDirectory(filepath.Dir(path))
}

// newKeyset returns a keyset file. XChaCha20-Poly1305 because its nonces are
// long enough to be drawn at random for ever; AES-GCM's suffice for 2^32 of
// them under one key (NIST SP 800-38D section 8.3).
func newKeyset() ([]byte, error) {
	handle, err := tinkkeyset.NewHandle(aead.XChaCha20Poly1305KeyTemplate())
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, tinkkeyset.NewJSONWriter(&buf)); err != nil {
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

// owner is whom a file belongs to.
type owner struct{ uid, gid int }

func ownerOf(info fs.FileInfo) owner {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return owner{uid: -1, gid: -1} // which chown takes for: as it is
	}
	return owner{uid: int(stat.Uid), gid: int(stat.Gid)}
}
