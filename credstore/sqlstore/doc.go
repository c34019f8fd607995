// Package sqlstore stores rows and takes locks and leases, on SQLite and
// PostgreSQL.
//
// The database is SQLite, embedded, for one host. Three tables hold a
// connection: what everybody may see of it and what decides whether a write
// applies (connections), what is sealed (credentials), and the intent
// outstanding (intents). Beside them stand what people did and are to be told:
// the history (events), who is told of it (subscriptions, deliveries), and the
// ways to give consent (links, consents). The SQL keeps to what PostgreSQL
// understands too; what does not is behind the dialect interface or in the
// sqlite_*.go files.
//
// Every write is one transaction that takes the write lock when it begins, so
// no write is decided on something that has changed since. A credential is
// saved by an UPDATE that names its parent, which makes the check part of the
// write.
//
// A Memory is the same database without files. Otherwise there are these, all
// readable by their owner only:
//
//	store.db          the database
//	store.db-wal      what is committed and not yet moved into it
//	store.db-shm      SQLite's index of the above
//	store.db.leases   empty; locked byte by byte, one byte per connection
package sqlstore
