package sqlstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// linkTokenLabel is the label that the encryption of link tokens is bound to.
const linkTokenLabel = "link_token"

// linkRetention is how long an expired link is distinguished from one that never
// existed.
const linkRetention = 90 * 24 * time.Hour

// storedLink is a row of the table links.
type storedLink struct {
	credstore.Link
	number     int64 // of the connection
	hash       []byte
	ciphertext []byte // of the token; nil once the link has ended
}

const linkColumns = `connections.id, links.created_at, links.expires_at, used_at, return_url, other_company, links.shared_company,
	connection, token_hash, token`

func scanLink(scan func(...any) error) (l storedLink, err error) {
	var created, expires, used sql.NullInt64
	err = scan(&l.ConnectionID, &created, &expires, &used, &l.ReturnURL, &l.AllowOtherCompany, &l.AllowSharedCompany,
		&l.number, &l.hash, &l.ciphertext)
	l.CreatedAt, l.ExpiresAt, l.UsedAt = timeOf(created), timeOf(expires), timeOf(used)
	return l, err
}

// OpenLink implements [credstore.Links]. It writes only if it creates a link.
func (s links) OpenLink(ctx context.Context, id string, r credstore.LinkRequest) (token credstore.Secret, l credstore.Link, err error) {
	const doing = "opening a connect link"
	if r.TTL <= 0 || r.TTL > credstore.MaxLinkTTL {
		return token, l, fmt.Errorf("%s: the time to live must be at most %v", doing, credstore.MaxLinkTTL)
	}
	if !r.ReplaceExisting {
		token, l, err = s.openLink(ctx, s.db.dialect.readers(), id, r)
		if !errors.Is(err, sql.ErrNoRows) {
			return token, l, s.db.failure(doing, err)
		}
	}
	err = s.db.transact(ctx, doing, id, func(tx *sql.Tx) error {
		number, err := numberOf(ctx, tx, id)
		if err != nil {
			return err
		}
		if !r.ReplaceExisting { // another process may just have created one
			token, l, err = s.openLink(ctx, tx, id, r)
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		} else if err := endLinks(ctx, tx, number); err != nil {
			return err
		}
		token, l, err = s.makeLink(ctx, tx, number, id, r)
		return err
	})
	return token, l, err
}

func numberOf(ctx context.Context, q querier, id string) (number int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT number FROM connections WHERE id = $1`, id).Scan(&number)
	return number, orNotFound(err)
}

// openLink returns an existing link that satisfies the request; else sql.ErrNoRows.
func (s links) openLink(ctx context.Context, q querier, id string, r credstore.LinkRequest) (credstore.Secret, credstore.Link, error) {
	now := s.db.now()
	row := q.QueryRowContext(ctx, `
		SELECT `+linkColumns+` FROM links JOIN connections ON number = connection
		WHERE connections.id = $1 AND token IS NOT NULL AND links.expires_at > $2 AND links.expires_at <= $6
			AND return_url = $3 AND other_company = $4 AND links.shared_company = $5
		ORDER BY links.expires_at DESC LIMIT 1`,
		id, now.Add(r.MinRemaining).UnixMilli(), r.ReturnURL, asInt(r.AllowOtherCompany), asInt(r.AllowSharedCompany),
		now.Add(r.TTL).UnixMilli())
	l, err := scanLink(row.Scan)
	if err != nil {
		return credstore.Secret{}, credstore.Link{}, err
	}
	// A token that cannot be decrypted, or was replaced, counts as none.
	token, err := s.db.decrypt(id, linkTokenLabel, l.ciphertext)
	hash := token.Hash()
	if err != nil || !bytes.Equal(hash[:], l.hash) {
		return credstore.Secret{}, credstore.Link{}, sql.ErrNoRows
	}
	return token, l.Link, nil
}

// makeLink creates a link, and deletes the oldest ones if there are too many.
func (s links) makeLink(ctx context.Context, tx *sql.Tx, number int64, id string, r credstore.LinkRequest) (token credstore.Secret, l credstore.Link, err error) {
	token = newToken()
	hash := token.Hash()
	encrypted, err := s.db.encrypt(ctx, tx, id, namedSecret{linkTokenLabel, token})
	if err != nil {
		return token, l, err
	}
	now := s.db.now()
	_, err = tx.ExecContext(ctx, `
		INSERT INTO links (token_hash, connection, token, created_at, expires_at, return_url, other_company, shared_company)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		hash[:], number, encrypted[0], now.UnixMilli(), now.Add(r.TTL).UnixMilli(), r.ReturnURL, asInt(r.AllowOtherCompany), asInt(r.AllowSharedCompany))
	if err != nil {
		return token, l, err
	}
	_, err = tx.ExecContext(ctx, `
		DELETE FROM links WHERE connection = $1 AND token_hash <> $2 AND token_hash NOT IN (
			SELECT token_hash FROM links WHERE connection = $1 AND token_hash <> $2 ORDER BY created_at DESC LIMIT $3)`,
		number, hash[:], credstore.MaxLinks-1)
	if err != nil {
		return token, l, err
	}
	made, err := findLink(ctx, tx, hash)
	if err != nil {
		return token, l, err
	}
	c, err := connectionWithID(ctx, tx, id)
	if err != nil {
		return token, l, err
	}
	return token, made.Link, s.db.record(ctx, tx, c, credstore.Event{Type: credstore.EventLinkCreated, Message: made.Summary()}, false)
}

// newToken returns 256 random bits in base64url.
func newToken() credstore.Secret {
	var bits [32]byte
	_, _ = rand.Read(bits[:]) // never fails
	return credstore.NewSecret(base64.RawURLEncoding.EncodeToString(bits[:]))
}

// endLinks ends all links of the connection.
func endLinks(ctx context.Context, tx *sql.Tx, number int64) error {
	_, err := tx.ExecContext(ctx, `UPDATE links SET token = NULL WHERE connection = $1 AND token IS NOT NULL`, number)
	return err
}

// FindLink implements [credstore.Links].
func (s links) FindLink(ctx context.Context, token credstore.Secret) (credstore.Link, error) {
	l, err := findLink(ctx, s.db.dialect.readers(), token.Hash())
	if err == nil {
		err = l.usable(s.db.now())
	}
	return l.Link, s.db.failure("finding a connect link", err)
}

func findLink(ctx context.Context, q querier, hash credstore.Hash) (storedLink, error) {
	row := q.QueryRowContext(ctx, `SELECT `+linkColumns+` FROM links JOIN connections ON number = connection WHERE token_hash = $1`, hash[:])
	l, err := scanLink(row.Scan)
	return l, orNotFound(err)
}

// usable returns why the link cannot be used at the time, or nil.
func (l storedLink) usable(at time.Time) error {
	switch {
	case !l.UsedAt.IsZero():
		return credstore.ErrLinkUsed
	case l.ciphertext == nil || !l.ExpiresAt.After(at):
		return credstore.ErrLinkExpired
	}
	return nil
}

// spendLink spends the link and ends all others of the connection. Without a token it
// only ends them.
func spendLink(ctx context.Context, tx *sql.Tx, number int64, token credstore.Secret, now time.Time) error {
	if err := markUsed(ctx, tx, number, token, now); err != nil {
		return err
	}
	return endLinks(ctx, tx, number)
}

func markUsed(ctx context.Context, tx *sql.Tx, number int64, token credstore.Secret, now time.Time) error {
	if token.IsZero() {
		return nil
	}
	l, err := findLink(ctx, tx, token.Hash())
	if errors.Is(err, credstore.ErrNotFound) || err == nil && l.number != number {
		return credstore.ErrLinkExpired
	}
	if err != nil {
		return err
	}
	if err := l.usable(now.Add(-credstore.ConsentTimeout)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE links SET used_at = $2 WHERE token_hash = $1`, l.hash, now.UnixMilli())
	return err
}
