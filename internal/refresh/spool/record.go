package spool

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

// A record is one file, recordSize bytes long from the start:
//
//	0     header: the parent as JSON, padded with spaces to headerSize
//	512   length of the encrypted pair, 4 bytes big endian; 0 until it is written
//	516   the encrypted pair
//
// A process holds a kernel lock (flock) on the records it works on, which ends
// with the process: an unlocked record has no owner.
const (
	headerSize    = 512
	recordSize    = 64 << 10
	maxRecordSize = 4 << 20 // a token response is at most 1 MB
	extension     = ".pair"
	columnName    = "spool" // in the associated data of the encryption
)

// Cipher encrypts records, as a keyset does.
type Cipher interface {
	Encrypt(label string, plaintext []byte) ([]byte, error)
	Decrypt(label string, ciphertext []byte) ([]byte, error)
}

// fileRecord is a record whose file this process has locked.
type fileRecord struct {
	dir    *Dir
	file   *os.File // nil when the lock has been released
	parent credstore.Parent
}

// lock opens the file and locks it. The error matches EWOULDBLOCK if another
// process holds the lock.
func lock(dir *Dir, path string, flags int) (*fileRecord, error) {
	for {
		file, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening a spool record: %w", err)
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("locking a spool record: %w", err)
		}
		if durable.Names(path, file) {
			return &fileRecord{dir: dir, file: file}, nil
		}
		_ = file.Close() // it was removed between opening and locking
	}
}

// header is the readable part of a record. It reveals no token: the hash is of a
// token that is too long to be guessed.
type header struct {
	Connection string `json:"connection"`
	Version    int64  `json:"version"`
	Hash       string `json:"hash"`
}

// reserve writes an empty record of full length and syncs it and its name.
func (r *fileRecord) reserve() error {
	head, err := json.Marshal(header{r.parent.ConnectionID, r.parent.Version, hex.EncodeToString(r.parent.RefreshHash[:])})
	if err != nil || len(head) > headerSize {
		return fmt.Errorf("encoding a spool header of %d bytes: %w", len(head), err)
	}
	empty := make([]byte, recordSize)
	copy(empty, append(head, bytes.Repeat([]byte(" "), headerSize-len(head))...))
	if err := r.writeAt(empty, 0); err != nil {
		return err
	}
	return r.dir.sync()
}

func (r *fileRecord) writeAt(data []byte, offset int64) error {
	if _, err := r.file.WriteAt(data, offset); err != nil {
		return fmt.Errorf("writing a spool record: %w", err)
	}
	if err := r.file.Sync(); err != nil {
		return fmt.Errorf("syncing a spool record: %w", err)
	}
	return nil
}

// pair is the encrypted part of a record. The names stay as they are: records of
// earlier versions must be read.
type pair struct {
	AccessToken  string    `json:"access_token"`
	RefreshToken string    `json:"refresh_token"`
	ExpiresAt    time.Time `json:"expires_at,omitzero"`
	ObtainedAt   time.Time `json:"obtained_at,omitzero"`
	Scope        string    `json:"scope,omitempty"`
	Consent      bool      `json:"consent,omitempty"`
	ForcedAt     time.Time `json:"forced_at,omitzero"`
	ForcedStreak int       `json:"forced_streak,omitempty"`

	Failure *credstore.RefreshFailure `json:"setback,omitempty"`
}

// Write implements [Record].
func (r *fileRecord) Write(s credstore.Successor) error {
	plain, err := json.Marshal(pair{
		AccessToken: s.AccessToken.Reveal(), RefreshToken: s.RefreshToken.Reveal(),
		ExpiresAt: s.ExpiresAt, ObtainedAt: s.ObtainedAt, Scope: s.Scope, Consent: s.Consent,
		ForcedAt: s.ForcedAt, ForcedStreak: s.ForcedStreak, Failure: s.RefreshFailure,
	})
	if err != nil {
		return fmt.Errorf("encoding a token pair: %w", err)
	}
	encrypted, err := r.dir.cipher.Encrypt(r.label(), plain)
	if err != nil {
		return fmt.Errorf("encrypting a token pair: %w", err)
	}
	length := binary.BigEndian.AppendUint32(nil, uint32(len(encrypted))) //nolint:gosec // a token response is at most 1 MB
	return r.writeAt(append(length, encrypted...), headerSize)
}

// label binds the encrypted pair to the connection and the parent's version.
func (r *fileRecord) label() string {
	return keyset.AssociatedData(r.parent.ConnectionID, fmt.Sprintf("%s/%d", columnName, r.parent.Version))
}

// Remove implements [Record]. A file that cannot be removed is found superseded
// when it is replayed.
func (r *fileRecord) Remove() {
	if r.file != nil {
		_ = os.Remove(r.file.Name())
	}
	r.Release()
}

// Release implements [Record].
func (r *fileRecord) Release() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}

var (
	errIncomplete = errors.New("the spool record was not reserved to the end")
	errDamaged    = errors.New("the spool record cannot be decrypted")
)

// read returns the successor in the record, nil if none was written, and sets
// the record's parent where that can be read. Errors are errIncomplete,
// errDamaged, and those of reading.
func (r *fileRecord) read() (*credstore.Successor, error) {
	raw, err := io.ReadAll(io.NewSectionReader(r.file, 0, maxRecordSize))
	if err != nil {
		return nil, fmt.Errorf("reading a spool record: %w", err)
	}
	if len(raw) < recordSize {
		return nil, errIncomplete
	}
	r.parent, err = parseHeader(raw[:headerSize])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return r.decrypt(raw[headerSize:])
}

func parseHeader(raw []byte) (credstore.Parent, error) {
	var h header
	if err := json.Unmarshal(raw, &h); err != nil {
		return credstore.Parent{}, fmt.Errorf("parsing a spool header: %w", err)
	}
	parent := credstore.Parent{ConnectionID: h.Connection, Version: h.Version}
	if n, err := hex.Decode(parent.RefreshHash[:], []byte(h.Hash)); err != nil || n != len(parent.RefreshHash) {
		return credstore.Parent{}, errors.New("the spool header has no hash")
	}
	return parent, nil
}

// decrypt returns the successor in the encrypted part; nil if none was written.
func (r *fileRecord) decrypt(body []byte) (*credstore.Successor, error) {
	length := int64(binary.BigEndian.Uint32(body))
	if length == 0 {
		return nil, nil //nolint:nilnil // an empty record is no error
	}
	if length > int64(len(body)-4) {
		return nil, errDamaged
	}
	plain, err := r.dir.cipher.Decrypt(r.label(), body[4:4+length])
	if err != nil {
		return nil, errDamaged
	}
	var p pair
	if json.Unmarshal(plain, &p) != nil {
		return nil, errDamaged
	}
	return &credstore.Successor{
		Parent:      r.parent,
		AccessToken: credstore.NewSecret(p.AccessToken), RefreshToken: credstore.NewSecret(p.RefreshToken),
		ExpiresAt: p.ExpiresAt, ObtainedAt: p.ObtainedAt, Scope: p.Scope, Consent: p.Consent,
		ForcedAt: p.ForcedAt, ForcedStreak: p.ForcedStreak, RefreshFailure: p.Failure,
	}, nil
}

// setAside renames a damaged record, for a person to examine.
func (r *fileRecord) setAside() error {
	name := r.file.Name()
	if err := os.Rename(name, name+".damaged"); err != nil {
		return fmt.Errorf("setting a damaged spool record aside: %w", err)
	}
	return r.dir.sync()
}
