package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// eventColumns are what scanEvent reads.
const eventColumns = `events.id, events.connection_id, events.connection, type, at, actor, status, reason, version, code, message`

// scanEvent reads the eventColumns, and the columns after them into more.
func scanEvent(scan func(...any) error, more ...any) (e credstore.Event, err error) {
	var at sql.NullInt64
	err = scan(append([]any{
		&e.ID, &e.ConnectionID, &e.Connection, &e.Type, &at, &e.Actor, &e.Status, &e.Reason, &e.Version, &e.Code, &e.Message,
	}, more...)...)
	e.At = timeOf(at)
	return e, err
}

// record adds an event to the history of the connection, which is c after the change,
// and queues it for subscribers if deliver is set. Of e, only the type, code and
// message are used.
func (db *database) record(ctx context.Context, tx *sql.Tx, c credstore.Connection, e credstore.Event, deliver bool) error {
	number, err := db.addEvent(ctx, tx, c, e)
	if err != nil || !deliver {
		return err
	}
	return db.queue(ctx, tx, c, e.Type, number)
}

// addEvent adds the event, and deletes those that exceed the limits.
func (db *database) addEvent(ctx context.Context, tx *sql.Tx, c credstore.Connection, e credstore.Event) (number int64, err error) {
	frequent, kept := asInt(e.Type.Frequent()), credstore.MaxEvents
	if e.Type.Frequent() {
		kept = credstore.MaxFrequentEvents
	}
	err = tx.QueryRowContext(ctx, `
		INSERT INTO events (id, connection_id, connection, frequent, type, at, actor, status, reason, version, code, message)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING number`,
		rand.Text(), c.ID, c.Name, frequent, e.Type, db.now().UnixMilli(), credstore.Actor(ctx),
		c.Status, c.Reason, c.Version, credstore.CleanText(e.Code), credstore.CleanText(e.Message)).Scan(&number)
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, `
		DELETE FROM events WHERE connection_id = $1 AND frequent = $2 AND number <= (
			SELECT number FROM events WHERE connection_id = $1 AND frequent = $2 ORDER BY number DESC LIMIT 1 OFFSET $3)`,
		c.ID, frequent, kept)
	return number, err
}

// RecordEvent implements [credstore.History].
func (s history) RecordEvent(ctx context.Context, id string, e credstore.Event) error {
	return s.db.transact(ctx, "recording an event", id, func(tx *sql.Tx) error {
		c, err := connectionWithID(ctx, tx, id)
		if err != nil {
			return err
		}
		return s.db.record(ctx, tx, c, e, e.Type.Public())
	})
}

// Events implements [credstore.History].
func (s history) Events(ctx context.Context, id, before string, limit int) (credstore.HistoryPage, error) {
	const doing = "reading a connection's history"
	limit, err := pageSize(limit)
	if err != nil {
		return credstore.HistoryPage{}, fmt.Errorf("%s: %w", doing, err)
	}
	older, err := numberBefore(before)
	if err != nil {
		return credstore.HistoryPage{}, fmt.Errorf("%s: %w", doing, err)
	}
	page, err := s.historyPage(ctx, id, older, limit)
	if err == nil && len(page.Events) == 0 && before == "" {
		_, err = connectionWithID(ctx, s.db.dialect.readers(), id)
	}
	return page, s.db.failure(doing, err)
}

// Removed implements [credstore.History].
func (s history) Removed(ctx context.Context, name string) (id string, err error) {
	err = s.db.dialect.readers().QueryRowContext(ctx, `
		SELECT connection_id FROM events WHERE connection = $1 AND type = 'connection.removed' ORDER BY number DESC LIMIT 1`,
		name).Scan(&id)
	if err != nil {
		return "", s.db.failure(fmt.Sprintf("finding a removed connection %q", name), orNotFound(err))
	}
	return id, nil
}

// historyPage reads one event more than the limit, which shows whether there is a next
// page.
func (s history) historyPage(ctx context.Context, id string, older int64, limit int) (page credstore.HistoryPage, err error) {
	var last int64
	err = s.db.each(ctx, func(rows *sql.Rows) error {
		var number int64
		e, err := scanEvent(rows.Scan, &number)
		if len(page.Events) == limit {
			page.Next = cursorBefore(last)
			return err
		}
		last, page.Events = number, append(page.Events, e)
		return err
	}, `
		SELECT `+eventColumns+`, number FROM events WHERE number IN (
			SELECT number FROM events WHERE connection_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3)
		ORDER BY number DESC`, id, older, limit+1)
	return page, err
}

// cursorBefore returns the cursor of the page that begins before the number.
func cursorBefore(number int64) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "before %d", number))
}

// numberBefore is the inverse of cursorBefore. The first page begins after all numbers.
func numberBefore(cursor string) (int64, error) {
	if cursor == "" {
		return 1<<63 - 1, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	digits, ok := strings.CutPrefix(string(text), "before ")
	number, notNumber := strconv.ParseInt(digits, 10, 64)
	if err != nil || !ok || notNumber != nil {
		return 0, fmt.Errorf("%w: the cursor is not one that a history returned", credstore.ErrBadQuery)
	}
	return number, nil
}
