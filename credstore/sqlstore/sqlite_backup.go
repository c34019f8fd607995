package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"

	"modernc.org/sqlite"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/durable"
)

// backuper is a dialect that can copy its data into a file. Other databases have their
// own tools.
type backuper interface {
	backup(ctx context.Context, path string) error
}

// Backup writes the store as it is at this moment to a new file that only its owner can
// read. Other processes may write meanwhile. The file appears when it is complete and
// durable; if it exists, it is left unchanged, and the error matches fs.ErrExist. Its
// secrets are encrypted as in the store, with the same keyset.
func (s *Store) Backup(ctx context.Context, path string) error {
	b, ok := s.db.dialect.(backuper)
	if !ok {
		return &credstore.SetupError{
			Err:  fmt.Errorf("backing up the store to %s: the program cannot back up a store in PostgreSQL", path),
			Hint: fmt.Sprintf("use pg_dump --format=custom --file=%s, and store the keyset elsewhere", path),
		}
	}
	err := b.backup(ctx, path)
	if errors.Is(err, fs.ErrExist) {
		return &existsError{path}
	}
	if err != nil {
		return fmt.Errorf("backing up the store to %s: %w", path, err)
	}
	return nil
}

// existsError is an [fs.ErrExist] that does not name the temporary file.
type existsError struct{ path string }

func (e *existsError) Error() string {
	return "backing up the store: " + e.path + " already exists; choose another name"
}

func (e *existsError) Is(target error) bool { return target == fs.ErrExist }

func (d *sqliteDialect) backup(ctx context.Context, path string) (err error) {
	f, err := durable.New(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// SQLite writes to the existing file, which only its owner can read.
	if err := d.copyTo(ctx, f.Name()); err != nil {
		return err
	}
	return f.Create()
}

// copyTo copies all pages in one step, which is one snapshot.
func (d *sqliteDialect) copyTo(ctx context.Context, path string) error {
	conn, err := d.read.Conn(ctx)
	if err != nil {
		return err
	}
	err = conn.Raw(func(driver any) error {
		source, ok := driver.(interface {
			NewBackup(target string) (*sqlite.Backup, error)
		})
		if !ok {
			return errors.New("the SQLite driver makes no backups")
		}
		target := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "mode=rw"}
		b, err := source.NewBackup(target.String())
		if err != nil {
			return err
		}
		_, err = b.Step(-1)
		return errors.Join(err, b.Finish())
	})
	return errors.Join(err, conn.Close())
}
