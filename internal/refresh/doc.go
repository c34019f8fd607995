// Package refresh keeps the credentials that requests are sent with fresh: one
// refresh at a time per connection, saved before it is handed out.
package refresh
