package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// encryptedTable names columns that are re-encrypted together, of a table with a
// column connection.
type encryptedTable struct {
	name, key string // the key orders the rows
	first     any    // before every value of the key
	columns   []encryptedColumn
}

// encryptedColumn is a column whose encryption is bound to the label.
type encryptedColumn struct{ name, label string }

func encryptedTables() []encryptedTable {
	return []encryptedTable{
		{"links", "token_hash", []byte{}, []encryptedColumn{{"token", linkTokenLabel}}},
		{"consents", "state_hash", []byte{}, []encryptedColumn{{"link", columnConsentLink}}},
		{"consents", "state_hash", []byte{}, []encryptedColumn{{"verifier", columnConsentVerifier}}},
		{"credentials", "connection", 0, []encryptedColumn{
			{columnAccessToken, columnAccessToken}, {columnRefreshToken, columnRefreshToken},
			{columnAPIKey, columnAPIKey}, {columnNextKey, columnNextKey},
		}},
	}
}

// reencryptBatchSize is how many records are re-encrypted in one transaction, which a
// token pair that is to be saved may have to wait for.
const reencryptBatchSize = 32

// Reencryption is what Reencrypt has done.
type Reencryption struct {
	Records int // re-encrypted
	// Undecryptable counts the records that were skipped because they cannot be
	// decrypted: their key is not in the keyset, or they are damaged.
	Undecryptable int
}

// Reencrypted reports whether all records were found to be encrypted with the key that
// the store names. It is cheap.
func (k *Keys) Reencrypted(ctx context.Context) (bool, error) {
	var done bool
	err := k.db.dialect.readers().QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM store JOIN facts ON value = key_fingerprint WHERE name = $1)`, factReencrypted).Scan(&done)
	return done, k.db.failure("looking for the key of the records", err)
}

// Reencrypt encrypts every record with the key that the store names. It never changes
// a version, and skips a record that is changed meanwhile; other writes are possible
// at the same time. It may be stopped at any moment, and continues there when it is
// called again.
//
// After each transaction it calls pause with the time that it took; pause waits as
// long as is needed, and ends Reencrypt by returning an error.
func (k *Keys) Reencrypt(ctx context.Context, pause func(context.Context, time.Duration) error) (Reencryption, error) {
	var total Reencryption
	for {
		pass, err := k.reencryptAll(ctx, pause)
		total.Records += pass.done
		total.Undecryptable = pass.undecryptable
		if err != nil {
			return total, fmt.Errorf("re-encrypting records: %w", err)
		}
		if pass.done > 0 || pass.missed > 0 {
			continue // until a pass finds nothing, since others write at the same time
		}
		if pass.undecryptable > 0 {
			return total, nil
		}
		return total, changes{k.db}.SetFact(ctx, factReencrypted, pass.key.Fingerprint)
	}
}

// reencryptionPass is one pass over all records.
type reencryptionPass struct {
	key           keyset.Key // to encrypt with
	done          int        // records re-encrypted
	missed        int        // records that were changed meanwhile
	undecryptable int
}

func (k *Keys) reencryptAll(ctx context.Context, pause func(context.Context, time.Duration) error) (p reencryptionPass, err error) {
	if p.key, err = k.currentKey(ctx); err != nil {
		return p, err
	}
	for _, t := range encryptedTables() {
		for after := t.first; ; {
			began := k.db.now()
			records, err := k.oldRecords(ctx, t, p.key, after)
			if err != nil {
				return p, err
			}
			if len(records) == 0 {
				break
			}
			if err := k.reencryptRecords(ctx, &p, t, records); err != nil {
				return p, err
			}
			after = records[len(records)-1].key
			if err := pause(ctx, k.db.now().Sub(began)); err != nil {
				return p, err
			}
		}
	}
	return p, nil
}

// encryptedRecord is a row of an encryptedTable.
type encryptedRecord struct {
	key         any
	id          string // of the connection
	version     int64  // of its credential
	ciphertexts [][]byte
}

// oldRecords returns records with anything that is encrypted with another key.
func (k *Keys) oldRecords(ctx context.Context, t encryptedTable, key keyset.Key, after any) (records []encryptedRecord, err error) {
	var names, old []string
	for _, c := range t.columns {
		names = append(names, c.name)
		old = append(old, `substr(`+c.name+`, 1, 5) <> $1`)
	}
	err = k.db.each(ctx, func(rows *sql.Rows) error {
		r := encryptedRecord{ciphertexts: make([][]byte, len(t.columns))}
		into := []any{&r.key, &r.id, &r.version}
		for i := range r.ciphertexts {
			into = append(into, &r.ciphertexts[i])
		}
		err := rows.Scan(into...)
		records = append(records, r)
		return err
	}, fmt.Sprintf(`
		SELECT %[2]s, id, version, %[3]s FROM %[1]s JOIN connections ON number = connection
		WHERE %[2]s > $2 AND (%[4]s) ORDER BY %[2]s LIMIT $3`,
		t.name, t.key, strings.Join(names, ", "), strings.Join(old, " OR ")),
		keyset.CiphertextPrefix(key.ID), after, reencryptBatchSize)
	return records, k.db.failure("looking for records of an old key", err)
}

func (k *Keys) reencryptRecords(ctx context.Context, p *reencryptionPass, t encryptedTable, records []encryptedRecord) error {
	var done, missed, undecryptable int
	err := k.db.write(ctx, "re-encrypting records", func(tx *sql.Tx) error {
		done, missed, undecryptable = 0, 0, 0
		for _, r := range records {
			secrets, err := k.decryptRecord(t, r)
			if err != nil {
				undecryptable++
				continue
			}
			replaced, err := k.reencryptRecord(ctx, tx, t, r, secrets)
			if err != nil {
				return err
			}
			if replaced {
				done++
			} else {
				missed++
			}
		}
		return nil
	})
	if err == nil {
		p.done, p.missed, p.undecryptable = p.done+done, p.missed+missed, p.undecryptable+undecryptable
	}
	return err
}

func (k *Keys) decryptRecord(t encryptedTable, r encryptedRecord) ([]namedSecret, error) {
	secrets := make([]namedSecret, len(t.columns))
	for i, c := range t.columns {
		value, err := k.db.decrypt(r.id, c.label, r.ciphertexts[i])
		if err != nil {
			return nil, err
		}
		secrets[i] = namedSecret{c.label, value}
	}
	return secrets, nil
}

// reencryptRecord is a compare-and-swap on the version and all ciphertexts. It reports
// false if the record is no longer as it was read.
func (k *Keys) reencryptRecord(ctx context.Context, tx *sql.Tx, t encryptedTable, old encryptedRecord, secrets []namedSecret) (bool, error) {
	encrypted, err := k.db.encrypt(ctx, tx, old.id, secrets...)
	if err != nil {
		return false, err
	}
	args := []any{old.key, old.version}
	var sets, conditions []string
	for i, c := range t.columns {
		args = append(args, encrypted[i], old.ciphertexts[i])
		sets = append(sets, fmt.Sprintf(`%s = $%d`, c.name, len(args)-1))
		conditions = append(conditions, fmt.Sprintf(`%s IS NOT DISTINCT FROM $%d`, c.name, len(args)))
	}
	return affected(tx.ExecContext(ctx, fmt.Sprintf(`
		UPDATE %s SET %s WHERE %s = $1 AND %s
			AND EXISTS (SELECT 1 FROM connections WHERE number = connection AND version = $2)`,
		t.name, strings.Join(sets, ", "), t.key, strings.Join(conditions, " AND ")), args...))
}
