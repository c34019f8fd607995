package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// versionTable holds the version of the schema, and the oldest version whose programs
// may use it.
const versionTable = `
CREATE TABLE IF NOT EXISTS schema_version (
	one     BIGINT PRIMARY KEY CHECK (one = 1),
	version BIGINT NOT NULL,
	oldest  BIGINT NOT NULL
);`

// migratePostgres migrates the database to the newest schema. One process at a time
// does so; others wait. A database with an incompatible schema, or of another program,
// is rejected without writing to it.
func migratePostgres(ctx context.Context, db *sql.DB, migrations []postgresMigration) error {
	version, err := postgresVersion(ctx, db, len(migrations))
	if err != nil {
		return err
	}
	for ; version < len(migrations); version++ {
		if err := applyPostgres(ctx, db, version+1, migrations[version]); err != nil {
			return fmt.Errorf("migrating to schema version %d: %w", version+1, err)
		}
	}
	return nil
}

// postgresVersion returns the version of the schema; 0 if there is none. It may be
// newer than the version of this program if that is compatible.
func postgresVersion(ctx context.Context, q querier, newest int) (version int, err error) {
	var schema sql.NullString
	var marked, tables int
	err = q.QueryRowContext(ctx, `
		SELECT current_schema(), count(*) FILTER (WHERE relname = 'schema_version'), count(*)
		FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
			AND relname IN ('schema_version', 'store', 'connections', 'credentials', 'changes')`).
		Scan(&schema, &marked, &tables)
	if err != nil {
		return 0, fmt.Errorf("reading the schema: %w", err)
	}
	if !schema.Valid {
		return 0, &credstore.SetupError{
			Err:  errors.New("the search path of the database user has no existing schema"),
			Hint: postgresHints["3F000"],
		}
	}
	if marked == 0 && tables > 0 {
		return 0, &credstore.SetupError{
			Err:  fmt.Errorf("schema %q of the database belongs to another program", schema.String),
			Hint: "give the store a database of its own, or a schema by search_path in store.dsn",
		}
	}
	if marked == 0 {
		return 0, nil
	}
	return markedVersion(ctx, q, newest)
}

func markedVersion(ctx context.Context, q querier, newest int) (version int, err error) {
	var oldest int
	err = q.QueryRowContext(ctx, `SELECT version, oldest FROM schema_version`).Scan(&version, &oldest)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the schema: %w", err)
	}
	if oldest > newest {
		return 0, &credstore.SetupError{
			Err:  fmt.Errorf("the store has schema version %d, which programs of version %d and later can use, and this program knows versions up to %d", version, oldest, newest),
			Hint: "use the release that made the store, or a newer one",
		}
	}
	return version, nil
}

// applyPostgres does nothing if another process has done it.
func applyPostgres(ctx context.Context, db *sql.DB, version int, m postgresMigration) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after a commit
	_, err = tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('pleo-auth-proxy schema ' || current_schema(), 0))`)
	if err != nil {
		return err
	}
	have, err := postgresVersion(ctx, tx, version)
	if err != nil || have >= version {
		return err
	}
	// Several statements may be sent at once if they have no arguments.
	_, err = tx.ExecContext(ctx, `SET LOCAL synchronous_commit = 'on';`+versionTable+m.statements+fmt.Sprintf(`
		INSERT INTO schema_version (one, version, oldest) VALUES (1, %d, %d)
			ON CONFLICT (one) DO UPDATE SET version = excluded.version, oldest = excluded.oldest`, version, m.oldest))
	if err != nil {
		return err
	}
	return tx.Commit()
}

// checkRights checks that the user may use every table before anything is written: a
// missing privilege must not be found in the middle of a refresh.
func checkRights(ctx context.Context, db *sql.DB) error {
	var table sql.NullString
	var user string
	err := db.QueryRowContext(ctx, `
		SELECT min(relname) FILTER (WHERE CASE relkind
				WHEN 'S' THEN NOT has_sequence_privilege(oid, 'USAGE')
				ELSE NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
					AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
			END), current_user
		FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
			AND (relkind = 'r' OR relkind = 'S') AND relname <> 'schema_version'`).Scan(&table, &user)
	if err != nil {
		return fmt.Errorf("checking privileges: %w", err)
	}
	if !table.Valid {
		return nil
	}
	return &credstore.SetupError{
		Err:  fmt.Errorf("user %q may not read and write table %s", user, table.String),
		Hint: "make the user the owner of the store's tables, or grant it SELECT, INSERT, UPDATE and DELETE on them and USAGE on their sequences",
	}
}
