package credstore

import (
	"context"
	"time"
)

// Outbox keeps the deliveries of events to subscriptions. A delivery is queued in the
// transaction of its event: nothing is delivered that did not happen, and nothing that
// happened is lost in a crash. A delivery may be claimed, and therefore made, more
// than once.
type Outbox interface {
	// Subscribe replaces all subscriptions. Deliveries of a subscription that ends are
	// deleted; a new one gets no earlier events. Since processes that share a store
	// must agree, it returns the names of the subscriptions that it ended. Types that
	// are not public and duplicate names are errors.
	Subscribe(ctx context.Context, subscriptions []Subscription) (ended []string, err error)

	// ClaimDeliveries claims up to limit deliveries of the subscription that are due at
	// now and not claimed, for owner until now+hold. It returns only the earliest
	// delivery of a connection: the next one follows once that is gone.
	ClaimDeliveries(ctx context.Context, subscription, owner string, now time.Time, hold time.Duration, limit int) ([]Delivery, error)

	// NextDelivery returns when ClaimDeliveries may return a delivery of the
	// subscription, possibly in the past; zero if none is queued. [Changes.Watch]
	// reports when to ask again.
	NextDelivery(ctx context.Context, subscription string) (time.Time, error)

	// MarkDelivered deletes a delivery that was made. A delivery that does not exist is
	// no error, here and below.
	MarkDelivered(ctx context.Context, id int64) error

	// PostponeDelivery returns a claimed delivery to the queue, due at next.
	PostponeDelivery(ctx context.Context, id int64, next time.Time, lastError string) error

	// AbandonDelivery deletes a delivery, and records the reason in the history.
	AbandonDelivery(ctx context.Context, id int64, why string) error

	// KeysExpiring returns up to limit connections whose API key expires within that
	// time from now, or has expired, and for which RecordKeyExpiring was called neither
	// with that time nor a shorter one, the earliest first. It omits connections that
	// have a staged key with a later expiry, and those that cannot be used.
	KeysExpiring(ctx context.Context, within time.Duration, limit int) ([]Connection, error)

	// RecordKeyExpiring records an EventKeyExpiring, unless one was recorded for that
	// time or a shorter one, and the same key.
	RecordKeyExpiring(ctx context.Context, id string, within time.Duration) error
}

// Subscription selects the events that one receiver gets.
type Subscription struct {
	Name  string      // unique in a store
	Types []EventType // public ones
	// Delay is how long a delivery waits before it is due. An
	// EventReauthorizationRequired that has not been claimed when the connection
	// recovers is deleted, and the EventRecovered is not queued for the subscription.
	Delay time.Duration
}

// Delivery is an event to be sent to a subscription.
type Delivery struct {
	ID    int64
	Event Event
	// Connection is the connection right after the event, or before its removal.
	Connection Connection
	Attempts   int    // claims, including this one
	LastError  string // of PostponeDelivery
}
