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

// scanEvent reads the eventColumns, and into more what comes after.
func scanEvent(scan func(...any) error, more ...any) (e credstore.Event, err error) {
	var at sql.NullInt64
	err = scan(append([]any{
		&e.ID, &e.ConnectionID, &e.Connection, &e.Type, &at, &e.Actor, &e.Status, &e.Reason, &e.Version, &e.Code, &e.Message,
	}, more...)...)
	e.At = timeOf(at)
	return e, err
}

// record adds an event to the history of the connection, which is c after the
// change, and queues it for those who subscribe to it. Of e, the type, code and
// message count.
func (db *database) record(ctx context.Context, tx *sql.Tx, c credstore.Connection, e credstore.Event) error {
	number, err := db.addEvent(ctx, tx, c, e)
	if err != nil || !e.Type.Public() {
		return err
	}
	return db.queue(ctx, tx, c, e.Type, number)
}

// addEvent adds the event and forgets those that it drives out.
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

// recordFailure adds an event about what went wrong, unless it is what went
// wrong the time before too.
func (db *database) recordFailure(ctx context.Context, tx *sql.Tx, before, after credstore.Connection) error {
	e := credstore.Event{Type: credstore.EventRefreshFailed, Code: after.LastError.Code, Message: after.LastError.Message}
	if before.Status != after.Status {
		e.Type = credstore.EventDegraded
	} else if before.LastError != nil && before.LastError.Code == e.Code {
		return nil
	}
	return db.record(ctx, tx, after, e)
}

// recordStatus adds what follows from the status that a connection has come to:
// an alarm when it needs a person, the end of the alarm when it works again.
// Between the two the column alarmed is 1, and subscribers hear of the first
// alarm only.
func (db *database) recordStatus(ctx context.Context, tx *sql.Tx, c credstore.Connection) error {
	switch c.Status {
	case credstore.ReauthorizationRequired:
		return db.recordAlarm(ctx, tx, c)
	case credstore.Active:
		ended, err := affected(tx.ExecContext(ctx, `UPDATE connections SET alarmed = 0 WHERE id = $1 AND alarmed = 1`, c.ID))
		if err != nil || !ended {
			return err
		}
		return db.record(ctx, tx, c, credstore.Event{Type: credstore.EventRecovered})
	}
	return nil
}

func (db *database) recordAlarm(ctx context.Context, tx *sql.Tx, c credstore.Connection) error {
	e := credstore.Event{Type: credstore.EventReauthorizationRequired}
	if f := c.LastError; f != nil {
		e.Code, e.Message = f.Code, f.Message
	}
	return db.alarm(ctx, tx, c, e)
}

// alarm records that the connection needs a person. Subscribers are not told
// again before that has ended.
func (db *database) alarm(ctx context.Context, tx *sql.Tx, c credstore.Connection, e credstore.Event) error {
	first, err := affected(tx.ExecContext(ctx, `UPDATE connections SET alarmed = 1 WHERE id = $1 AND alarmed = 0`, c.ID))
	if err != nil {
		return err
	}
	if first {
		return db.record(ctx, tx, c, e)
	}
	_, err = db.addEvent(ctx, tx, c, e)
	return err
}

// RecordEvent adds an event by itself; see [credstore.Store].
func (s history) RecordEvent(ctx context.Context, id string, e credstore.Event) error {
	return s.db.transact(ctx, "noting an event", id, func(tx *sql.Tx) error {
		c, err := connectionWithID(ctx, tx, id)
		if err != nil {
			return err
		}
		return s.db.record(ctx, tx, c, e)
	})
}

// History returns a page of events; see [credstore.Store].
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
	page, err := s.db.historyPage(ctx, id, older, limit)
	if err == nil && len(page.Events) == 0 && before == "" {
		_, err = connectionWithID(ctx, s.db.dialect.readers(), id)
	}
	return page, s.db.failure(doing, err)
}

// Removed returns the id of a connection that was removed; see [credstore.Store].
func (s history) Removed(ctx context.Context, name string) (id string, err error) {
	err = s.db.dialect.readers().QueryRowContext(ctx, `
		SELECT connection_id FROM events WHERE connection = $1 AND type = 'connection.removed' ORDER BY number DESC LIMIT 1`,
		name).Scan(&id)
	if err != nil {
		return "", s.db.failure(fmt.Sprintf("finding a connection %q that was removed", name), orNotFound(err))
	}
	return id, nil
}

// historyPage reads all events of a connection that are older than the number,
// up to one more than the limit, which tells whether there is a next page.
func (db *database) historyPage(ctx context.Context, id string, older int64, limit int) (page credstore.HistoryPage, err error) {
	var last int64
	err = db.each(ctx, func(rows *sql.Rows) error {
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

// cursorBefore makes the cursor of the page that begins before the number.
func cursorBefore(number int64) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "before %d", number))
}

// numberBefore is the inverse of cursorBefore; for the first page it is beyond
// all numbers.
func numberBefore(cursor string) (int64, error) {
	if cursor == "" {
		return 1<<63 - 1, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	digits, ok := strings.CutPrefix(string(text), "before ")
	number, notNumber := strconv.ParseInt(digits, 10, 64)
	if err != nil || !ok || notNumber != nil {
		return 0, fmt.Errorf("%w: the cursor is not one that a history gave", credstore.ErrBadQuery)
	}
	return number, nil
}
