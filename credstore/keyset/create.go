package keyset

import (
	"bytes"
	"errors"
	"io/fs"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	tinkkeyset "github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

// createKeyset creates the keyset file. It returns false if the file exists, for
// example because another process has just created it.
func createKeyset(path string) (created bool, err error) {
	data, err := newKeyset()
	if err != nil {
		return false, err
	}
	err = durable.Create(path, data)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, &credstore.SetupError{Err: err, Hint: "the directory must exist on a local file system, and this user must be allowed to write to it"}
	}
	return true, nil
}

// newKeyset returns the content of a keyset file with one new key. The algorithm is
// XChaCha20-Poly1305, whose nonces are long enough to be chosen at random without a
// limit. AES-GCM allows only 2^32 random nonces per key (NIST SP 800-38D section
// 8.3).
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

// owner is the owner of a file.
type owner struct{ uid, gid int }

func ownerOf(info fs.FileInfo) owner {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return owner{uid: -1, gid: -1} // chown leaves these unchanged
	}
	return owner{uid: int(stat.Uid), gid: int(stat.Gid)}
}
