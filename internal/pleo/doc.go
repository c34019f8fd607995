// Package pleo knows what is particular to Pleo: its environments, consent, its token
// endpoint and introspection, and how each kind of credential goes on a request.
package pleo
