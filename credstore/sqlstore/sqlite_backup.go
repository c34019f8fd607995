package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// backuper is a dialect that can copy its data into a file. Others have tools of
// their own for that.
type backuper interface {
	backup(ctx context.Context, path string) error
}

// Backup writes the store, as it is at this moment, to a new file that only its
// owner can read. Other processes may go on writing. The file is there once it
// is whole and durable; one that is there already is left alone, with an error
// that matches fs.ErrExist. What it holds is sealed as in the store: it opens
// under the same keyset only.
func (s *Store) Backup(ctx context.Context, path string) error {
	b, ok := s.db.dialect.(backuper)
	if !ok {
		return &credstore.SetupError{
			Err:  fmt.Errorf("backing up the store to %s: the program does not back up a store in PostgreSQL", path),
			Hint: fmt.Sprintf("use pg_dump --format=custom --file=%s, and keep the keyset elsewhere", path),
		}
	}
	if err := b.backup(ctx, path); err != nil {
		return fmt.Errorf("backing up the store to %s: %w", path, err)
	}
	return nil
}

func (d *sqliteDialect) backup(ctx context.Context, path string) (err error) {
	// SQLite works on a file that is there with the permissions it has.
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, temp.Close(), os.Remove(temp.Name()))
	}()
	if err := d.copyTo(ctx, temp.Name()); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	// A link, unlike a rename, never takes the place of a file that is there.
	if err := os.Link(temp.Name(), path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// copyTo copies all pages in one step, in which SQLite holds one snapshot.
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
