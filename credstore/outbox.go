package credstore

import (
	"context"
	"time"
)

// Outbox keeps, beside a [Store], what others are to be told about connections.
// What is queued is queued in the transaction of the event itself, so that
// nothing is told that did not happen, and nothing that happened is forgotten in
// a crash. A delivery may be claimed, and so made, more than once. Errors are
// those of Store.
type Outbox interface {
	// Subscribe replaces all subscriptions. What is queued for one that is gone
	// is dropped; what happened before is not queued for a new one. Processes
	// that share a store have to agree, so it returns the names of those that it
	// ended. It returns an error about types that are not public and names that
	// are there twice.
	Subscribe(ctx context.Context, subscriptions []Subscription) (ended []string, err error)

	// ClaimDeliveries returns up to limit deliveries of the subscription that
	// are due at now and that nobody holds, and gives them to owner until
	// now+hold. Of a connection it gives only the earliest there is: the next
	// one when that is gone.
	ClaimDeliveries(ctx context.Context, subscription, owner string, now time.Time, hold time.Duration, limit int) ([]Delivery, error)

	// NextDelivery returns when ClaimDeliveries may have something to give for
	// the subscription, which may be in the past; zero when nothing is queued.
	// [Store.Watch] tells when to ask again.
	NextDelivery(ctx context.Context, subscription string) (time.Time, error)

	// MarkDelivered forgets a delivery, since it was made. One that is gone already
	// is no error, here and below.
	MarkDelivered(ctx context.Context, id int64) error

	// PostponeDelivery gives a claimed delivery back, due at next.
	PostponeDelivery(ctx context.Context, id int64, next time.Time, lastError string) error

	// AbandonDelivery gives a delivery up, and says why in the history.
	AbandonDelivery(ctx context.Context, id int64, why string) error

	// KeysExpiring returns up to limit connections whose API key ends within
	// that time from now, or has ended, and of which RecordKeyExpiring was told neither
	// for that time nor a shorter one, the earliest first. Those with a staged
	// key that lasts longer are left out, as are those that are of no use now.
	KeysExpiring(ctx context.Context, within time.Duration, limit int) ([]Connection, error)

	// RecordKeyExpiring writes an EventKeyExpiring, unless that was done for that time or
	// a shorter one, and for the same key, before.
	RecordKeyExpiring(ctx context.Context, id string, within time.Duration) error
}

// Subscription is who is to be told of which events.
type Subscription struct {
	Name  string      // what it is called in the store; at most once in a set
	Types []EventType // public ones
	// Delay is how long an event waits before it is due. An EventReauthorizationRequired
	// that has not been claimed yet when the connection recovers is dropped, and
	// the EventRecovered is not queued for the subscription.
	Delay time.Duration
}

// Delivery is an event that a subscriber is to be told.
type Delivery struct {
	ID    int64
	Event Event
	// Connection is what it was right after the event, whatever has become of it
	// since; of one that was removed, what it was last.
	Connection Connection
	Attempts   int    // how often it was claimed, this time included
	LastError  string // of PostponeDelivery
}
