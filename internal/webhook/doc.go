// Package webhook tells others what happens to connections: webhooks in the form
// of Standard Webhooks, and the log.
//
// A store queues what is to be told in the transaction in which it happens, one
// delivery for each subscription ([credstore.Outbox]). Here they are claimed and
// made, by one process at a time, in order for each connection:
//
//	queued ──claim──► claimed ──told──────────────► gone
//	   ▲                 │──failed, tries left─────► queued, due later
//	   │                 │──failed, none left──────► given up, noted in the history
//	   └──hold lapses────┘  (the process was killed)
//
// So everything is told at least once, and twice with the same id.
package webhook
