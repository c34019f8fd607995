package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// Keys is about the keys that a store is encrypted with. Its methods may be called by
// several goroutines at once.
//
// The store names its key: the one that every process encrypts new secrets with. It
// gets from one key to the next in steps, each of one transaction, so that everything
// can be decrypted after a crash between any two:
//
//	the keyset has a new primary key
//	-> the store names it, and its canary is encrypted with it   (Rotate)
//	-> older records follow, a few at a time                     (Reencrypt)
//	-> all records are encrypted with it, which is recorded
//	-> the old key is marked, and may be removed from the keyset (Retire)
type Keys struct{ db *database }

// Names of facts about keys.
const (
	// factReencrypted holds the fingerprint of the key that all records were found to
	// be encrypted with.
	factReencrypted = "resealed_under"
	// factReplaced, followed by a fingerprint, says that the key has been replaced by
	// another: a process that still takes it for the primary one, or an older copy of
	// the keyset, must not bring it back.
	factReplaced = "key_replaced/"
)

// KeyUsage says which keys the store is encrypted with.
type KeyUsage struct {
	Current     string         // fingerprint of the key that the store names
	Connections map[uint32]int // key id → connections with anything encrypted with it
	Damaged     int            // connections with a ciphertext that names no key
}

// Usage reads all records.
func (k *Keys) Usage(ctx context.Context) (KeyUsage, error) {
	const doing = "counting records by key"
	use := KeyUsage{Connections: make(map[uint32]int)}
	binding, err := readBinding(ctx, k.db.dialect.readers())
	if err != nil {
		return use, k.db.failure(doing, err)
	}
	use.Current = binding.fingerprint
	err = k.db.each(ctx, func(rows *sql.Rows) error {
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
	return use, k.db.failure(doing, err)
}

// keyUsageQuery selects each connection with the prefix of each key that it uses, once
// (UNION drops duplicates).
func keyUsageQuery() string {
	var selects []string
	for _, t := range encryptedTables() {
		for _, c := range t.columns {
			selects = append(selects, fmt.Sprintf(`SELECT connection, substr(%s, 1, 5) AS prefix FROM %s`, c.name, t.name))
		}
	}
	return strings.Join(selects, ` UNION `)
}

// ErrKeyInUse is the error of Retire about a key that is still needed.
var ErrKeyInUse = errors.New("the key is in use")

// Retire makes sure that nothing in the store is encrypted with the key, and nothing
// will be, so that it may be removed from the keyset. Otherwise the error matches
// [ErrKeyInUse].
func (k *Keys) Retire(ctx context.Context, key keyset.Key) error {
	return k.db.write(ctx, "retiring a key", func(tx *sql.Tx) error {
		binding, err := readBinding(ctx, tx)
		if err != nil {
			return err
		}
		if binding.fingerprint == key.Fingerprint {
			return fmt.Errorf("%w: the store encrypts with it", ErrKeyInUse)
		}
		var n int
		err = tx.QueryRowContext(ctx, `SELECT count(*) FROM (`+keyUsageQuery()+`) AS uses WHERE prefix = $1`,
			keyset.CiphertextPrefix(key.ID)).Scan(&n)
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%w: %d connections are encrypted with it; a running server, or keyset promote, re-encrypts them", ErrKeyInUse, n)
		}
		return markReplaced(ctx, tx, key.Fingerprint, k.db.now())
	})
}

// Rotation is the result of Rotate.
type Rotation string

// The results of Rotate.
const (
	RotationCurrent Rotation = "current" // the store names the primary key already
	RotationDone    Rotation = "moved"   // it names it now
	// RotationBehind: the primary key of this keyset was replaced by another before,
	// so the store keeps its key. Promote the new key in this keyset too.
	RotationBehind Rotation = "behind"
	// RotationKeyMissing: the keyset lacks the key that the store names, so the store
	// keeps it: records encrypted with it would be lost.
	RotationKeyMissing Rotation = "foreign"
)

// Rotate makes the store name the keyset's primary key, with which all processes
// encrypt from then on. A key that was replaced before comes back only if again is
// set, as for an operator who promotes it by hand.
func (k *Keys) Rotate(ctx context.Context, again bool) (Rotation, error) {
	const doing = "moving the store to another key"
	db := k.db
	if _, err := db.keys.Reload(); err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	binding, err := readBinding(ctx, db.dialect.readers())
	if err != nil {
		return "", db.failure(doing, err)
	}
	primary := db.keys.Fingerprint()
	if binding.fingerprint == primary {
		return RotationCurrent, nil
	}
	if !slices.ContainsFunc(db.keys.Keys(), func(key keyset.Key) bool { return key.Fingerprint == binding.fingerprint }) {
		return RotationKeyMissing, nil
	}
	ciphertext, err := db.keys.EncryptWith(primary, canaryLabel(binding.id), []byte(canary))
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	result := RotationDone
	err = db.write(ctx, doing, func(tx *sql.Tx) (err error) {
		if result, err = checkReplaced(ctx, tx, primary, again); err != nil || result != RotationDone {
			return err
		}
		return switchKey(ctx, tx, binding, primary, ciphertext, db.now())
	})
	return result, err
}

// checkReplaced returns RotationDone if the store may name the key.
func checkReplaced(ctx context.Context, tx *sql.Tx, fingerprint string, again bool) (Rotation, error) {
	if again {
		_, err := tx.ExecContext(ctx, `DELETE FROM facts WHERE name = $1`, factReplaced+fingerprint)
		return RotationDone, err
	}
	var replaced bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM facts WHERE name = $1)`, factReplaced+fingerprint).Scan(&replaced)
	if replaced {
		return RotationBehind, err
	}
	return RotationDone, err
}

// switchKey does nothing if another process has switched the key since old was read.
func switchKey(ctx context.Context, tx *sql.Tx, old bindingRow, fingerprint string, ciphertext []byte, now time.Time) error {
	switched, err := affected(tx.ExecContext(ctx, `
		UPDATE store SET key_fingerprint = $1, canary = $2 WHERE key_fingerprint = $3 AND canary = $4`,
		fingerprint, ciphertext, old.fingerprint, old.canary))
	if err != nil || !switched {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM facts WHERE name = $1`, factReencrypted); err != nil {
		return err
	}
	return markReplaced(ctx, tx, old.fingerprint, now)
}

func markReplaced(ctx context.Context, tx *sql.Tx, fingerprint string, now time.Time) error {
	return setFact(ctx, tx, factReplaced+fingerprint, now.UTC().Format(time.RFC3339))
}

// currentKey returns the key that the store names.
func (k *Keys) currentKey(ctx context.Context) (keyset.Key, error) {
	binding, err := readBinding(ctx, k.db.dialect.readers())
	if err != nil {
		return keyset.Key{}, k.db.failure("reading the store's key", err)
	}
	id, ok := keyset.KeyID(binding.canary)
	if !ok {
		return keyset.Key{}, errors.New("the store's canary is damaged")
	}
	return keyset.Key{Fingerprint: binding.fingerprint, ID: id}, nil
}
