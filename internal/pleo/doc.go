// Package pleo contains everything specific to Pleo: environments, token
// endpoint, introspection, authorization schemes.
package pleo
