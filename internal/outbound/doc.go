// Package outbound reaches other servers: it builds HTTP transports, detects
// whether a request was written to its connection, and describes network errors
// without repeating what a server sent.
package outbound

// UserAgent identifies this program in requests of its own. Forwarded requests
// keep the value of their client.
const UserAgent = "pleo-auth-proxy"
