// Package refresh keeps the credentials that requests are sent with fresh: one
// refresh at a time per connection, saved before it is handed out.
//
// A [Manager] holds one entry per connection in use. The way of a refresh, and
// the file each step is in:
//
//	request ──► Authorize / Reauthorize            manager.go
//	                 │ token expired, or refused with a 401
//	                 ▼
//	             flight: one per connection,       flight.go
//	             detached from whoever asked
//	                 ▼
//	             lease ─► read again ─► needed?    attempt.go
//	                 ▼
//	             spool record reserved, intent     attempt.go, spool.go
//	             written, token sent
//	                 ▼
//	             what the answer means             settle.go
//	                 ▼
//	             saved (or spooled), then          save.go
//	             memory, then the waiters
//
// Refreshes ahead of expiry and the keep-alive of idle connections start in
// schedule.go. What may keep a token from being presented has files of its own:
// oracle.go asks introspection, brake.go stops when many are refused at once,
// witness.go when the store was restored from a backup. API keys, which are
// never refreshed, are judged in keys.go; uninstall.go ends a grant that a
// request has ended.
package refresh
