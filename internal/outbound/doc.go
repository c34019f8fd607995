// Package outbound builds HTTP transports and describes network errors.
//
// Descriptions of errors do not repeat what a server sent.
package outbound

// UserAgent identifies this program in requests of its own. Forwarded requests
// keep the value of their client.
const UserAgent = "pleo-auth-proxy"
