package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// subscriber is a row of the table subscriptions.
type subscriber struct {
	name  string
	event credstore.EventType
	delay time.Duration
}

// Subscribe implements [credstore.Outbox].
func (s outbox) Subscribe(ctx context.Context, subscriptions []credstore.Subscription) (ended []string, err error) {
	const doing = "subscribing to events"
	wanted, err := subscribers(subscriptions)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	stored, err := subscribersIn(ctx, s.db.dialect.readers(), ``)
	if err != nil || slices.Equal(stored, wanted) {
		return nil, s.db.failure(doing, err)
	}
	err = s.db.write(ctx, doing, func(tx *sql.Tx) error {
		if err := s.db.dialect.lockAll(ctx, tx); err != nil {
			return err
		}
		stored, err := subscribersIn(ctx, tx, ``)
		if err != nil {
			return err
		}
		ended = endedBy(wanted, stored)
		if _, err := tx.ExecContext(ctx, `DELETE FROM subscriptions`); err != nil {
			return err
		}
		for _, sub := range wanted {
			_, err := tx.ExecContext(ctx, `INSERT INTO subscriptions (name, type, delay) VALUES ($1, $2, $3)`,
				sub.name, sub.event, sub.delay.Milliseconds())
			if err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM deliveries WHERE subscription NOT IN (SELECT name FROM subscriptions)`)
		return err
	})
	return ended, err
}

// endedBy returns the names of stored subscriptions that are not in wanted, once each.
func endedBy(wanted, stored []subscriber) (names []string) {
	for _, sub := range stored {
		isIt := func(other subscriber) bool { return other.name == sub.name }
		if !slices.ContainsFunc(wanted, isIt) && !slices.Contains(names, sub.name) {
			names = append(names, sub.name)
		}
	}
	return names
}

// subscribers returns the rows for the subscriptions, sorted.
func subscribers(subscriptions []credstore.Subscription) (rows []subscriber, err error) {
	names := make(map[string]bool)
	for _, sub := range subscriptions {
		if names[sub.Name] {
			return nil, fmt.Errorf("duplicate subscription %q", sub.Name)
		}
		names[sub.Name] = true
		for _, t := range sub.Types {
			if !t.Public() {
				return nil, fmt.Errorf("subscription %q: events of type %q are not public", sub.Name, t)
			}
			rows = append(rows, subscriber{sub.Name, t, sub.Delay.Truncate(time.Millisecond)})
		}
	}
	slices.SortFunc(rows, subscriber.compare)
	return slices.CompactFunc(rows, func(a, b subscriber) bool { return a.compare(b) == 0 }), nil
}

func subscribersIn(ctx context.Context, q rowsQuerier, where string, args ...any) (rows []subscriber, err error) {
	err = each(ctx, q, func(r *sql.Rows) error {
		var sub subscriber
		var delay int64
		err := r.Scan(&sub.name, &sub.event, &delay)
		sub.delay = time.Duration(delay) * time.Millisecond
		rows = append(rows, sub)
		return err
	}, `SELECT name, type, delay FROM subscriptions `+where, args...)
	slices.SortFunc(rows, subscriber.compare)
	return rows, err
}

// queue adds a delivery for each subscription to events of the type. It is deleted with
// its event.
func (db *database) queue(ctx context.Context, tx *sql.Tx, c credstore.Connection, t credstore.EventType, event int64) error {
	var unsent []string // subscriptions to which the alarm that ends was not sent
	if t == credstore.EventRecovered {
		var err error
		if unsent, err = dropUnsentAlarms(ctx, tx, c.ID); err != nil {
			return err
		}
	}
	subs, err := subscribersIn(ctx, tx, `WHERE type = $1`, t)
	if err != nil || len(subs) == 0 {
		return err
	}
	about, err := json.Marshal(c)
	if err != nil {
		return err
	}
	for _, sub := range subs {
		if slices.Contains(unsent, sub.name) {
			continue
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO deliveries (subscription, event, connection_id, connection, due_at) VALUES ($1, $2, $3, $4, $5)`,
			sub.name, event, c.ID, string(about), db.now().Add(sub.delay).UnixMilli())
		if err != nil {
			return err
		}
	}
	return nil
}

// dropUnsentAlarms deletes the deliveries of alarms that no receiver has claimed, and
// returns their subscriptions, including those to alarms alone.
func dropUnsentAlarms(ctx context.Context, tx *sql.Tx, id string) (subscriptions []string, err error) {
	err = each(ctx, tx, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		subscriptions = append(subscriptions, name)
		return err
	}, `
		DELETE FROM deliveries WHERE connection_id = $1 AND attempts = 0
			AND event IN (SELECT number FROM events WHERE connection_id = $1 AND type = $2)
		RETURNING subscription`, id, credstore.EventReauthorizationRequired)
	return subscriptions, err
}

// isNextInOrder is true of a delivery d that is the earliest about its connection.
const isNextInOrder = `NOT EXISTS (SELECT 1 FROM deliveries AS earlier
	WHERE earlier.connection_id = d.connection_id AND earlier.subscription = d.subscription AND earlier.number < d.number)`

// ClaimDeliveries implements [credstore.Outbox]. A claimed delivery is due again when
// the claim ends.
func (s outbox) ClaimDeliveries(ctx context.Context, subscription, owner string, now time.Time, hold time.Duration, limit int) ([]credstore.Delivery, error) {
	const doing = "claiming deliveries"
	next, err := s.NextDelivery(ctx, subscription)
	if err != nil || next.IsZero() || next.After(now) {
		return nil, err // there is nothing to write
	}
	var claimed []credstore.Delivery
	err = s.db.write(ctx, doing, func(tx *sql.Tx) error {
		// A claim that waited for another one evaluates due_at again (PostgreSQL).
		numbers, err := numbersIn(ctx, tx, `
			UPDATE deliveries SET due_at = $1, owner = $2, attempts = attempts + 1
			WHERE due_at <= $3 AND number IN (
				SELECT number FROM deliveries AS d WHERE subscription = $4 AND due_at <= $3 AND `+isNextInOrder+`
				ORDER BY due_at, number LIMIT $5)
			RETURNING number`, now.Add(hold).UnixMilli(), owner, now.UnixMilli(), subscription, limit)
		if err != nil {
			return err
		}
		claimed, err = readDeliveries(ctx, tx, numbers)
		return err
	})
	return claimed, err
}

func numbersIn(ctx context.Context, q rowsQuerier, query string, args ...any) (numbers []int64, err error) {
	err = each(ctx, q, func(rows *sql.Rows) error {
		var n int64
		err := rows.Scan(&n)
		numbers = append(numbers, n)
		return err
	}, query, args...)
	slices.Sort(numbers)
	return numbers, err
}

func readDeliveries(ctx context.Context, tx *sql.Tx, numbers []int64) ([]credstore.Delivery, error) {
	found := make([]credstore.Delivery, 0, len(numbers))
	for _, n := range numbers {
		d := credstore.Delivery{ID: n}
		row := tx.QueryRowContext(ctx, `
			SELECT `+eventColumns+`, deliveries.connection, attempts, last_error FROM deliveries JOIN events ON events.number = event
			WHERE deliveries.number = $1`, n)
		var about []byte
		var err error
		if d.Event, err = scanEvent(row.Scan, &about, &d.Attempts, &d.LastError); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(about, &d.Connection); err != nil {
			return nil, fmt.Errorf("decoding the connection of a delivery: %w", err)
		}
		found = append(found, d)
	}
	return found, nil
}

// NextDelivery implements [credstore.Outbox].
func (s outbox) NextDelivery(ctx context.Context, subscription string) (time.Time, error) {
	var due sql.NullInt64
	err := s.db.dialect.readers().QueryRowContext(ctx, `
		SELECT due_at FROM deliveries AS d WHERE subscription = $1 AND `+isNextInOrder+` ORDER BY due_at LIMIT 1`, subscription).Scan(&due)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	return timeOf(due), s.db.failure("looking for deliveries", err)
}

// MarkDelivered implements [credstore.Outbox].
func (s outbox) MarkDelivered(ctx context.Context, id int64) error {
	return s.db.write(ctx, "deleting a delivery", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM deliveries WHERE number = $1`, id)
		return err
	})
}

// PostponeDelivery implements [credstore.Outbox].
func (s outbox) PostponeDelivery(ctx context.Context, id int64, next time.Time, lastError string) error {
	return s.db.write(ctx, "postponing a delivery", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE deliveries SET due_at = $2, owner = '', last_error = $3 WHERE number = $1`,
			id, next.UnixMilli(), credstore.CleanText(lastError))
		return err
	})
}

// AbandonDelivery implements [credstore.Outbox].
func (s outbox) AbandonDelivery(ctx context.Context, id int64, why string) error {
	return s.db.write(ctx, "abandoning a delivery", func(tx *sql.Tx) error {
		var subscription string
		row := tx.QueryRowContext(ctx, `
			SELECT `+eventColumns+`, subscription FROM deliveries JOIN events ON events.number = event WHERE deliveries.number = $1`, id)
		e, err := scanEvent(row.Scan, &subscription)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM deliveries WHERE number = $1`, id); err != nil {
			return err
		}
		c := credstore.Connection{ID: e.ConnectionID, Name: e.Connection, Status: e.Status, Reason: e.Reason, Version: e.Version}
		_, err = s.db.addEvent(ctx, tx, c, credstore.Event{
			Type: credstore.EventNotDelivered, Code: string(e.Type), Message: fmt.Sprintf("not delivered to %s: %s", subscription, why),
		})
		return err
	})
}

// compare orders rows by name, then type.
func (a subscriber) compare(b subscriber) int {
	return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.event, b.event))
}
