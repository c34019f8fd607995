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
// schedule.go.
package refresh
