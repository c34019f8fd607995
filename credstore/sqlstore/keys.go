package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// Keys is about the keys that a store is encrypted with. Its methods may be called
// by several goroutines at once.
type Keys struct{ db *database }

// KeyUsage says which keys the store is sealed under.
type KeyUsage struct {
	Current     string         // fingerprint of the key that everything new is sealed under
	Connections map[uint32]int // key id → connections of which anything is sealed under it
	// Damaged counts connections with something that names no key.
	Damaged int
}

// Usage looks at every record.
func (s *Keys) Usage(ctx context.Context) (KeyUsage, error) {
	const doing = "counting records by key"
	use := KeyUsage{Connections: make(map[uint32]int)}
	row, err := readBinding(ctx, s.db.dialect.readers())
	if err != nil {
		return use, s.db.failure(doing, err)
	}
	use.Current = row.fingerprint
	err = s.db.each(ctx, func(rows *sql.Rows) error {
		var prefix []byte
		var n int
		if err := rows.Scan(&prefix, &n); err != nil {
			return err
		}
		if id, ok := keyset.KeyID(prefix); ok {
			use.Connections[id] += n
		} else {
			use.Damaged += n
		}
		return nil
	}, `SELECT prefix, count(*) FROM (`+keyUsageQuery()+`) AS uses WHERE prefix IS NOT NULL GROUP BY prefix`)
	return use, s.db.failure(doing, err)
}

// keyUsageQuery is a query for a connection and the prefix of a key that it uses,
// once for each, in all columns that are sealed. UNION drops what is there twice.
func keyUsageQuery() string {
	columns := append([]encryptedColumn{
		{"credentials", "connection", columnAccessToken, columnAccessToken},
		{"credentials", "connection", columnRefreshToken, columnRefreshToken},
		{"credentials", "connection", columnAPIKey, columnAPIKey},
		{"credentials", "connection", columnNextKey, columnNextKey},
	}, columnsOutsideCredentials()...)
	selects := make([]string, 0, len(columns))
	for _, c := range columns {
		selects = append(selects, fmt.Sprintf(`SELECT connection, substr(%s, 1, 5) AS prefix FROM %s`, c.column, c.table))
	}
	return strings.Join(selects, ` UNION `)
}

// ErrKeyInUse is what Retire returns about a key that is still needed.
var ErrKeyInUse = errors.New("the key is in use")

// Retire makes sure that nothing in the store is sealed under the key, and that
// nothing will be: it may leave the keyset then. Otherwise the error matches
// [ErrKeyInUse].
func (s *Keys) Retire(ctx context.Context, key keyset.Key) error {
	return s.db.write(ctx, "retiring a key", func(tx *sql.Tx) error {
		row, err := readBinding(ctx, tx)
		if err != nil {
			return err
		}
		if row.fingerprint == key.Fingerprint {
			return fmt.Errorf("%w: the store seals under it", ErrKeyInUse)
		}
		var n int
		err = tx.QueryRowContext(ctx, `SELECT count(*) FROM (`+keyUsageQuery()+`) AS uses WHERE prefix = $1`,
			keyset.CiphertextPrefix(key.ID)).Scan(&n)
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%w: %d connections are sealed under it; a running server, or keyset promote, seals them anew", ErrKeyInUse, n)
		}
		return markReplaced(ctx, tx, key.Fingerprint, s.db.now())
	})
}
