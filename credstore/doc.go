// Package credstore defines connections, credentials, the status machine and
// what a store guarantees.
//
// A [Connection] is a named link between one Pleo company and one tenant of the
// external system. Its [Credential] is an OAuth token pair or an API key, whose
// values are [Secret]s. A process takes the [Lease] on a credential to change
// it. Before it sends a refresh token it records an [Intent], and the new pair
// is saved only in place of its [Parent].
//
// A [Store] keeps them, together with the connect links and consents by which
// customers provide credentials, the history of [Event]s, and the outbox of events
// for webhooks. Stores live in packages of their own (sqlstore) and run the suite in
// credstoretest.
package credstore
