package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// applyTo applies an action to the connection with the id, in a transaction of its
// own.
func (db *database) applyTo(ctx context.Context, doing, id string, a credstore.Action) error {
	return db.change(ctx, doing, id, func(tx *sql.Tx) error {
		r, err := readRow(ctx, tx, id)
		if err == nil {
			_, err = db.apply(ctx, tx, r, a, r.fence)
		}
		return err
	})
}

// apply applies an action to a row that was read in the same transaction, and writes
// what follows. The fence is that of the lease, or the row's own without one. It
// returns the transition with the connection as it is stored.
func (db *database) apply(ctx context.Context, tx *sql.Tx, r row, a credstore.Action, fence int64) (credstore.Transition, error) {
	t, err := credstore.Apply(r.state, a, db.now())
	if err != nil {
		return t, err
	}
	if t.State.Connection, err = updateConnection(ctx, tx, r, t.State, fence); err != nil {
		return t, err
	}
	if err := updateIntent(ctx, tx, r, t.State.Intent); err != nil {
		return t, err
	}
	if err := db.storeSecrets(ctx, tx, r.number, t.State.Connection.ID, t.Secrets); err != nil {
		return t, err
	}
	return t, db.recordAll(ctx, tx, t)
}

func (db *database) recordAll(ctx context.Context, tx *sql.Tx, t credstore.Transition) error {
	for _, e := range t.History {
		if err := db.record(ctx, tx, t.State.Connection, e, slices.Contains(t.Deliveries, e.Type)); err != nil {
			return err
		}
	}
	return nil
}

// column is a column of the table connections, with a comparable value.
type column struct {
	name  string
	value any
}

// columnsOf returns the columns that hold the state.
func columnsOf(s credstore.StoredState) []column {
	c, credential := s.Connection, s.Credential
	var failure credstore.Failure
	if c.LastError != nil {
		failure = *c.LastError
	}
	return []column{
		{"id", c.ID}, {"name", c.Name}, {"folded_name", strings.ToLower(c.Name)}, {"kind", string(c.Kind)},
		{"status", string(c.Status)}, {"reason", c.Reason},
		{"own_status", string(s.CredentialStatus)}, {"own_reason", s.CredentialReason}, {"alarmed", asInt(s.Alarmed)},
		{"error_code", failure.Code}, {"error_message", failure.Message}, {"error_at", millis(failure.At)},
		{"company_id", c.CompanyID}, {"company_name", c.CompanyName}, {"subject", c.Subject},
		{"shared_company", asInt(c.SharedCompany)}, {"unproven", asInt(c.CompanyUnverified)},
		{"external_tenant", c.ExternalTenant}, {"search", searchText(c)}, {"scope", c.Scope}, {"created_at", millis(c.CreatedAt)},
		{"version", c.Version}, {"refresh_hash", s.RefreshHash}, {"parent_hash", s.ParentHash},
		{"expires_at", millis(c.ExpiresAt)}, {"refreshed_at", millis(c.RefreshedAt)}, {"refused_at", millis(credential.RejectedAt)},
		{"forced_at", millis(credential.ForcedAt)}, {"forced_streak", credential.ForcedStreak},
		{"next_expires_at", millis(credential.NextKeyExpiresAt)}, {"reminded_within", milliseconds(s.ReminderWindow)},
		{"retry_at", millis(s.RetryAt)}, {"requested_at", millis(s.RequestedAt)},
		{"unusual", s.UnexpectedResponses}, {"unusual_since", millis(s.UnexpectedSince)},
	}
}

// argument returns the value as the database takes it: a hash as bytes, the zero hash
// as NULL.
func (c column) argument() any {
	hash, ok := c.value.(credstore.Hash)
	switch {
	case !ok:
		return c.value
	case hash == credstore.Hash{}:
		return nil
	}
	return hash[:]
}

// searchText is what a search looks through.
func searchText(c credstore.Connection) string {
	return strings.ToLower(strings.Join([]string{c.Name, c.ExternalTenant, c.CompanyName, c.CompanyID}, "\n"))
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// updateConnection writes the columns that have changed, which spares the indexes on
// the others, and returns the connection as it is stored. The row is locked; that the
// statement names the version and hash it was read with is a second safeguard.
func updateConnection(ctx context.Context, tx *sql.Tx, r row, after credstore.StoredState, fence int64) (credstore.Connection, error) {
	before := r.state
	args := []any{r.number, before.Connection.Version, before.RefreshHash[:]}
	var changes []string
	set := func(name string, value any) {
		args = append(args, value)
		changes = append(changes, fmt.Sprintf("%s = $%d", name, len(args)))
	}
	old := columnsOf(before)
	for i, c := range columnsOf(after) {
		if c != old[i] {
			set(c.name, c.argument())
		}
	}
	if fence != r.fence {
		set("fence", fence)
	}
	if len(changes) == 0 {
		return before.Connection, nil
	}
	c, err := scanConnection(tx.QueryRowContext(ctx, `
		UPDATE connections SET `+strings.Join(changes, ", ")+` WHERE number = $1 AND version = $2 AND refresh_hash = $3
		RETURNING `+connectionColumns, args...).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return c, credstore.ErrSuperseded
	}
	return c, err
}

func insertConnection(ctx context.Context, tx *sql.Tx, s credstore.StoredState) (number int64, c credstore.Connection, err error) {
	var names, parameters []string
	var args []any
	for _, column := range columnsOf(s) {
		args = append(args, column.argument())
		names = append(names, column.name)
		parameters = append(parameters, fmt.Sprintf("$%d", len(args)))
	}
	c, err = scanConnection(tx.QueryRowContext(ctx, `
		INSERT INTO connections (`+strings.Join(names, ", ")+`) VALUES (`+strings.Join(parameters, ", ")+`)
		RETURNING `+connectionColumns+`, number`, args...).Scan, &number)
	return number, c, err
}

// updateIntent writes the intent; nil removes it.
func updateIntent(ctx context.Context, tx *sql.Tx, r row, after *credstore.Intent) error {
	before := r.state.Intent
	if before == nil && after == nil || before != nil && after != nil && *before == *after {
		return nil
	}
	if after == nil {
		_, err := tx.ExecContext(ctx, `DELETE FROM intents WHERE connection = $1`, r.number)
		return err
	}
	_, err := tx.ExecContext(ctx, `
		INSERT INTO intents (connection, parent_version, parent_hash, owner, fence, at, first_at, outcome, presentations, next_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (connection) DO UPDATE SET parent_version = excluded.parent_version, parent_hash = excluded.parent_hash,
			owner = excluded.owner, fence = excluded.fence, at = excluded.at, first_at = excluded.first_at,
			outcome = excluded.outcome, presentations = excluded.presentations, next_at = excluded.next_at`,
		r.number, after.Parent.Version, after.Parent.RefreshHash[:], after.Owner, after.Fence, millis(after.At), millis(after.FirstAt),
		string(after.Outcome), after.Attempts, millis(after.NextAt))
	return err
}

// storeSecrets encrypts the changes and writes them.
func (db *database) storeSecrets(ctx context.Context, tx *sql.Tx, number int64, id string, changes credstore.SecretChanges) error {
	var secrets []namedSecret
	for _, change := range []struct {
		column string
		value  *credstore.Secret
	}{
		{columnAccessToken, changes.AccessToken}, {columnRefreshToken, changes.RefreshToken},
		{columnAPIKey, changes.APIKey}, {columnNextKey, changes.NextKey},
	} {
		if change.value != nil {
			secrets = append(secrets, namedSecret{change.column, *change.value})
		}
	}
	if len(secrets) == 0 {
		return nil
	}
	encrypted, err := db.encrypt(ctx, tx, id, secrets...)
	if err != nil {
		return err
	}
	var names, parameters, updates []string
	for i, s := range secrets {
		names = append(names, s.label)
		parameters = append(parameters, fmt.Sprintf("$%d", i+2))
		updates = append(updates, s.label+" = excluded."+s.label)
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO credentials (connection, `+strings.Join(names, ", ")+`) VALUES ($1, `+strings.Join(parameters, ", ")+`)
		ON CONFLICT (connection) DO UPDATE SET `+strings.Join(updates, ", "), append([]any{number}, encrypted...)...)
	return err
}

// milliseconds is how a duration is stored: NULL for none.
func milliseconds(d time.Duration) sql.NullInt64 {
	return sql.NullInt64{Int64: d.Milliseconds(), Valid: d != 0}
}

func durationOf(n sql.NullInt64) time.Duration { return time.Duration(n.Int64) * time.Millisecond }
