package manage

import (
	"slices"
	"strconv"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// ParseQuery returns the query of a listing from its parameters. Empty ones are
// left out.
func ParseQuery(limit, cursor, status, kind, search string) (credstore.Query, error) {
	q := credstore.Query{Cursor: cursor, Status: credstore.Status(status), Kind: credstore.Kind(kind), Search: search}
	n, err := ParseLimit(limit)
	switch {
	case err != nil:
		return q, err
	case status != "" && !slices.Contains(credstore.Statuses(), q.Status):
		return q, NewProblem(CodeBadRequest, "The status must be pending, active, degraded, reauthorization_required or disabled.")
	case kind != "" && !slices.Contains(credstore.Kinds(), q.Kind):
		return q, NewProblem(CodeBadRequest, "The kind must be oauth, integrated_key or standalone_key.")
	}
	q.Limit = n
	return q, nil
}

// ParseLimit returns how many entries a page has. An empty limit is 0, which means
// the default of the store.
func ParseLimit(limit string) (int, error) {
	if limit == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(limit)
	if err != nil || n < 1 || n > maxPageSize {
		return 0, NewProblem(CodeBadRequest, "The limit must be a number from 1 to %d.", maxPageSize)
	}
	return n, nil
}
