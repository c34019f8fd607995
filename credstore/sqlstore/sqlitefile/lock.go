package sqlitefile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Locks takes locks that the kernel releases when the process ends in any way, and
// keeps while it is paused. Each lock is on one byte of the file, at the offset of the
// number of the connection.
//
// The locks belong to the open file description (fcntl F_OFD_SETLK). POSIX locks belong
// to the process, and any other close of the file would release them.
type Locks struct {
	file *os.File

	mu   sync.Mutex         // guards held
	held map[int64]struct{} // numbers locked by this process, which the kernel does not exclude
}

// OpenLocks opens or creates the file, and checks that its file system supports
// locks.
func OpenLocks(path string) (*Locks, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, pathError(err)
	}
	l := &Locks{file: file, held: make(map[int64]struct{})}
	// Byte 0 belongs to no connection. The lock is shared, so all processes may try it
	// at once.
	if err := l.fcntl(unix.F_RDLCK, 0); err != nil {
		return nil, &credstore.SetupError{
			Err:  errors.Join(fmt.Errorf("locking %s: %w", path, err), file.Close()),
			Hint: "keep the store on a local file system that supports open file description locks",
		}
	}
	return l, nil
}

// Lock returns credstore.ErrBusy while the number is locked.
func (l *Locks) Lock(number int64) (unlock func() error, err error) {
	if !l.reserve(number) {
		return nil, credstore.ErrBusy
	}
	if err := l.take(number); err != nil {
		l.forget(number)
		return nil, err
	}
	return func() error {
		defer l.forget(number)
		return l.fcntl(unix.F_UNLCK, number)
	}, nil
}

func (l *Locks) take(number int64) error {
	err := l.fcntl(unix.F_WRLCK, number)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return credstore.ErrBusy
	}
	if err != nil {
		return fmt.Errorf("locking a credential: %w", err)
	}
	return nil
}

func (l *Locks) reserve(number int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.held[number]; taken {
		return false
	}
	l.held[number] = struct{}{}
	return true
}

func (l *Locks) forget(number int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, number)
}

// fcntl takes or releases the lock on one byte, without waiting.
func (l *Locks) fcntl(kind int16, offset int64) error {
	conn, err := l.file.SyscallConn() // prevents a concurrent close
	if err != nil {
		return err
	}
	var errno error
	err = conn.Control(func(fd uintptr) {
		lock := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: offset, Len: 1}
		errno = unix.FcntlFlock(fd, fcntlSetLock, &lock)
	})
	return errors.Join(err, errno)
}

// Close releases all locks.
func (l *Locks) Close() error { return l.file.Close() }
