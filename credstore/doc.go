// Package credstore keeps connections and their sealed credentials, and lets
// one process at a time change one credential.
//
// It has two halves. The words: [Connection], [Credential], [Parent],
// [Intent], [Secret], and the [Store] that keeps them. And the seal: [Keyset]
// encrypts what a store writes, bound to the connection and the column it
// stands in.
//
// What people do with a connection is part of the first: a connect [Link] by
// which they give [Consent] or a key, the [Replacement] that comes of it, the
// [Event]s of its history, and the [Outbox] of those that others are told.
//
// Stores live in packages of their own (sqlstore), and prove that they keep
// the promises made here by running the suite in credstoretest.
package credstore
