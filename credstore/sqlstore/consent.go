package sqlstore

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// The labels that the encryption of consents is bound to.
const (
	columnConsentLink     = "consent_link"
	columnConsentVerifier = "consent_verifier"
)

// BeginConsent implements [credstore.Links].
func (s links) BeginConsent(ctx context.Context, c credstore.Consent) error {
	const doing = "beginning a consent"
	if c.State.IsZero() || c.Verifier.IsZero() || len(c.Browser) == 0 {
		return fmt.Errorf("%s: it needs a state, a verifier and a browser", doing)
	}
	found, err := s.FindLink(ctx, c.Link)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	c.ConnectionID = found.ConnectionID
	return s.db.transact(ctx, doing, c.ConnectionID, func(tx *sql.Tx) error {
		l, err := findLink(ctx, tx, c.Link.Hash())
		if err != nil {
			return err
		}
		if err := l.usable(s.db.now()); err != nil {
			return err
		}
		return s.insertConsent(ctx, tx, l.number, c)
	})
}

func (s links) insertConsent(ctx context.Context, tx *sql.Tx, number int64, c credstore.Consent) error {
	encrypted, err := s.db.encrypt(ctx, tx, c.ConnectionID, namedSecret{columnConsentLink, c.Link}, namedSecret{columnConsentVerifier, c.Verifier})
	if err != nil {
		return err
	}
	hash := c.State.Hash()
	_, err = tx.ExecContext(ctx, `
		INSERT INTO consents (state_hash, connection, link, verifier, browser, redirect_uri, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		hash[:], number, encrypted[0], encrypted[1], c.Browser, c.RedirectURI, s.consentEnd(c).UnixMilli())
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		DELETE FROM consents WHERE connection = $1 AND state_hash <> $2 AND state_hash NOT IN (
			SELECT state_hash FROM consents WHERE connection = $1 AND state_hash <> $2 ORDER BY expires_at DESC LIMIT $3)`,
		number, hash[:], credstore.MaxConsents-1)
	return err
}

func (s links) consentEnd(c credstore.Consent) time.Time {
	latest := s.db.now().Add(credstore.ConsentTimeout)
	if c.ExpiresAt.IsZero() || c.ExpiresAt.After(latest) {
		return latest
	}
	return c.ExpiresAt
}

// TakeConsent implements [credstore.Links].
func (s links) TakeConsent(ctx context.Context, state credstore.Secret, browser []byte) (credstore.Consent, error) {
	var c credstore.Consent
	err := s.db.write(ctx, "taking a consent", func(tx *sql.Tx) (err error) {
		c, err = s.takeConsent(ctx, tx, state, browser)
		return err
	})
	return c, err
}

func (s links) takeConsent(ctx context.Context, tx *sql.Tx, state credstore.Secret, browser []byte) (credstore.Consent, error) {
	c := credstore.Consent{State: state}
	hash := state.Hash()
	var link, verifier []byte
	var expires sql.NullInt64
	err := tx.QueryRowContext(ctx, `
		SELECT id, link, verifier, browser, redirect_uri, consents.expires_at FROM consents JOIN connections ON number = connection
		WHERE state_hash = $1 AND consents.expires_at > $2`, hash[:], s.db.now().UnixMilli()).
		Scan(&c.ConnectionID, &link, &verifier, &c.Browser, &c.RedirectURI, &expires)
	if err != nil {
		return credstore.Consent{}, orNotFound(err)
	}
	if subtle.ConstantTimeCompare(c.Browser, browser) != 1 {
		return credstore.Consent{}, credstore.ErrOtherBrowser
	}
	// Of two transactions that have read it, one deletes it.
	deleted, err := affected(tx.ExecContext(ctx, `DELETE FROM consents WHERE state_hash = $1`, hash[:]))
	if err == nil && !deleted {
		err = credstore.ErrNotFound
	}
	if err != nil {
		return credstore.Consent{}, err
	}
	var errs [2]error
	c.ExpiresAt = timeOf(expires)
	c.Link, errs[0] = s.db.decrypt(c.ConnectionID, columnConsentLink, link)
	c.Verifier, errs[1] = s.db.decrypt(c.ConnectionID, columnConsentVerifier, verifier)
	return c, errors.Join(errs[:]...)
}
