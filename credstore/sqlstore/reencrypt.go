package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// How a store gets from one key to the next. The stamp names the key that
// everything new is sealed under, in whatever process; each step is one
// transaction, so a crash between any two leaves records that open:
//
//	the keyset has a new primary key
//	-> the stamp and its canary move to it               (Rekey)
//	-> old records follow, a few at a time               (Reseal)
//	-> no record is under the old key, which is recorded
//	-> the old key is marked, and may leave the keyset   (Retire)

// Names of facts about keys.
const (
	// factReencrypted holds the fingerprint of the key that every record was found
	// to be sealed under.
	factReencrypted = "resealed_under"
	// factReplaced, with a fingerprint after it, says that the key has been
	// replaced by another: a process that still takes it for the primary one, or
	// a copy of the keyset that is older, must not bring it back.
	factReplaced = "key_replaced/"
)

// Rotation is what Rekey found.
type Rotation string

// What Rekey may find.
const (
	RotationCurrent Rotation = "current" // the stamp names the primary key
	RotationDone    Rotation = "moved"   // it has just been moved there
	// RotationBehind: the primary key of this keyset was replaced by another one
	// before, so the stamp stays. Promote the new key in this keyset too.
	RotationBehind Rotation = "behind"
	// RotationKeyMissing: the file does not hold the key that the stamp names, so the
	// stamp stays: records under that key would be lost.
	RotationKeyMissing Rotation = "foreign"
)

// Rotate makes the store's stamp name the keyset's primary key, under which all
// processes seal from then on. A key that was replaced before comes back only
// where again is set, as it is for an operator who has promoted it by hand.
func (s *Keys) Rotate(ctx context.Context, again bool) (Rotation, error) {
	const doing = "moving the store to another key"
	if _, err := s.db.keys.Reload(); err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	row, err := readBinding(ctx, s.db.dialect.readers())
	if err != nil {
		return "", s.db.failure(doing, err)
	}
	primary := s.db.keys.Fingerprint()
	if row.fingerprint == primary {
		return RotationCurrent, nil
	}
	if !containsKey(s.db.keys.Keys(), row.fingerprint) {
		return RotationKeyMissing, nil
	}
	sealed, err := s.db.keys.EncryptWith(primary, canaryLabel(row.id), []byte(canary))
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	found := RotationDone
	err = s.db.write(ctx, doing, func(tx *sql.Tx) (err error) {
		if found, err = checkReplaced(ctx, tx, primary, again); err != nil || found != RotationDone {
			return err
		}
		return switchKey(ctx, tx, row, primary, sealed, s.db.now())
	})
	return found, err
}

func containsKey(keys []keyset.Key, fingerprint string) bool {
	for _, k := range keys {
		if k.Fingerprint == fingerprint {
			return true
		}
	}
	return false
}

// checkReplaced returns RotationDone if the stamp may name the key.
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

// switchKey does nothing if another process has changed the stamp since.
func switchKey(ctx context.Context, tx *sql.Tx, old bindingRow, fingerprint string, sealed []byte, now time.Time) error {
	result, err := tx.ExecContext(ctx, `
		UPDATE store SET key_fingerprint = $1, canary = $2 WHERE key_fingerprint = $3 AND canary = $4`,
		fingerprint, sealed, old.fingerprint, old.canary)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
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

// Reencrypted reports whether every record was found to be sealed under the key
// that the stamp names. It is cheap.
func (s *Keys) Reencrypted(ctx context.Context) (bool, error) {
	var done bool
	err := s.db.dialect.readers().QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM store JOIN facts ON value = key_fingerprint WHERE name = $1)`, factReencrypted).Scan(&done)
	return done, s.db.failure("looking for the key of the records", err)
}

// reencryptBatchSize is how many records are sealed anew in one transaction, which a
// token pair that is to be saved may have to wait for.
const reencryptBatchSize = 32

// Reencryption is what Reseal has done.
type Reencryption struct {
	Records int // sealed anew
	// Undecryptable counts the records left alone because they do not open: their
	// key is not in the keyset, or they are damaged.
	Undecryptable int
}

// Reencrypt seals every record that is under another key than the stamp names anew
// under that key. It never changes a version, and leaves a record alone that
// anyone has changed meanwhile; other writes go on beside it. It may be stopped
// at any moment, and continues where it was when it is called again.
//
// After each transaction it calls pause with the time that it took; pause waits
// as long as it sees fit, and ends Reseal by returning an error.
func (s *Keys) Reencrypt(ctx context.Context, pause func(context.Context, time.Duration) error) (Reencryption, error) {
	var total Reencryption
	for {
		pass, err := s.db.reencryptPass(ctx, pause)
		total.Records += pass.done
		total.Undecryptable = pass.undecryptable
		if err != nil {
			return total, fmt.Errorf("sealing records anew: %w", err)
		}
		if pass.done == 0 && pass.missed == 0 {
			return total, s.db.recordReencrypted(ctx, pass)
		}
	}
}

// reencryptionPass is one look at all records.
type reencryptionPass struct {
	key           keyset.Key // that records are sealed under
	done          int        // records sealed anew
	missed        int        // records that somebody changed meanwhile
	undecryptable int
}

func (db *database) reencryptPass(ctx context.Context, pause func(context.Context, time.Duration) error) (p reencryptionPass, err error) {
	if p.key, err = db.currentKey(ctx); err != nil {
		return p, err
	}
	for _, c := range columnsOutsideCredentials() {
		if err := db.reencryptColumn(ctx, &p, c, pause); err != nil {
			return p, err
		}
	}
	for after := int64(0); ; {
		began := db.now()
		records, err := db.oldRecords(ctx, p.key, after)
		if err != nil || len(records) == 0 {
			return p, err
		}
		if err := db.reencryptRecords(ctx, &p, records); err != nil {
			return p, err
		}
		after = records[len(records)-1].number
		if err := pause(ctx, db.now().Sub(began)); err != nil {
			return p, err
		}
	}
}

// currentKey returns the key that the stamp names.
func (db *database) currentKey(ctx context.Context) (keyset.Key, error) {
	row, err := readBinding(ctx, db.dialect.readers())
	if err != nil {
		return keyset.Key{}, db.failure("reading the store's stamp", err)
	}
	id, ok := keyset.KeyID(row.canary)
	if !ok {
		return keyset.Key{}, errors.New("the store's canary is damaged")
	}
	return keyset.Key{Fingerprint: row.fingerprint, ID: id}, nil
}

// record is what of a connection is sealed, with what it is bound to.
type record struct {
	number  int64
	id      string
	version int64
	sealed  encryptedCredential
}

// underOtherKey is true of a record of which anything is sealed under another
// key than the one whose prefix is $1.
const underOtherKey = `(substr(access_token, 1, 5) <> $1 OR substr(refresh_token, 1, 5) <> $1
	OR substr(api_key, 1, 5) <> $1 OR substr(next_key, 1, 5) <> $1)`

func (db *database) oldRecords(ctx context.Context, key keyset.Key, after int64) (records []record, err error) {
	err = db.each(ctx, func(rows *sql.Rows) error {
		var r record
		c := &r.sealed
		err := rows.Scan(&r.number, &r.id, &r.version, &c.accessToken, &c.refreshToken, &c.apiKey, &c.nextKey)
		records = append(records, r)
		return err
	}, `
		SELECT number, id, version, access_token, refresh_token, api_key, next_key
		FROM credentials JOIN connections ON number = connection
		WHERE number > $2 AND `+underOtherKey+` ORDER BY number LIMIT $3`,
		keyset.CiphertextPrefix(key.ID), after, reencryptBatchSize)
	return records, db.failure("looking for records under an old key", err)
}

func (db *database) reencryptRecords(ctx context.Context, p *reencryptionPass, records []record) error {
	openable := make([]record, 0, len(records))
	opened := make([]credstore.Credential, 0, len(records))
	for _, r := range records {
		c := credstore.Credential{ConnectionID: r.id}
		if err := db.decryptCredential(&c, &r.sealed); err != nil {
			p.undecryptable++
			continue
		}
		openable, opened = append(openable, r), append(opened, c)
	}
	if len(openable) == 0 {
		return nil
	}
	done := 0
	err := db.write(ctx, "sealing records anew", func(tx *sql.Tx) error {
		for i, r := range openable {
			replaced, err := db.reencryptRecord(ctx, tx, r, opened[i])
			if err != nil {
				return err
			}
			if replaced {
				done++
			}
		}
		return nil
	})
	if err == nil {
		p.done += done
		p.missed += len(openable) - done
	}
	return err
}

// reencryptRecord is a compare-and-swap on the version and all that is sealed. It
// reports false if the record is not as it was read.
func (db *database) reencryptRecord(ctx context.Context, tx *sql.Tx, old record, c credstore.Credential) (bool, error) {
	now, err := db.encryptCredential(ctx, tx, c)
	if err != nil {
		return false, err
	}
	result, err := tx.ExecContext(ctx, `
		UPDATE credentials SET access_token = $1, refresh_token = $2, api_key = $3, next_key = $4
		WHERE connection = $5 AND EXISTS (SELECT 1 FROM connections WHERE number = $5 AND version = $6)
			AND access_token IS NOT DISTINCT FROM $7 AND refresh_token IS NOT DISTINCT FROM $8
			AND api_key IS NOT DISTINCT FROM $9 AND next_key IS NOT DISTINCT FROM $10`,
		now.accessToken, now.refreshToken, now.apiKey, now.nextKey, old.number, old.version,
		old.sealed.accessToken, old.sealed.refreshToken, old.sealed.apiKey, old.sealed.nextKey)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

func (db *database) encryptCredential(ctx context.Context, tx *sql.Tx, c credstore.Credential) (sealed encryptedCredential, err error) {
	for _, part := range []struct {
		column string
		secret credstore.Secret
		sealed *[]byte
	}{
		{columnAccessToken, c.AccessToken, &sealed.accessToken},
		{columnRefreshToken, c.RefreshToken, &sealed.refreshToken},
		{columnAPIKey, c.APIKey, &sealed.apiKey},
		{columnNextKey, c.NextKey, &sealed.nextKey},
	} {
		if *part.sealed, err = db.encrypt(ctx, tx, c.ConnectionID, part.column, part.secret); err != nil {
			return encryptedCredential{}, err
		}
	}
	return sealed, nil
}

// recordReencrypted records that no record is under an old key, if that is so.
func (db *database) recordReencrypted(ctx context.Context, p reencryptionPass) error {
	if p.undecryptable > 0 {
		return nil
	}
	return changes{db}.SetFact(ctx, factReencrypted, p.key.Fingerprint)
}
