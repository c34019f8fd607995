package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// KeyUse says which keys the store is sealed under.
type KeyUse struct {
	Stamp string         // fingerprint of the key that everything new is sealed under
	Rows  map[uint32]int // key id → connections of which anything is sealed under it
	// Damaged counts connections with something that names no key.
	Damaged int
}

// KeyUse looks at every record.
func (s *Store) KeyUse(ctx context.Context) (KeyUse, error) {
	const doing = "counting records by key"
	use := KeyUse{Rows: make(map[uint32]int)}
	row, err := readStamp(ctx, s.dialect.readers())
	if err != nil {
		return use, s.failure(doing, err)
	}
	use.Stamp = row.fingerprint
	err = s.each(ctx, func(rows *sql.Rows) error {
		var prefix []byte
		var n int
		if err := rows.Scan(&prefix, &n); err != nil {
			return err
		}
		if id, ok := credstore.SealedUnder(prefix); ok {
			use.Rows[id] += n
		} else {
			use.Damaged += n
		}
		return nil
	}, usesOfKeys)
	return use, s.failure(doing, err)
}

// usesOfKeys counts a connection once for each key that it uses. UNION drops
// what is there twice.
const usesOfKeys = `
	SELECT prefix, count(*) FROM (
		SELECT connection, substr(access_token, 1, 5) AS prefix FROM credentials
		UNION SELECT connection, substr(refresh_token, 1, 5) FROM credentials
		UNION SELECT connection, substr(api_key, 1, 5) FROM credentials
		UNION SELECT connection, substr(next_key, 1, 5) FROM credentials
	) AS uses WHERE prefix IS NOT NULL GROUP BY prefix`

// ErrKeyInUse is what Retire returns about a key that is still needed.
var ErrKeyInUse = errors.New("the key is in use")

// Retire makes sure that nothing in the store is sealed under the key, and that
// nothing will be: it may leave the keyset then. Otherwise the error matches
// [ErrKeyInUse].
func (s *Store) Retire(ctx context.Context, key credstore.Key) error {
	return s.write(ctx, "retiring a key", func(tx *sql.Tx) error {
		row, err := readStamp(ctx, tx)
		if err != nil {
			return err
		}
		if row.fingerprint == key.Fingerprint {
			return fmt.Errorf("%w: the store seals under it", ErrKeyInUse)
		}
		var n int
		err = tx.QueryRowContext(ctx, `
			SELECT count(*) FROM credentials WHERE substr(access_token, 1, 5) = $1 OR substr(refresh_token, 1, 5) = $1
				OR substr(api_key, 1, 5) = $1 OR substr(next_key, 1, 5) = $1`, credstore.SealedPrefix(key.ID)).Scan(&n)
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%w: %d connections are sealed under it; a running server, or keyset promote, seals them anew", ErrKeyInUse, n)
		}
		return markReplaced(ctx, tx, key.Fingerprint, s.now())
	})
}
