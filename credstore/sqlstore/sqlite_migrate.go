package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// migrate migrates the database to the newest schema. Several processes may do so at
// once. A database with a newer schema, or of another program, is rejected without
// writing to it.
func migrate(ctx context.Context, db *sql.DB, migrations []string) error {
	if _, err := checkVersion(ctx, db, len(migrations)); err != nil {
		return err
	}
	if err := switchToWAL(ctx, db); err != nil {
		return err
	}
	return applyMigrations(ctx, db, migrations)
}

// applyMigrations is migrate without switching to WAL.
func applyMigrations(ctx context.Context, db *sql.DB, migrations []string) error {
	version, err := checkVersion(ctx, db, len(migrations))
	if err != nil {
		return err
	}
	for ; version < len(migrations); version++ {
		if err := applyMigration(ctx, db, version+1, migrations); err != nil {
			return fmt.Errorf("migrating to schema version %d: %w", version+1, err)
		}
	}
	return nil
}

// checkVersion returns the version of the schema; 0 for an empty database.
func checkVersion(ctx context.Context, q querier, newest int) (version int, err error) {
	var application, tables int
	err = q.QueryRowContext(ctx, `
		SELECT (SELECT user_version FROM pragma_user_version),
			(SELECT application_id FROM pragma_application_id),
			(SELECT count(*) FROM sqlite_schema)`).Scan(&version, &application, &tables)
	if err != nil {
		return 0, fmt.Errorf("reading the schema: %w", err)
	}
	if tables > 0 && application != applicationID {
		return 0, &credstore.SetupError{
			Err:  errors.New("the database belongs to another program"),
			Hint: "use another path for the store",
		}
	}
	if version > newest {
		return 0, &credstore.SetupError{
			Err:  fmt.Errorf("the store has schema version %d, and this program knows versions up to %d", version, newest),
			Hint: "use the release that made the store, or a newer one",
		}
	}
	return version, nil
}

// switchToWAL enables the write-ahead log, which allows reading during a write. The
// mode is stored in the file.
func switchToWAL(ctx context.Context, db *sql.DB) error {
	for {
		var mode string
		err := db.QueryRowContext(ctx, `PRAGMA journal_mode = WAL`).Scan(&mode)
		if err == nil && mode != "wal" {
			return &credstore.SetupError{
				Err:  fmt.Errorf("the database keeps its journal mode %q", mode),
				Hint: "keep the store on a local file system",
			}
		}
		// Two processes that switch at once conflict, and SQLite does not wait then.
		if code := primaryCode(err); code != sqlite3.SQLITE_BUSY && code != sqlite3.SQLITE_LOCKED {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// applyMigration migrates to the version. It does nothing if another process has done
// so.
func applyMigration(ctx context.Context, db *sql.DB, version int, migrations []string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after a commit
	have, err := checkVersion(ctx, tx, len(migrations))
	if err != nil || have >= version {
		return err
	}
	// PRAGMA does not accept parameters; the numbers are our own.
	_, err = tx.ExecContext(ctx, fmt.Sprintf("%s; PRAGMA user_version = %d; PRAGMA application_id = %d", migrations[version-1], version, applicationID))
	if err != nil {
		return err
	}
	return tx.Commit()
}
