// Package pleo contains everything specific to Pleo: its environments, consent,
// token endpoint and introspection, and the authorization scheme of each kind of
// credential.
package pleo
