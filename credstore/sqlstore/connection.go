package sqlstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// connectionColumns are what scanConnection reads.
const connectionColumns = `id, name, kind, status, reason, error_code, error_message, error_at,
	company_id, company_name, subject, shared_company, external_tenant, scope,
	unproven, version, connections.expires_at, refreshed_at, connections.created_at`

// scanConnection reads the connectionColumns, and into more what comes after.
func scanConnection(scan func(...any) error, more ...any) (c credstore.Connection, err error) {
	var failure credstore.Failure
	var errorAt, expires, refreshed, created sql.NullInt64
	err = scan(append([]any{
		&c.ID, &c.Name, &c.Kind, &c.Status, &c.Reason, &failure.Code, &failure.Message, &errorAt,
		&c.CompanyID, &c.CompanyName, &c.Subject, &c.SharedCompany, &c.ExternalTenant, &c.Scope,
		&c.CompanyUnverified, &c.Version, &expires, &refreshed, &created,
	}, more...)...)
	if err != nil {
		return credstore.Connection{}, err
	}
	if errorAt.Valid {
		failure.At = timeOf(errorAt)
		c.LastError = &failure
	}
	c.ExpiresAt, c.RefreshedAt, c.CreatedAt = timeOf(expires), timeOf(refreshed), timeOf(created)
	return c, nil
}

// Create adds a connection; see [credstore.Store].
func (s connections) Create(ctx context.Context, n credstore.NewConnection) (credstore.Connection, error) {
	doing := fmt.Sprintf("creating connection %q", n.Name)
	if err := n.Validate(); err != nil {
		return credstore.Connection{}, fmt.Errorf("%s: %w", doing, err)
	}
	id := rand.Text()
	var created credstore.Connection
	err := s.db.change(ctx, doing, id, func(tx *sql.Tx) error {
		if err := s.db.dialect.lockAll(ctx, tx); err != nil {
			return err
		}
		if err := checkAvailable(ctx, tx, n); err != nil {
			return err
		}
		number, err := s.db.insert(ctx, tx, id, n)
		if err != nil {
			return err
		}
		if err := s.db.insertCredential(ctx, tx, number, id, n.Credential); err != nil {
			return err
		}
		if created, err = connectionWithID(ctx, tx, id); err != nil {
			return err
		}
		return s.db.recordCreated(ctx, tx, created)
	})
	return created, err
}

func (db *database) recordCreated(ctx context.Context, tx *sql.Tx, c credstore.Connection) error {
	e := credstore.Event{Type: credstore.EventCreated}
	if c.Version > 0 {
		e.Type = credstore.EventImported
	}
	if err := db.record(ctx, tx, c, e); err != nil || !c.SharedCompany {
		return err
	}
	return db.record(ctx, tx, c, credstore.Event{
		Type: credstore.EventCompanyOverride, Message: "allowed: its company may be bound to other connections too",
	})
}

// checkAvailable returns a Conflict if the name, the refresh token or the company is
// not to be had.
func checkAvailable(ctx context.Context, tx *sql.Tx, n credstore.NewConnection) error {
	var with string
	err := tx.QueryRowContext(ctx, `SELECT name FROM connections WHERE folded_name = $1`, strings.ToLower(n.Name)).Scan(&with)
	if err == nil {
		return &credstore.ConflictError{Err: credstore.ErrNameTaken, With: with}
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if err := checkToken(ctx, tx, "", n.Credential); err != nil || n.SharedCompany {
		return err
	}
	return checkCompany(ctx, tx, "", n.Kind, n.Company.ID)
}

// checkToken returns a Conflict if the refresh token is, or was until its last
// refresh, that of a connection other than the one with the id.
func checkToken(ctx context.Context, tx *sql.Tx, id string, c *credstore.NewCredential) error {
	if c == nil || c.RefreshToken.IsZero() {
		return nil
	}
	hash := c.RefreshToken.Hash()
	var with string
	err := tx.QueryRowContext(ctx, `
		SELECT name FROM connections WHERE kind = 'oauth' AND refresh_hash = $1 AND id <> $2
		UNION ALL SELECT name FROM connections WHERE parent_hash IS NOT NULL AND parent_hash = $1 AND id <> $2 LIMIT 1`,
		hash[:], id).Scan(&with)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return &credstore.ConflictError{Err: credstore.ErrTokenTaken, With: with}
}

// checkCompany returns a Conflict if a connection of the kind, other than the
// one with the id, is bound to the company.
func checkCompany(ctx context.Context, tx *sql.Tx, id string, kind credstore.Kind, company string) error {
	if company == "" {
		return nil
	}
	var with string
	err := tx.QueryRowContext(ctx, `
		SELECT name FROM connections WHERE company_id = $1 AND company_id <> '' AND kind = $2 AND id <> $3
		ORDER BY name LIMIT 1`, company, kind, id).Scan(&with)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return &credstore.ConflictError{Err: credstore.ErrCompanyBound, With: with}
}

func (db *database) insert(ctx context.Context, tx *sql.Tx, id string, n credstore.NewConnection) (number int64, err error) {
	now := db.now()
	first := initialState(n, now)
	err = tx.QueryRowContext(ctx, `
		INSERT INTO connections (id, name, folded_name, kind, status, reason, own_status, own_reason,
			company_id, company_name, subject, shared_company, external_tenant, search, scope, created_at,
			version, refresh_hash, expires_at, refreshed_at)
		VALUES ($1, $2, $3, $4, $5, $6, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) RETURNING number`,
		id, n.Name, strings.ToLower(n.Name), n.Kind, first.status, first.reason,
		n.Company.ID, n.Company.Name, n.Company.Subject, asInt(n.SharedCompany), n.ExternalTenant,
		searchText(n.Name, n.ExternalTenant, n.Company), n.Scope, now.UnixMilli(),
		first.version, first.refreshHash, millis(first.expires), millis(first.refreshed)).Scan(&number)
	return number, err
}

// initial is what a connection starts with.
type initial struct {
	version            int64
	status             credstore.Status
	reason             string
	refreshHash        []byte // of the empty token without one
	expires, refreshed time.Time
}

func initialState(n credstore.NewConnection, now time.Time) initial {
	if n.Credential == nil {
		none := credstore.Credential{}.Parent().RefreshHash
		return initial{status: credstore.Pending, reason: credstore.ReasonNoCredential, refreshHash: none[:]}
	}
	hash := n.Credential.RefreshToken.Hash()
	f := initial{version: 1, status: credstore.Active, refreshHash: hash[:], expires: n.Credential.ExpiresAt}
	if n.Kind == credstore.OAuth {
		f.refreshed = now // when it was really obtained is not known
	}
	return f
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// searchText is what a search looks through.
func searchText(name, tenant string, company credstore.Company) string {
	return strings.ToLower(strings.Join([]string{name, tenant, company.Name, company.ID}, "\n"))
}

// Find returns the connection called name; see [credstore.Store].
func (s connections) Find(ctx context.Context, name string) (credstore.Connection, error) {
	row := s.db.dialect.readers().QueryRowContext(ctx, `SELECT `+connectionColumns+` FROM connections WHERE name = $1`, name)
	c, err := scanConnection(row.Scan)
	if err != nil {
		return c, s.db.failure(fmt.Sprintf("finding connection %q", name), orNotFound(err))
	}
	return c, nil
}

func connectionWithNumber(ctx context.Context, q querier, number int64) (credstore.Connection, error) {
	return scanConnection(q.QueryRowContext(ctx, `SELECT `+connectionColumns+` FROM connections WHERE number = $1`, number).Scan)
}

func connectionWithID(ctx context.Context, q querier, id string) (credstore.Connection, error) {
	row := q.QueryRowContext(ctx, `SELECT `+connectionColumns+` FROM connections WHERE id = $1`, id)
	c, err := scanConnection(row.Scan)
	return c, orNotFound(err)
}

// Remove forgets the connection; see [credstore.Store].
func (s connections) Remove(ctx context.Context, id string) error {
	return s.db.change(ctx, "removing a connection", id, func(tx *sql.Tx) error {
		c, err := connectionWithID(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := changedOne(tx.ExecContext(ctx, `DELETE FROM connections WHERE id = $1`, id)); err != nil {
			return err
		}
		return s.db.record(ctx, tx, c, credstore.Event{Type: credstore.EventRemoved})
	})
}

// SetCompany records the company of a connection; see [credstore.Store].
func (s connections) SetCompany(ctx context.Context, id string, company credstore.Company) error {
	const doing = "recording a connection's company"
	var conflict error
	err := s.db.change(ctx, doing, id, func(tx *sql.Tx) error {
		if err := s.db.dialect.lockAll(ctx, tx); err != nil {
			return err
		}
		conflict = nil
		c, err := connectionWithID(ctx, tx, id)
		if err != nil {
			return err
		}
		conflict = checkIdentity(ctx, tx, c, company)
		if errors.Is(conflict, credstore.ErrCompanyBound) || errors.Is(conflict, credstore.ErrOtherCompany) {
			return s.db.disableForCompany(ctx, tx, id, conflict)
		}
		if conflict != nil {
			return conflict
		}
		return s.db.learnCompany(ctx, tx, c, company)
	})
	if err != nil || conflict == nil {
		return err
	}
	return fmt.Errorf("%s: %w", doing, conflict)
}

// disableForCompany disables a connection whose credential belongs to a company that it may
// not have. Only a person can mend that, who is told.
func (db *database) disableForCompany(ctx context.Context, tx *sql.Tx, id string, why error) error {
	e := credstore.Event{Type: credstore.EventDisabled, Message: why.Error()}
	if err := db.disable(ctx, tx, id, credstore.ReasonCompanyConflict, e); err != nil {
		return err
	}
	c, err := connectionWithID(ctx, tx, id)
	if err != nil {
		return err
	}
	return db.alarm(ctx, tx, c, credstore.Event{Type: credstore.EventReauthorizationRequired, Code: credstore.ReasonCompanyConflict, Message: why.Error()})
}

// checkIdentity says why the connection cannot have the company.
func checkIdentity(ctx context.Context, tx *sql.Tx, c credstore.Connection, company credstore.Company) error {
	if c.CompanyUnverified && !c.Company().IsZero() && !c.Company().Same(company) {
		return &credstore.OtherCompanyError{Have: c.Company(), Got: company}
	}
	if c.SharedCompany {
		return nil
	}
	return checkCompany(ctx, tx, c.ID, c.Kind, company.ID)
}

func (db *database) learnCompany(ctx context.Context, tx *sql.Tx, c credstore.Connection, company credstore.Company) error {
	if err := setCompany(ctx, tx, c, company); err != nil || company.IsZero() || c.Company().Same(company) {
		return err
	}
	return db.record(ctx, tx, c, credstore.Event{Type: credstore.EventCompanyLearned, Message: cmp.Or(company.Name, company.ID, company.Subject)})
}

func setCompany(ctx context.Context, tx *sql.Tx, c credstore.Connection, company credstore.Company) error {
	_, err := tx.ExecContext(ctx, `
		UPDATE connections SET company_id = $1, company_name = $2, subject = $3, search = $4, unproven = 0 WHERE id = $5`,
		company.ID, company.Name, company.Subject, searchText(c.Name, c.ExternalTenant, company), c.ID)
	return err
}
