package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// encryptedColumn is where something sealed stands: in a column of a table with a
// column connection, in the row that the key names. The label is that of the
// seal.
type encryptedColumn struct {
	table, key, column, label string
}

// columnsOutsideCredentials are the sealed columns beside those of credentials, in which a
// row has no version: what it holds is only ever replaced by what opens to the
// same, or removed.
func columnsOutsideCredentials() []encryptedColumn {
	return []encryptedColumn{
		{"links", "token_hash", "token", linkTokenLabel},
		{"consents", "state_hash", "link", columnConsentLink},
		{"consents", "state_hash", "verifier", columnConsentVerifier},
	}
}

// cell is one sealed value in a column.
type cell struct {
	key    []byte
	id     string // of the connection
	sealed []byte
}

// reencryptColumn seals what is under another key anew, a few at a time.
func (db *database) reencryptColumn(ctx context.Context, p *reencryptionPass, c encryptedColumn, pause func(context.Context, time.Duration) error) error {
	for after := []byte{}; ; {
		began := db.now()
		cells, err := db.oldCells(ctx, c, p.key, after)
		if err != nil || len(cells) == 0 {
			return err
		}
		if err := db.reencryptCells(ctx, p, c, cells); err != nil {
			return err
		}
		after = cells[len(cells)-1].key
		if err := pause(ctx, db.now().Sub(began)); err != nil {
			return err
		}
	}
}

func (db *database) oldCells(ctx context.Context, c encryptedColumn, key keyset.Key, after []byte) (cells []cell, err error) {
	err = db.each(ctx, func(rows *sql.Rows) error {
		var found cell
		err := rows.Scan(&found.key, &found.id, &found.sealed)
		cells = append(cells, found)
		return err
	}, fmt.Sprintf(`
		SELECT %[2]s, id, %[3]s FROM %[1]s JOIN connections ON number = connection
		WHERE %[2]s > $2 AND substr(%[3]s, 1, 5) <> $1 ORDER BY %[2]s LIMIT $3`, c.table, c.key, c.column),
		keyset.CiphertextPrefix(key.ID), after, reencryptBatchSize)
	return cells, db.failure("looking for what is under an old key", err)
}

func (db *database) reencryptCells(ctx context.Context, p *reencryptionPass, c encryptedColumn, cells []cell) error {
	var done, missed, unopened int
	err := db.write(ctx, "sealing anew", func(tx *sql.Tx) error {
		done, missed, unopened = 0, 0, 0
		for _, old := range cells {
			secret, err := db.decrypt(old.id, c.label, old.sealed)
			if err != nil {
				unopened++
				continue
			}
			replaced, err := db.reencryptCell(ctx, tx, c, old, secret)
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
	if err != nil {
		return err
	}
	p.done, p.missed, p.undecryptable = p.done+done, p.missed+missed, p.undecryptable+unopened
	return nil
}

// reencryptCell is a compare-and-swap. It reports false if the cell is not as it
// was read.
func (db *database) reencryptCell(ctx context.Context, tx *sql.Tx, c encryptedColumn, old cell, secret credstore.Secret) (bool, error) {
	sealed, err := db.encrypt(ctx, tx, old.id, c.label, secret)
	if err != nil {
		return false, err
	}
	return affected(tx.ExecContext(ctx, fmt.Sprintf(`UPDATE %[1]s SET %[3]s = $1 WHERE %[2]s = $2 AND %[3]s = $3`, c.table, c.key, c.column),
		sealed, old.key, old.sealed))
}
