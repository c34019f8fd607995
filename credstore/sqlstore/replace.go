package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Replace puts a new grant or key in the place of what is stored; see
// [credstore.Store].
func (s connections) Replace(ctx context.Context, l credstore.Lease, r credstore.Replacement) (credstore.Connection, error) {
	const doing = "replacing a credential"
	id := l.ConnectionID()
	c, err := connectionWithID(ctx, s.db.dialect.readers(), id)
	if err != nil {
		return credstore.Connection{}, s.db.failure(doing, err)
	}
	if err := r.Credential.Validate(c.Kind); err != nil {
		return credstore.Connection{}, fmt.Errorf("%s: %w", doing, err)
	}
	run := func(f func(*sql.Tx) error) error { return s.db.change(ctx, doing, id, f) }
	var replaced credstore.Connection
	err = s.db.withLease(ctx, l, id, run, func(tx *sql.Tx, held *lease) error {
		number, err := takeFence(ctx, tx, held)
		if err != nil {
			return err
		}
		if err := s.db.dialect.lockAll(ctx, tx); err != nil {
			return err
		}
		err = s.db.spendLink(ctx, tx, number, r.LinkToken)
		if errors.Is(err, credstore.ErrLinkUsed) {
			replaced, err = s.db.replacedBefore(ctx, tx, id, r)
			return err
		}
		if err != nil {
			return err
		}
		replaced, err = s.db.replace(ctx, tx, id, r)
		return err
	})
	return replaced, err
}

// replacedBefore returns the connection if it has the very credential already,
// as it does after a COMMIT whose answer was lost; else ErrLinkUsed.
func (db *database) replacedBefore(ctx context.Context, tx *sql.Tx, id string, r credstore.Replacement) (credstore.Connection, error) {
	state, err := db.readDecrypted(ctx, tx, id)
	if err != nil {
		return credstore.Connection{}, err
	}
	have, want := state.Credential, r.Credential
	if !have.APIKey.Equal(want.APIKey) || !have.AccessToken.Equal(want.AccessToken) || !have.RefreshToken.Equal(want.RefreshToken) {
		return credstore.Connection{}, credstore.ErrLinkUsed
	}
	return state.Connection, nil
}

// replace does what is left to do once the link is spent.
func (db *database) replace(ctx context.Context, tx *sql.Tx, id string, r credstore.Replacement) (credstore.Connection, error) {
	before, err := connectionWithID(ctx, tx, id)
	if err != nil {
		return before, err
	}
	if err := checkToken(ctx, tx, id, &r.Credential); err != nil {
		return before, err
	}
	override, err := db.moveCompany(ctx, tx, before, r)
	if err != nil {
		return before, err
	}
	if err := admitAgain(ctx, tx, before, r); err != nil {
		return before, err
	}
	after, err := db.putCredential(ctx, tx, before, r)
	if err != nil {
		return after, err
	}
	if override != "" {
		err := db.record(ctx, tx, after, credstore.Event{Type: credstore.EventCompanyOverride, Message: override})
		if err != nil {
			return after, err
		}
	}
	return after, db.recordReplaced(ctx, tx, after)
}

// admitAgain takes back that the connection was disabled for the company of the
// credential that is replaced now.
func admitAgain(ctx context.Context, tx *sql.Tx, c credstore.Connection, r credstore.Replacement) error {
	if c.Status != credstore.Disabled || c.Reason != credstore.ReasonCompanyConflict || r.Company.IsZero() {
		return nil
	}
	_, err := tx.ExecContext(ctx, `UPDATE connections SET status = own_status, reason = own_reason WHERE id = $1`, c.ID)
	return err
}

// moveCompany gives the connection the company of its new credential, if it may
// have it. It says what had to be overridden for that.
func (db *database) moveCompany(ctx context.Context, tx *sql.Tx, c credstore.Connection, r credstore.Replacement) (override string, err error) {
	if r.Company.IsZero() {
		return "", nil
	}
	other := &credstore.OtherCompanyError{Have: c.Company(), Got: r.Company}
	if !c.Company().IsZero() && !c.Company().Same(r.Company) {
		if !r.AllowOtherCompany {
			return "", other
		}
		override = "allowed: " + other.Error()
	}
	// That one company may be shared says nothing about another.
	shared := c.SharedCompany && (c.Company().IsZero() || c.Company().Same(r.Company))
	if !shared {
		err := checkCompany(ctx, tx, c.ID, c.Kind, r.Company.ID)
		if err != nil && !(r.AllowSharedCompany && errors.Is(err, credstore.ErrCompanyBound)) {
			return "", err
		}
		if err != nil {
			shared, override = true, "allowed: "+err.Error()
		}
	}
	_, err = tx.ExecContext(ctx, `UPDATE connections SET shared_company = $2 WHERE id = $1`, c.ID, asInt(shared))
	if err != nil {
		return "", err
	}
	return override, setCompany(ctx, tx, c, r.Company)
}

// putCredential stores the credential as the next version.
func (db *database) putCredential(ctx context.Context, tx *sql.Tx, before credstore.Connection, r credstore.Replacement) (credstore.Connection, error) {
	f := r.Credential
	hash := f.RefreshToken.Hash()
	obtained := r.ObtainedAt
	if before.Kind == credstore.OAuth && obtained.IsZero() {
		obtained = db.now()
	}
	row := tx.QueryRowContext(ctx, `
		UPDATE connections SET
			version = version + 1, parent_hash = refresh_hash, refresh_hash = $2,
			expires_at = $3, refreshed_at = $4, scope = CASE WHEN $5 = '' THEN scope ELSE $5 END,
			forced_at = NULL, forced_streak = 0, next_expires_at = NULL, reminded_within = NULL,
			`+becomes(`'active'`, `''`)+`,
			error_code = '', error_message = '', error_at = NULL, retry_at = NULL, requested_at = NULL,
			unusual = 0, unusual_since = NULL, refused_at = NULL, 
			unproven = CASE WHEN $7 = 1 OR $6 = 0 AND company_id || subject <> '' THEN 1 ELSE 0 END
		WHERE id = $1 RETURNING `+connectionColumns+`, number`,
		before.ID, hash[:], millis(f.ExpiresAt), millis(obtained), r.Scope, asInt(!r.Company.IsZero()), asInt(r.CompanyUnverified))
	var number int64
	after, err := scanConnection(row.Scan, &number)
	if err != nil {
		return after, err
	}
	for _, table := range []string{"intents", "credentials"} {
		if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE connection = $1`, number); err != nil {
			return after, err
		}
	}
	return after, db.insertCredential(ctx, tx, number, after.ID, &f)
}

// recordReplaced says what the new credential is: the first one, the end of an
// alarm, or one in the place of another that may have worked.
func (db *database) recordReplaced(ctx context.Context, tx *sql.Tx, c credstore.Connection) error {
	var alarmed bool
	err := tx.QueryRowContext(ctx, `SELECT alarmed FROM connections WHERE id = $1`, c.ID).Scan(&alarmed)
	if err != nil {
		return err
	}
	if alarmed && c.Status == credstore.Active {
		return db.recordStatus(ctx, tx, c)
	}
	e := credstore.Event{Type: credstore.EventConnected}
	if c.Version > 1 && c.Kind.IsKey() {
		e.Type = credstore.EventKeySet
	}
	return db.record(ctx, tx, c, e)
}
