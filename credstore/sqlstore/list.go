package sqlstore

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

const (
	defaultPageSize = 50
	maxPageSize     = 200
)

// List implements [credstore.Connections].
func (s connections) List(ctx context.Context, q credstore.Query) (credstore.Page, error) {
	const doing = "listing connections"
	limit, err := pageSize(q.Limit)
	after, invalid := nameBefore(q.Cursor)
	if err := errors.Join(err, invalid); err != nil {
		return credstore.Page{}, fmt.Errorf("%s: %w", doing, err)
	}
	if !searchable(q.Search) {
		return credstore.Page{}, nil
	}
	var ends int64
	if !q.KeyExpiresBefore.IsZero() {
		ends = q.KeyExpiresBefore.UnixMilli()
	}
	// One more than requested shows whether there is a next page. The inner query
	// returns names only, since an index has everything that decides.
	found, err := queryConnections(ctx, s.db, `
		SELECT `+connectionColumns+` FROM connections WHERE name IN (
			SELECT name FROM connections WHERE name > $2 AND `+selection(q)+` ORDER BY name LIMIT $6)
		ORDER BY name`, ends, after, string(q.Status), string(q.Kind), pattern(q.Search), limit+1, q.Reason)
	if err != nil {
		return credstore.Page{}, s.db.failure(doing, err)
	}
	if len(found) <= limit {
		return credstore.Page{Connections: found}, nil
	}
	found = found[:limit]
	return credstore.Page{Connections: found, Next: cursorAfter(found[limit-1].Name)}, nil
}

// selection is true of the connections that a query selects, by its parameters $1, $3
// to $5 and $7. A condition without alternatives lets an index serve; in a search only
// the index with the text may.
func selection(q credstore.Query) string {
	ends, reason := `$1 = 0`, `$7 = ''`
	if !q.KeyExpiresBefore.IsZero() {
		// As a subquery, since they are few and an index has them.
		ends = `number IN (SELECT number FROM connections WHERE ` + keyExpiresSoon + `) AND NOT ` + hasLongerStagedKey
	}
	if q.Reason != "" {
		reason = `reason = $7`
	}
	status, kind := `($3 = '' OR status = $3)`, `($4 = '' OR kind = $4)`
	if q.Search != "" {
		return status + ` AND ` + kind + ` AND search LIKE $5 ESCAPE '\' AND ` + ends + ` AND ` + reason
	}
	if q.Status != "" {
		status = `status = $3`
	}
	if q.Kind != "" {
		kind = `kind = $4`
	}
	return status + ` AND ` + kind + ` AND $5 = '' AND ` + ends + ` AND ` + reason
}

func pageSize(limit int) (int, error) {
	if limit == 0 {
		return defaultPageSize, nil
	}
	if limit < 1 || limit > maxPageSize {
		return 0, fmt.Errorf("%w: the limit is %d, not between 1 and %d", credstore.ErrBadQuery, limit, maxPageSize)
	}
	return limit, nil
}

// cursorAfter returns the cursor of the page that begins after name. Unlike a position,
// a name stays valid when connections are created or removed.
func cursorAfter(name string) string {
	return base64.RawURLEncoding.EncodeToString([]byte("after " + name))
}

// nameBefore is the inverse of cursorAfter; it is empty for the first page.
func nameBefore(cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	name, ok := strings.CutPrefix(string(text), "after ")
	if err != nil || !ok || !credstore.ValidName(name) {
		return "", fmt.Errorf("%w: the cursor is not one that a listing returned", credstore.ErrBadQuery)
	}
	return name, nil
}

// maxSearchLength is longer than any useful search, and shorter than what SQLite
// refuses to compare.
const maxSearchLength = 10_000

// searchable reports whether a connection can contain the text. Databases reject other
// texts, each with its own error.
func searchable(text string) bool {
	return len(text) <= maxSearchLength && utf8.ValidString(text) && !strings.Contains(text, "\x00")
}

// pattern returns the argument for LIKE ... ESCAPE '\'; empty if there is nothing to
// search for.
func pattern(search string) string {
	if search == "" {
		return ""
	}
	escape := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)
	return "%" + escape.Replace(strings.ToLower(search)) + "%"
}

// Count implements [credstore.Connections].
func (s connections) Count(ctx context.Context) (map[credstore.Group]int, error) {
	const doing = "counting connections"
	counts := make(map[credstore.Group]int)
	err := s.db.each(ctx, func(rows *sql.Rows) error {
		var g credstore.Group
		var n int
		err := rows.Scan(&g.Kind, &g.Status, &n)
		counts[g] = n
		return err
	}, `SELECT kind, status, count(*) FROM connections GROUP BY kind, status`)
	if err != nil {
		return nil, s.db.failure(doing, err)
	}
	return counts, nil
}

// Due implements [credstore.Credentials].
func (s credentials) Due(ctx context.Context, obtainedBefore time.Time, limit int) ([]credstore.Connection, error) {
	found, err := queryConnections(ctx, s.db, `
		SELECT `+connectionColumns+` FROM connections
		WHERE kind = 'oauth' AND status IN ('active', 'degraded') AND refreshed_at < $1
			AND refused_at IS NULL AND (retry_at IS NULL OR retry_at <= $2)
			AND EXISTS (SELECT 1 FROM credentials WHERE connection = number AND refresh_token IS NOT NULL)
			AND NOT EXISTS (SELECT 1 FROM intents WHERE connection = number AND next_at > $2)
		ORDER BY refreshed_at LIMIT $3`, obtainedBefore.UnixMilli(), s.db.now().UnixMilli(), limit)
	return found, s.db.failure("finding connections to refresh", err)
}

// Unsettled implements [credstore.Credentials].
func (s credentials) Unsettled(ctx context.Context, limit int) ([]string, error) {
	var ids []string
	err := s.db.each(ctx, func(rows *sql.Rows) error {
		var id string
		var when int64
		err := rows.Scan(&id, &when)
		ids = append(ids, id)
		return err
	}, `
		SELECT id, min(due) AS due FROM (
			SELECT id, retry_at AS due FROM connections WHERE retry_at IS NOT NULL
			UNION ALL
			SELECT id, requested_at AS due FROM connections WHERE requested_at IS NOT NULL
			UNION ALL
			SELECT id, coalesce(next_at, at) AS due FROM intents JOIN connections ON number = connection
		) AS outstanding GROUP BY id ORDER BY due, id LIMIT $1`, limit)
	return ids, s.db.failure("finding unsettled refreshes", err)
}

func queryConnections(ctx context.Context, db *database, query string, args ...any) ([]credstore.Connection, error) {
	var found []credstore.Connection
	err := db.each(ctx, func(rows *sql.Rows) error {
		c, err := scanConnection(rows.Scan)
		found = append(found, c)
		return err
	}, query, args...)
	return found, err
}

// each calls f for every row of the query.
func (db *database) each(ctx context.Context, f func(*sql.Rows) error, query string, args ...any) error {
	return each(ctx, db.dialect.readers(), f, query, args...)
}

type rowsQuerier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func each(ctx context.Context, q rowsQuerier, f func(*sql.Rows) error, query string, args ...any) (err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
