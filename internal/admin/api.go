package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// listConnections answers GET /api/v1/connections.
func (a *Admin) listConnections(w http.ResponseWriter, r *http.Request) {
	q, bad := parseQuery(r.URL.RawQuery)
	if bad != nil {
		bad.write(w)
		return
	}
	page, err := a.store.List(r.Context(), q)
	if errors.Is(err, credstore.ErrBadQuery) {
		problemOf(codeBadRequest, "The cursor is not one that this listing gave.").write(w)
		return
	}
	if err != nil {
		a.storeProblem(w, r, err)
		return
	}
	writeJSON(w, DescribePage(page))
}

// parseQuery reads the parameters of a listing. Parameters that it does not
// know are errors: a misspelt filter must not pass for one that matches all.
func parseQuery(raw string) (credstore.Query, *problem) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return credstore.Query{}, badRequest("The query cannot be read.")
	}
	for name, given := range values {
		if !slices.Contains([]string{"limit", "cursor", "status", "q"}, name) {
			return credstore.Query{}, badRequest("There is no parameter %.40q; use limit, cursor, status and q.", name)
		}
		if len(given) > 1 {
			return credstore.Query{}, badRequest("The parameter %s is given twice.", name)
		}
	}
	limit, ok := parseLimit(values.Get("limit"))
	if !ok {
		return credstore.Query{}, badRequest("The limit must be a number from 1 to 200.")
	}
	status := credstore.Status(values.Get("status"))
	if status != "" && !slices.Contains(credstore.Statuses(), status) {
		return credstore.Query{}, badRequest("The status must be pending, active, degraded, reauthorization_required or disabled.")
	}
	return credstore.Query{Limit: limit, Cursor: values.Get("cursor"), Status: status, Search: values.Get("q")}, nil
}

// parseLimit returns 0, which means the store's default, for "".
func parseLimit(s string) (limit int, ok bool) {
	if s == "" {
		return 0, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 1 && n <= 200
}

// showConnection answers GET /api/v1/connections/NAME.
func (a *Admin) showConnection(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if !credstore.ValidName(name) {
		problemOf(codeConnectionUnknown, "This is not the name of a connection.").write(w)
		return
	}
	c, err := a.store.Find(r.Context(), name)
	if errors.Is(err, credstore.ErrNotFound) {
		p := problemOf(codeConnectionUnknown, fmt.Sprintf("There is no connection %q.", name))
		p.Connection = name
		p.write(w)
		return
	}
	if err != nil {
		a.storeProblem(w, r, err)
		return
	}
	writeJSON(w, Describe(c))
}

func (a *Admin) storeProblem(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the client has left; that says nothing about the store
	}
	a.logger.Warn("the admin API cannot read the store", zap.Error(err))
	problemOf(codeStoreUnavailable, "The store cannot be read at the moment.").write(w)
}
