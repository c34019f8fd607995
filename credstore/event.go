package credstore

import (
	"context"
	"slices"
	"strings"
	"time"
)

// EventType says what happened to a connection.
type EventType string

// The types of events that webhooks can subscribe to; see [Outbox]. EventRecovered is
// the end of an EventReauthorizationRequired: that a connection was degraded for a
// while is in its history only.
const (
	EventConnected               EventType = "connection.connected"                // a customer gave consent or a key
	EventReauthorizationRequired EventType = "connection.reauthorization_required" // only a person can fix it
	EventRecovered               EventType = "connection.recovered"                // it works again
	EventKeyExpiring             EventType = "connection.key_expiring"             // its key expires soon, or has expired
	EventRemoved                 EventType = "connection.removed"
)

// The types of events that are in the history only.
const (
	EventCreated          EventType = "connection.created"           // without a credential
	EventImported         EventType = "connection.imported"          // created with a credential
	EventRefreshed        EventType = "connection.refreshed"         // a new token pair
	EventRefreshFailed    EventType = "connection.refresh_failed"    // with another error than before
	EventDegraded         EventType = "connection.degraded"          // refreshes fail
	EventCompanyLearned   EventType = "connection.company_learned"   // the owner of the credential
	EventCompanyOverride  EventType = "connection.company_override"  // another or a shared company was allowed
	EventKeySet           EventType = "connection.key_set"           // in place of one that worked
	EventKeyStaged        EventType = "connection.key_staged"        // to replace the current key later
	EventKeyPromoted      EventType = "connection.key_promoted"      // the staged key is the current one
	EventDisabled         EventType = "connection.disabled"          // nothing is sent with it
	EventEnabled          EventType = "connection.enabled"           //
	EventExported         EventType = "connection.exported"          // with its secrets, and disabled
	EventLinkCreated      EventType = "connection.link_created"      // a connect link
	EventConsentFailed    EventType = "connection.consent_failed"    // or a key was not accepted
	EventRefreshRequested EventType = "connection.refresh_requested" // by an operator
	EventRetryRequested   EventType = "connection.retry_requested"   // of a rejected refresh token
	EventNotDelivered     EventType = "connection.not_delivered"     // a webhook delivery was abandoned
)

// PublicEvents returns the types that webhooks can subscribe to.
func PublicEvents() []EventType {
	return []EventType{EventConnected, EventReauthorizationRequired, EventRecovered, EventKeyExpiring, EventRemoved}
}

// Public reports whether webhooks can subscribe to events of the type.
func (t EventType) Public() bool { return slices.Contains(PublicEvents(), t) }

// Frequent reports whether events of the type may be so many that they would displace
// more important ones in a bounded history.
func (t EventType) Frequent() bool {
	return slices.Contains([]EventType{
		EventRefreshed, EventRefreshFailed, EventDegraded, EventRefreshRequested, EventLinkCreated, EventConsentFailed, EventNotDelivered,
	}, t)
}

// A store keeps the latest MaxEvents events of each connection, besides them the latest
// MaxFrequentEvents that are Frequent, and none for longer than EventRetention. The
// history of a removed connection stays.
const (
	MaxEvents         = 150
	MaxFrequentEvents = 50
	EventRetention    = 400 * 24 * time.Hour
)

// Event is one entry of a connection's history. It holds nothing secret.
type Event struct {
	ID           string // unguessable, and never that of another event
	ConnectionID string
	Connection   string // its name at that time
	Type         EventType
	At           time.Time
	Actor        string // see [WithActor]

	Status  Status // after it
	Reason  string // of the status
	Version int64  // of the credential, after it

	Code    string // of the error, for programs; empty if there was none
	Message string // for people; see [CleanText]
}

// MaxTextLength is the maximum length of the text of an error, in bytes.
const MaxTextLength = 1000

// CleanText returns text as a store keeps it: as valid UTF-8 without NUL, truncated to
// MaxTextLength. It may come from a server and hold what a database does not accept.
func CleanText(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) <= MaxTextLength {
		return text
	}
	return strings.ToValidUTF8(text[:MaxTextLength], "")
}

// HistoryPage is one page of a connection's history.
type HistoryPage struct {
	Events []Event
	Next   string // the cursor of the next, older page; empty on the last
}

// The actors of events.
const (
	ActorProxy       = "proxy" // the program by itself
	ActorCustomer    = "customer"
	ActorCommandLine = "operator (command line)"
	ActorDashboard   = "operator (dashboard)"
	ActorBackOffice  = "back office"
)

type actorKey struct{}

// WithActor returns a context with which changes to a store are made by the actor.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// Actor returns the actor of the context: ActorProxy unless WithActor has set another.
func Actor(ctx context.Context) string {
	if actor, ok := ctx.Value(actorKey{}).(string); ok && actor != "" {
		return actor
	}
	return ActorProxy
}
