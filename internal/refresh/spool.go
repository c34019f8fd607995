package refresh

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// A spool record is one file, recordSize bytes long from the start, so that
// filling it later needs no new room on the disk:
//
//	0     header: the parent as JSON, padded with spaces to headerSize
//	512   length of the sealed pair, 4 bytes big endian; 0 while it is only reserved
//	516   the sealed pair
//
// Whoever works on a record holds a kernel lock on its file (flock), which ends
// with the process: an unlocked record has no owner any more.
const (
	headerSize    = 512
	recordSize    = 64 << 10
	maxRecordSize = 4 << 20 // a token answer is at most 1 MB
	spoolExt      = ".pair"
	spoolLabel    = "spool"
)

// Sealer encrypts what is written to the spool, as [credstore.Keyset] does.
type Sealer interface {
	Encrypt(label string, plaintext []byte) ([]byte, error)
	Decrypt(label string, sealed []byte) ([]byte, error)
}

// Spool holds copies of new token pairs that the store has not taken yet, where
// they outlive the process. Its methods may be called by several goroutines at
// once.
type Spool interface {
	// Reserve makes room, durably, for the successor of parent. The error says
	// that nothing may be sent: there is no room, somebody else has reserved the
	// same, or the spool holds a successor already.
	Reserve(parent credstore.Parent) (SpoolRecord, error)
	// Abandoned reports whether a dead process of this machine had reserved a
	// record for the parent's successor and not filled it: then nobody holds one.
	Abandoned(parent credstore.Parent) bool
	// Replay saves what earlier processes left, each pair only onto its parent,
	// and removes what is of no use any more. While the store is unavailable it
	// keeps trying. It goes on looking for what processes leave that die later,
	// and returns ctx's error. waiting is told how many pairs wait for the store.
	Replay(ctx context.Context, store credstore.Store, log *zap.Logger, waiting func(int)) error
	// Replayed is closed once everything that earlier processes left was tried.
	Replayed() <-chan struct{}
}

// SpoolRecord is the room reserved for the successor of one parent. It belongs to one
// goroutine, but Discard and Keep may follow each other.
type SpoolRecord interface {
	Write(credstore.Successor) error // seals the successor into it, durably
	Remove()                         // removes it
	Release()                        // leaves it for the next process
}

// SpoolDir is a [Spool] of sealed, synced files in a directory on this machine.
type SpoolDir struct {
	dir    string
	sealer Sealer
	every  time.Duration // between two looks at what others have left

	replayed chan struct{} // closed once what earlier processes left was tried

	mu        sync.Mutex // guards abandoned
	abandoned map[credstore.Parent]bool
}

// OpenSpool returns the spool in dir, which it makes, for this user only, if it
// is not there.
func OpenSpool(dir string, sealer Sealer) (*SpoolDir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &credstore.SetupError{
			Err:  fmt.Errorf("making the spool directory: %w", err),
			Hint: "set store.spool_dir to a directory on a local disk that this user may write to",
		}
	}
	return &SpoolDir{
		dir: dir, sealer: sealer, every: replayInterval,
		replayed:  make(chan struct{}),
		abandoned: map[credstore.Parent]bool{},
	}, nil
}

// fileRecord is a record, locked by this process.
type fileRecord struct {
	spool  *SpoolDir
	file   *os.File
	parent credstore.Parent
}

// errRecordHoldsPair says that the spool holds a successor of the parent already: the
// parent's refresh token is spent and must not be presented.
var errRecordHoldsPair = errors.New("the spool holds a newer token pair that waits to be saved")

// Reserve makes a record, of full length and synced.
func (s *SpoolDir) Reserve(parent credstore.Parent) (SpoolRecord, error) {
	slot, err := s.claim(s.path(parent))
	if err != nil {
		return nil, err
	}
	slot.parent = parent
	if err := slot.vacate(); err != nil {
		slot.close()
		return nil, err
	}
	if err := slot.clear(); err != nil {
		slot.Remove()
		return nil, err
	}
	return slot, nil
}

// vacate makes sure that nothing of worth is in the record before it is reserved.
func (t *fileRecord) vacate() error {
	parent := t.parent
	_, successor, err := t.read()
	t.parent = parent
	switch {
	case successor != nil:
		return errRecordHoldsPair
	case errors.Is(err, errDamaged):
		return t.setAside()
	case errors.Is(err, errTorn):
		return nil
	}
	return err
}

// Abandoned reports what Replay has found out about the parent.
func (s *SpoolDir) Abandoned(parent credstore.Parent) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.abandoned[parent]
}

func (s *SpoolDir) path(p credstore.Parent) string {
	name := fmt.Sprintf("%s-%d-%s%s", p.ConnectionID, p.Version, hex.EncodeToString(p.RefreshHash[:8]), spoolExt)
	return filepath.Join(s.dir, filepath.Base(name))
}

// A record that a dead process has left may just be looked at, by Replay of this
// process or of another: that asks the store about it, and lets go of it then.
const (
	lockTimeout      = 5 * time.Second
	lockPollInterval = 5 * time.Millisecond
)

// claim locks the record at path, making it if need be.
func (s *SpoolDir) claim(path string) (*fileRecord, error) {
	for began := time.Now(); ; time.Sleep(lockPollInterval) {
		slot, err := s.lock(path, os.O_RDWR|os.O_CREATE)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(began) > lockTimeout {
			return slot, err
		}
	}
}

// lock opens the file at path and locks it. It fails if somebody else holds the
// lock.
func (s *SpoolDir) lock(path string, flags int) (*fileRecord, error) {
	for {
		file, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening a spool record: %w", err)
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("locking a spool record: %w", err)
		}
		if sameFile(file, path) {
			return &fileRecord{spool: s, file: file}, nil
		}
		_ = file.Close() // it was removed between opening and locking
	}
}

// sameFile reports whether path still names the open file.
func sameFile(file *os.File, path string) bool {
	open, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(open, named)
}

// header is the readable part of a record. It names no token: the hash is of a
// token too long to be guessed.
type header struct {
	Connection string `json:"connection"`
	Version    int64  `json:"version"`
	Hash       string `json:"hash"`
}

// clear writes an empty record of full length and syncs it and its name.
func (t *fileRecord) clear() error {
	head, err := json.Marshal(header{t.parent.ConnectionID, t.parent.Version, hex.EncodeToString(t.parent.RefreshHash[:])})
	if err != nil || len(head) > headerSize {
		return fmt.Errorf("encoding a spool header of %d bytes: %w", len(head), err)
	}
	record := make([]byte, recordSize)
	copy(record, append(head, bytes.Repeat([]byte(" "), headerSize-len(head))...))
	if _, err := t.file.WriteAt(record, 0); err != nil {
		return fmt.Errorf("reserving room in the spool: %w", err)
	}
	if err := t.file.Sync(); err != nil {
		return fmt.Errorf("syncing a spool record: %w", err)
	}
	return syncDir(t.spool.dir)
}

// pair is the sealed part of a record.
type pair struct {
	AccessToken  string    `json:"access_token"`
	RefreshToken string    `json:"refresh_token"`
	ExpiresAt    time.Time `json:"expires_at,omitzero"`
	ObtainedAt   time.Time `json:"obtained_at,omitzero"`
	Scope        string    `json:"scope,omitempty"`
	Consent      bool      `json:"consent,omitempty"`
	ForcedAt     time.Time `json:"forced_at,omitzero"`
	ForcedStreak int       `json:"forced_streak,omitempty"`

	Setback *credstore.RefreshFailure `json:"setback,omitempty"`
}

// Write seals the successor into the record and syncs it.
func (t *fileRecord) Write(s credstore.Successor) error {
	plain, err := json.Marshal(pair{
		AccessToken: s.AccessToken.Reveal(), RefreshToken: s.RefreshToken.Reveal(),
		ExpiresAt: s.ExpiresAt, ObtainedAt: s.ObtainedAt, Scope: s.Scope, Consent: s.Consent,
		ForcedAt: s.ForcedAt, ForcedStreak: s.ForcedStreak, Setback: s.RefreshFailure,
	})
	if err != nil {
		return fmt.Errorf("encoding a token pair: %w", err)
	}
	sealed, err := t.spool.sealer.Encrypt(t.label(), plain)
	if err != nil {
		return fmt.Errorf("sealing a token pair: %w", err)
	}
	record := binary.BigEndian.AppendUint32(nil, uint32(len(sealed))) //nolint:gosec // a token answer is at most 1 MB
	if _, err := t.file.WriteAt(append(record, sealed...), headerSize); err != nil {
		return fmt.Errorf("writing a spool record: %w", err)
	}
	if err := t.file.Sync(); err != nil {
		return fmt.Errorf("syncing a spool record: %w", err)
	}
	return nil
}

func (t *fileRecord) label() string {
	return credstore.AssociatedData(t.parent.ConnectionID, fmt.Sprintf("%s/%d", spoolLabel, t.parent.Version))
}

// Remove removes the record and gives up the lock.
func (t *fileRecord) Remove() {
	if t.file == nil {
		return
	}
	_ = os.Remove(t.file.Name()) // one left behind is found superseded at the next start
	t.close()
}

// Release gives up the lock alone.
func (t *fileRecord) Release() { t.close() }

func (t *fileRecord) close() {
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
}

// What read says of a record that holds no successor for a reason.
var (
	// errTorn: it was not even reserved to the end, so its token was never sent.
	errTorn = errors.New("the spool record was not reserved to the end")
	// errDamaged: something was filled in that does not open.
	errDamaged = errors.New("the spool record does not open")
)

// read returns the parent that the record names and, if it was filled wholly,
// the successor in it. Errors are errTorn, errDamaged (with the parent, where
// that can be read) and those of reading.
func (t *fileRecord) read() (credstore.Parent, *credstore.Successor, error) {
	raw, err := io.ReadAll(io.NewSectionReader(t.file, 0, maxRecordSize))
	if err != nil {
		return credstore.Parent{}, nil, fmt.Errorf("reading a spool record: %w", err)
	}
	if len(raw) < recordSize {
		return credstore.Parent{}, nil, errTorn
	}
	parent, err := parseHeader(raw)
	if err != nil {
		return credstore.Parent{}, nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	t.parent = parent
	successor, err := t.open(raw[headerSize:])
	return parent, successor, err
}

func parseHeader(raw []byte) (credstore.Parent, error) {
	var h header
	if err := json.Unmarshal(raw[:headerSize], &h); err != nil {
		return credstore.Parent{}, fmt.Errorf("parsing a spool header: %w", err)
	}
	parent := credstore.Parent{ConnectionID: h.Connection, Version: h.Version}
	if n, err := hex.Decode(parent.RefreshHash[:], []byte(h.Hash)); err != nil || n != len(parent.RefreshHash) {
		return credstore.Parent{}, errors.New("the spool header has no hash")
	}
	return parent, nil
}

// open returns the successor in the sealed part; nil if nothing was filled in.
func (t *fileRecord) open(body []byte) (*credstore.Successor, error) {
	length := int64(binary.BigEndian.Uint32(body))
	if length == 0 {
		return nil, nil //nolint:nilnil // nothing was filled in, and that is no error
	}
	if length > int64(len(body)-4) {
		return nil, errDamaged
	}
	plain, err := t.spool.sealer.Decrypt(t.label(), body[4:4+length])
	if err != nil {
		return nil, errDamaged
	}
	var p pair
	if json.Unmarshal(plain, &p) != nil {
		return nil, errDamaged
	}
	return &credstore.Successor{
		Parent:      t.parent,
		AccessToken: credstore.NewSecret(p.AccessToken), RefreshToken: credstore.NewSecret(p.RefreshToken),
		ExpiresAt: p.ExpiresAt, ObtainedAt: p.ObtainedAt, Scope: p.Scope, Consent: p.Consent,
		ForcedAt: p.ForcedAt, ForcedStreak: p.ForcedStreak, RefreshFailure: p.Setback,
	}, nil
}

// setAside keeps a damaged record for a person to look at, out of the way.
func (t *fileRecord) setAside() error {
	name := t.file.Name()
	if err := os.Rename(name, name+".damaged"); err != nil {
		return fmt.Errorf("setting a damaged spool record aside: %w", err)
	}
	return syncDir(t.spool.dir)
}

// Replayed is closed by the first round of Replay.
func (s *SpoolDir) Replayed() <-chan struct{} { return s.replayed }

// Replay goes through the records that nobody holds a lock on, at once and then
// for as long as ctx lasts: another process on the same directory may die at any
// time and leave one.
func (s *SpoolDir) Replay(ctx context.Context, store credstore.Store, log *zap.Logger, waiting func(int)) error {
	replayed := false
	for {
		left, err := s.replayAll(ctx, store, log)
		waiting(left)
		if err == nil && !replayed {
			replayed = true
			close(s.replayed)
		}
		wait := s.every
		if err != nil || left > 0 {
			wait = maxSaveRetryDelay
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// replayInterval is how often records that a process may have left are looked for.
const replayInterval = 2 * time.Second

// replayAll tries every record once and returns how many pairs are left. The
// error says that it could not look.
func (s *SpoolDir) replayAll(ctx context.Context, store credstore.Store, log *zap.Logger) (left int, err error) {
	records, err := os.ReadDir(s.dir)
	if err != nil {
		log.Error("reading the spool; no token is refreshed before it can be read", errField(err))
		return 0, fmt.Errorf("reading the spool: %w", err)
	}
	for _, record := range records {
		name, isPair := strings.CutSuffix(record.Name(), spoolExt)
		if !isPair || !record.Type().IsRegular() {
			continue // not ours
		}
		if err := s.replay(ctx, store, log, filepath.Join(s.dir, record.Name())); err != nil {
			left++
			log.Error("saving a spooled token pair; it is tried again", zap.String("record", name), errField(err))
		}
	}
	return left, nil
}

// replay settles one record. The error says that it must be tried again.
func (s *SpoolDir) replay(ctx context.Context, store credstore.Store, log *zap.Logger, path string) error {
	slot, err := s.lock(path, os.O_RDWR)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return nil // its owner lives, or has removed it
	}
	if err != nil {
		return err
	}
	defer slot.close()
	parent, successor, err := slot.read()
	switch {
	case errors.Is(err, errTorn):
		slot.Remove()
		return nil
	case errors.Is(err, errDamaged):
		log.Error("a spooled token pair does not open; it is kept as .damaged", zap.String("record", filepath.Base(path)), errField(err))
		return slot.setAside()
	case err != nil:
		return err
	case successor == nil:
		return s.abandon(ctx, store, slot, parent)
	}
	_, err = store.Save(ctx, *successor)
	if err == nil || errors.Is(err, credstore.ErrSuperseded) || errors.Is(err, credstore.ErrNotFound) {
		slot.Remove()
		return nil
	}
	return err
}

// abandon notes that nobody holds a successor of the parent, as long as the
// parent is what the store holds; else the record is of no use.
func (s *SpoolDir) abandon(ctx context.Context, store credstore.Store, slot *fileRecord, parent credstore.Parent) error {
	state, err := store.Read(ctx, parent.ConnectionID)
	switch {
	case errors.Is(err, credstore.ErrNotFound):
		slot.Remove()
	case err != nil:
		return fmt.Errorf("reading the parent of a spool record: %w", err)
	case state.Credential.Version != parent.Version:
		slot.Remove()
	default:
		s.mu.Lock()
		s.abandoned[parent] = true
		s.mu.Unlock()
	}
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening the spool directory: %w", err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing the spool directory: %w", err)
	}
	return nil
}
