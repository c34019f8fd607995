// Package refresh refreshes OAuth tokens: one refresh per connection at a time,
// durable before use.
//
// A [Manager] gives requests the authorization of their connection. The sequence
// of one refresh is [refresher.refresh] in refresh.go; reading it from top to
// bottom is reading the protocol:
//
//	Authorize, Reauthorize        authorize.go   a request needs a token
//	  scheduler.start             schedule.go    one flight per connection, detached from the request
//	    refresher.run             refresh.go
//	      waitTurn                               the spool is replayed, there is room for another refresh
//	      acquireLease                           one process at a time
//	      loadState                              another process may have refreshed
//	      checkPreconditions                     is it needed, and allowed now?
//	      checkSuccessor                         may the token have been exchanged already?
//	      breaker.Allow                          are many connections rejected?
//	      recordIntent                           spool record reserved, intent written
//	      send                                   the refresh token leaves
//	        recorder.record       outcome.go     no tokens: what that means for the connection
//	        saver.complete        save.go        tokens: into the store or the spool, then to the waiters
//
// Files depend only on files further down in this list: manager.go; authorize.go,
// keys.go; consent.go; replace.go; schedule.go; refresh.go; save.go, outcome.go;
// leased.go; company.go; core.go; cache.go; entry.go; metrics.go; flight.go,
// check.go; introspection.go, health.go; lifecycle.go; authorization.go; config.go;
// store.go. The exceptions are the methods of Manager in the files after manager.go,
// and a callback: a flight that lands calls the scheduler, which sets the timer for
// the next refresh.
//
// A consent has a sequence of its own, [consents.run] in consent.go. An API key is
// never refreshed; package apikey decides about it, keys.go asks it to.
package refresh
