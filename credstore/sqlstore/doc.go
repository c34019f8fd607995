// Package sqlstore stores rows, takes locks and leases, on SQLite and PostgreSQL. What
// becomes of a connection is decided by [credstore.Apply].
//
// Three tables hold a connection: its public state and what decides whether a write
// applies (connections), its encrypted secrets (credentials), and the outstanding
// intent (intents). Others hold the history (events), what webhooks get
// (subscriptions, deliveries), and the ways to give consent (links, consents). The SQL
// is restricted to what both databases understand; the rest is behind the dialect
// interface, in the files sqlite_*.go and postgres_*.go.
//
// Every write is one transaction that locks the connection when it begins, so no write
// is decided on a state that has changed since.
//
// The files of an SQLite database are readable by their owner only:
//
//	store.db          the database
//	store.db-wal      committed transactions that are not in it yet
//	store.db-shm      SQLite's index of the above
//	store.db.leases   empty; locked byte by byte, one byte per connection
//
// A [Memory] is an SQLite database without files.
package sqlstore
