package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// Create implements [credstore.Connections].
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
		t := credstore.Begin(id, n, s.db.now())
		number, c, err := insertConnection(ctx, tx, t.State)
		if err != nil {
			return err
		}
		if err := s.db.storeSecrets(ctx, tx, number, id, t.Secrets); err != nil {
			return err
		}
		t.State.Connection, created = c, c
		return s.db.recordAll(ctx, tx, t)
	})
	return created, err
}

// checkAvailable returns a ConflictError if another connection has the name, the
// refresh token or the company.
func checkAvailable(ctx context.Context, tx *sql.Tx, n credstore.NewConnection) error {
	err := findConflict(ctx, tx, credstore.ErrNameTaken, `SELECT name FROM connections WHERE folded_name = $1`, strings.ToLower(n.Name))
	if err != nil {
		return err
	}
	if n.Credential != nil {
		if err := checkToken(ctx, tx, "", n.Credential.RefreshToken); err != nil {
			return err
		}
	}
	if n.SharedCompany {
		return nil
	}
	return checkCompany(ctx, tx, "", n.Kind, n.Company.ID)
}

// findConflict returns a ConflictError of the sentinel with the name that the query
// finds, or nil if it finds none.
func findConflict(ctx context.Context, tx *sql.Tx, sentinel error, query string, args ...any) error {
	var with string
	err := tx.QueryRowContext(ctx, query, args...).Scan(&with)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return &credstore.ConflictError{Err: sentinel, With: with}
}

// checkToken returns a ConflictError if the refresh token is, or was until its last
// refresh, that of a connection other than the one with the id.
func checkToken(ctx context.Context, tx *sql.Tx, id string, token credstore.Secret) error {
	if token.IsZero() {
		return nil
	}
	hash := token.Hash()
	return findConflict(ctx, tx, credstore.ErrTokenTaken, `
		SELECT name FROM connections WHERE kind = 'oauth' AND refresh_hash = $1 AND id <> $2
		UNION ALL SELECT name FROM connections WHERE parent_hash IS NOT NULL AND parent_hash = $1 AND id <> $2 LIMIT 1`, hash[:], id)
}

// checkCompany returns a ConflictError if a connection of the kind, other than the
// one with the id, is bound to the company.
func checkCompany(ctx context.Context, tx *sql.Tx, id string, kind credstore.Kind, company string) error {
	if company == "" {
		return nil
	}
	return findConflict(ctx, tx, credstore.ErrCompanyBound, `
		SELECT name FROM connections WHERE company_id = $1 AND company_id <> '' AND kind = $2 AND id <> $3
		ORDER BY name LIMIT 1`, company, string(kind), id)
}

// companyBound is checkCompany with the conflict apart from a failure of the database.
func companyBound(ctx context.Context, tx *sql.Tx, c credstore.Connection, company credstore.Company) (bound, err error) {
	err = checkCompany(ctx, tx, c.ID, c.Kind, company.ID)
	if errors.Is(err, credstore.ErrCompanyBound) {
		return err, nil
	}
	return nil, err
}

// Find implements [credstore.Connections].
func (s connections) Find(ctx context.Context, name string) (credstore.Connection, error) {
	c, err := scanConnection(s.db.dialect.readers().QueryRowContext(ctx, `SELECT `+connectionColumns+` FROM connections WHERE name = $1`, name).Scan)
	return c, s.db.failure(fmt.Sprintf("finding connection %q", name), orNotFound(err))
}

// Read implements [credstore.Connections]. A credential that cannot be decrypted is a
// [credstore.SetupError].
func (s connections) Read(ctx context.Context, id string) (credstore.State, error) {
	r, err := readRow(ctx, s.db.dialect.readers(), id)
	if err != nil {
		return credstore.State{}, s.db.failure("reading a connection", err)
	}
	return s.db.decryptState(r)
}

// Remove implements [credstore.Connections].
func (s connections) Remove(ctx context.Context, id string) error {
	return s.db.change(ctx, "removing a connection", id, func(tx *sql.Tx) error {
		r, err := readRow(ctx, tx, id)
		if err != nil {
			return err
		}
		t, err := credstore.Apply(r.state, credstore.Remove{}, s.db.now())
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM connections WHERE number = $1`, r.number); err != nil {
			return err
		}
		return s.db.recordAll(ctx, tx, t)
	})
}

// Disable implements [credstore.Connections].
func (s connections) Disable(ctx context.Context, id, reason string) error {
	return s.db.applyTo(ctx, "disabling a connection", id, credstore.Disable{Reason: reason})
}

// Enable implements [credstore.Connections].
func (s connections) Enable(ctx context.Context, id string) error {
	return s.db.applyTo(ctx, "enabling a connection", id, credstore.Enable{})
}

// Export implements [credstore.Connections].
func (s connections) Export(ctx context.Context, id string) (state credstore.State, err error) {
	l, err := s.db.acquire(ctx, id, "export")
	if err != nil {
		return state, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	err = s.db.underLease(ctx, "exporting a connection", l, id, s.db.change, func(tx *sql.Tx, r row) error {
		t, err := s.db.apply(ctx, tx, r, credstore.Export{}, l.Fence())
		if err != nil {
			return err
		}
		r.state.Connection = t.State.Connection
		state, err = s.db.decryptState(r)
		return err
	})
	return state, err
}

// SetCompany implements [credstore.Connections].
func (s connections) SetCompany(ctx context.Context, id string, company credstore.Company) error {
	const doing = "recording a connection's company"
	var conflict error
	err := s.db.change(ctx, doing, id, func(tx *sql.Tx) error {
		if err := s.db.dialect.lockAll(ctx, tx); err != nil {
			return err
		}
		r, err := readRow(ctx, tx, id)
		if err != nil {
			return err
		}
		bound, err := companyBound(ctx, tx, r.state.Connection, company)
		if err != nil {
			return err
		}
		t, err := s.db.apply(ctx, tx, r, credstore.SetCompany{Company: company, Bound: bound}, r.fence)
		conflict = t.Conflict
		return err
	})
	if err != nil || conflict == nil {
		return err
	}
	return fmt.Errorf("%s: %w", doing, conflict)
}

// StageKey implements [credstore.Connections].
func (s connections) StageKey(ctx context.Context, id string, key credstore.Secret, expiresAt time.Time) error {
	const doing = "staging a key"
	if key.IsZero() {
		return fmt.Errorf("%s: it is empty", doing)
	}
	return s.db.applyTo(ctx, doing, id, credstore.StageKey{Key: key, ExpiresAt: expiresAt})
}

// Replace implements [credstore.Connections].
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
	var replaced credstore.Connection
	err = s.db.underLease(ctx, doing, l, id, s.db.change, func(tx *sql.Tx, stored row) (err error) {
		replaced, err = s.replace(ctx, tx, stored, r, l.Fence())
		return err
	})
	return replaced, err
}

func (s connections) replace(ctx context.Context, tx *sql.Tx, stored row, r credstore.Replacement, fence int64) (c credstore.Connection, err error) {
	if err := s.db.dialect.lockAll(ctx, tx); err != nil {
		return c, err
	}
	err = spendLink(ctx, tx, stored.number, r.LinkToken, s.db.now())
	if errors.Is(err, credstore.ErrLinkUsed) {
		return s.alreadyReplaced(stored, r)
	}
	if err != nil {
		return c, err
	}
	if err := checkToken(ctx, tx, stored.state.Connection.ID, r.Credential.RefreshToken); err != nil {
		return c, err
	}
	bound, err := companyBound(ctx, tx, stored.state.Connection, r.Company)
	if err != nil {
		return c, err
	}
	t, err := s.db.apply(ctx, tx, stored, credstore.Replace{Replacement: r, Bound: bound}, fence)
	return t.State.Connection, err
}

// alreadyReplaced returns the connection if it has this very credential already, as
// after a COMMIT whose response was lost; else ErrLinkUsed.
func (s connections) alreadyReplaced(stored row, r credstore.Replacement) (credstore.Connection, error) {
	state, err := s.db.decryptState(stored)
	if err != nil {
		return credstore.Connection{}, err
	}
	have, want := state.Credential, r.Credential
	if !have.APIKey.Equal(want.APIKey) || !have.AccessToken.Equal(want.AccessToken) || !have.RefreshToken.Equal(want.RefreshToken) {
		return credstore.Connection{}, credstore.ErrLinkUsed
	}
	return state.Connection, nil
}
