package api

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// list serves GET /api/v1/connections.
func (a *API) list(w http.ResponseWriter, r *http.Request) error {
	v, err := parameters(r.URL.RawQuery, "limit", "cursor", "status", "kind", "q")
	if err != nil {
		return err
	}
	q, err := manage.ParseQuery(v.Get("limit"), v.Get("cursor"), v.Get("status"), v.Get("kind"), v.Get("q"))
	if err != nil {
		return err
	}
	page, err := a.operator.Store.List(r.Context(), q)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, manage.DescribePage(page))
}

// show serves GET /api/v1/connections/NAME.
func (a *API) show(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r.URL.RawQuery); err != nil {
		return err
	}
	c, err := a.find(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, manage.Describe(c))
}

// history serves GET /api/v1/connections/NAME/history, also of a connection that
// was removed.
func (a *API) history(w http.ResponseWriter, r *http.Request) error {
	values, err := parameters(r.URL.RawQuery, "limit", "cursor")
	if err != nil {
		return err
	}
	limit, err := manage.ParseLimit(values.Get("limit"))
	if err != nil {
		return err
	}
	c, _, err := a.operator.FindWithRemoved(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	page, err := a.operator.Store.Events(r.Context(), c.ID, values.Get("cursor"), limit)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, manage.DescribeHistory(page))
}

// find returns the connection that the path names.
func (a *API) find(r *http.Request) (credstore.Connection, error) {
	return a.operator.Find(r.Context(), r.PathValue("name"))
}

// parameters parses a query that may have each of the named parameters once. All
// others are errors: a misspelled filter must not match everything.
func parameters(raw string, names ...string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, manage.NewProblem(manage.CodeBadRequest, "The query string is malformed.")
	}
	for name, given := range values {
		if !slices.Contains(names, name) {
			return nil, manage.NewProblem(manage.CodeBadRequest, "Unknown parameter %.40q; %s.", name, manage.SupportedNames(names))
		}
		if len(given) > 1 {
			return nil, manage.NewProblem(manage.CodeBadRequest, "The parameter %s occurs twice.", name)
		}
	}
	return values, nil
}

// boolParameter parses a parameter that is 1 for true, and 0 or absent for false.
func boolParameter(values url.Values, name string) (bool, error) {
	switch values.Get(name) {
	case "", "0":
		return false, nil
	case "1":
		return true, nil
	}
	return false, manage.NewProblem(manage.CodeBadRequest, "The parameter %s must be 1 or 0.", name)
}
