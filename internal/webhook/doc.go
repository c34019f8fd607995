// Package webhook delivers events to webhooks.
//
// The store queues one delivery for each subscription, in the transaction of
// the event ([credstore.Outbox]). A delivery is claimed by one process at a
// time, in order for each connection:
//
//	queued ──claim──► claimed ──delivered─────────────► done
//	   ▲                 │──failed, retries left──────► queued, due later
//	   │                 │──failed, no retries left───► abandoned, noted in the history
//	   └──claim expires──┘  (the process was killed)
//
// So every event is delivered at least once. Repeated deliveries have the same id.
package webhook
