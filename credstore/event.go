package credstore

import (
	"context"
	"slices"
	"strings"
	"time"
)

// EventType says what happened to a connection.
type EventType string

// The types of events that others can subscribe to; see [Outbox]. A connection
// recovers from reauthorization_required only: that it was degraded for a while
// is in its history and nobody is told.
const (
	EventConnected               EventType = "connection.connected"                // consent or a key was given
	EventReauthorizationRequired EventType = "connection.reauthorization_required" // only a person can mend it
	EventRecovered               EventType = "connection.recovered"                // it works again
	EventKeyExpiring             EventType = "connection.key_expiring"             // its key ends soon, or has ended
	EventRemoved                 EventType = "connection.removed"
)

// The types of events that stand in the history only.
const (
	EventCreated          EventType = "connection.created"           // without a credential
	EventImported         EventType = "connection.imported"          // created with a credential
	EventRefreshed        EventType = "connection.refreshed"         // a new token pair
	EventRefreshFailed    EventType = "connection.refresh_failed"    // in another way than the time before
	EventDegraded         EventType = "connection.degraded"          // refreshes fail
	EventCompanyLearned   EventType = "connection.company_learned"   // whom the credential belongs to
	EventCompanyOverride  EventType = "connection.company_override"  // somebody allowed another or a shared company
	EventKeySet           EventType = "connection.key_set"           // in the place of one that worked
	EventKeyStaged        EventType = "connection.key_staged"        // to take the place of the present one later
	EventKeyPromoted      EventType = "connection.key_promoted"      // the staged key has taken that place
	EventDisabled         EventType = "connection.disabled"          // nothing is sent with it
	EventEnabled          EventType = "connection.enabled"           //
	EventExported         EventType = "connection.exported"          // with its secrets, and disabled
	EventLinkCreated      EventType = "connection.link_created"      // a connect link
	EventConsentFailed    EventType = "connection.consent_failed"    // or a key that was not taken
	EventRefreshRequested EventType = "connection.refresh_requested" // by hand
	EventRetryRequested   EventType = "connection.retry_requested"   // of a refused refresh token
	EventNotDelivered     EventType = "connection.not_delivered"     // a subscriber could not be told
)

// PublicEvents lists the types that others can subscribe to.
func PublicEvents() []EventType {
	return []EventType{EventConnected, EventReauthorizationRequired, EventRecovered, EventKeyExpiring, EventRemoved}
}

// Public reports whether others can subscribe to events of the type.
func (t EventType) Public() bool { return slices.Contains(PublicEvents(), t) }

// Frequent reports whether events of the type may come so often that they would
// drive what a person looks for out of a bounded history.
func (t EventType) Frequent() bool {
	return slices.Contains([]EventType{
		EventRefreshed, EventRefreshFailed, EventDegraded, EventRefreshRequested, EventLinkCreated, EventConsentFailed, EventNotDelivered,
	}, t)
}

// A store keeps of each connection's history the latest MaxEvents events, of
// those that are Frequent the latest MaxFrequentEvents beside them, and none
// for longer than EventRetention. The history of a removed connection stays.
const (
	MaxEvents         = 150
	MaxFrequentEvents = 50
	EventRetention    = 400 * 24 * time.Hour
)

// Event is one entry of a connection's history. It holds nothing secret.
type Event struct {
	ID           string // unguessable, and never that of another event
	ConnectionID string
	Connection   string // its name then
	Type         EventType
	At           time.Time
	Actor        string // who did it; see [WithActor]

	Status  Status // after it
	Reason  string // of the status
	Version int64  // of the credential, after it

	Code    string // for programs: what went wrong, if something did
	Message string // for people: more about it; see [CleanText]
}

// MaxTextLength is how long a text about what went wrong may be, in bytes.
const MaxTextLength = 1000

// CleanText returns a text as a store keeps it. It may come from a server, and
// hold what no database takes: it becomes valid UTF-8 without NUL, and is cut at
// MaxTextLength.
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

// Who does something, as the history names them.
const (
	ActorProxy       = "proxy" // the program by itself
	ActorCustomer    = "customer"
	ActorCommandLine = "operator (command line)"
	ActorDashboard   = "operator (dashboard)"
	ActorBackOffice  = "back office"
)

type actorKey struct{}

// WithActor returns a context whose changes to a store are done by the actor.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// Actor returns who changes a store with the context: ActorProxy unless
// WithActor said otherwise.
func Actor(ctx context.Context) string {
	if actor, ok := ctx.Value(actorKey{}).(string); ok && actor != "" {
		return actor
	}
	return ActorProxy
}
