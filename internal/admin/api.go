package admin

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// route is one operation of the API.
type route struct {
	method  string
	path    string // with {name} for the name of a connection
	changes bool   // something, so that the admin token is needed everywhere
	handler handler
}

// routes are the operations of the API: all that openapi.yaml describes.
func (a *Admin) routes() []route {
	const (
		all  = "/api/v1/connections"
		one  = all + "/{name}"
		read = false
	)
	return []route{
		{http.MethodGet, "/api/v1/openapi.yaml", read, showOpenAPI},
		{http.MethodGet, all, read, a.listConnections},
		{http.MethodPost, all, true, a.createConnection},
		{http.MethodGet, one, read, a.showConnection},
		{http.MethodDelete, one, true, a.removeConnection},
		{http.MethodGet, one + "/history", read, a.showHistory},
		{http.MethodPost, one + "/link", true, a.makeLink},
		{http.MethodPost, one + "/check", true, a.withoutBody(a.checkConnection)},
		{http.MethodPost, one + "/refresh", true, a.withoutBody(a.refreshConnection)},
		{http.MethodPost, one + "/retry", true, a.withoutBody(a.retryConnection)},
		{http.MethodPost, one + "/disable", true, a.withoutBody(a.disableConnection)},
		{http.MethodPost, one + "/enable", true, a.withoutBody(a.enableConnection)},
		{http.MethodPost, one + "/key", true, a.setKey},
		{http.MethodGet, "/api/v1/export", read, a.exportConnections},
		{http.MethodPost, "/api/v1/import", true, a.importConnections},
	}
}

// serveAPI puts the routes on the mux, and an answer for other methods.
func (a *Admin) serveAPI(mux *http.ServeMux) {
	allowed := map[string][]string{} // path → methods
	for _, r := range a.routes() {
		guarded := a.requireReader
		if r.changes {
			guarded = a.requireToken
		}
		mux.HandleFunc(r.method+" "+r.path, guarded(a.handleErrors(r.handler)))
		allowed[r.path] = append(allowed[r.path], r.method)
	}
	for path, methods := range allowed {
		rejectOtherMethods(mux, path, methods...)
	}
}

// rejectOtherMethods answers requests for the path with other methods.
func rejectOtherMethods(mux *http.ServeMux, path string, methods ...string) {
	if slices.Contains(methods, http.MethodGet) {
		methods = append(methods, http.MethodHead)
	}
	slices.Sort(methods)
	allow := strings.Join(methods, ", ")
	mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", allow)
		writeProblem(w, manage.NewProblem(manage.CodeMethodNotSupported, "This address takes %s only.", allow))
	})
}

// listConnections answers GET /api/v1/connections.
func (a *Admin) listConnections(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	page, err := a.store.List(r.Context(), q)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, manage.DescribePage(page))
}

// parseQuery reads the parameters of a listing.
func parseQuery(raw string) (credstore.Query, error) {
	values, err := parameters(raw, listParameters()...)
	if err != nil {
		return credstore.Query{}, err
	}
	return listQuery(values)
}

// listParameters are the parameters of a listing.
func listParameters() []string { return []string{"limit", "cursor", "status", "kind", "q"} }

// listQuery returns what the parameters of a listing select.
func listQuery(values url.Values) (q credstore.Query, err error) {
	q = credstore.Query{
		Cursor: values.Get("cursor"),
		Status: credstore.Status(values.Get("status")),
		Kind:   credstore.Kind(values.Get("kind")),
		Search: values.Get("q"),
	}
	if q.Limit, err = parseLimit(values.Get("limit")); err != nil {
		return q, err
	}
	if q.Status != "" && !slices.Contains(credstore.Statuses(), q.Status) {
		return q, manage.NewProblem(manage.CodeBadRequest, "The status must be pending, active, degraded, reauthorization_required or disabled.")
	}
	if q.Kind != "" && !slices.Contains(credstore.Kinds(), q.Kind) {
		return q, manage.NewProblem(manage.CodeBadRequest, "The kind must be oauth, integrated_key or standalone_key.")
	}
	return q, nil
}

// parameters reads a query that may have the named parameters once each. Others
// are errors: a misspelt filter must not pass for one that matches all.
func parameters(raw string, names ...string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, manage.NewProblem(manage.CodeBadRequest, "The query cannot be read.")
	}
	for name, given := range values {
		if !slices.Contains(names, name) {
			return nil, manage.NewProblem(manage.CodeBadRequest, "There is no parameter %.40q%s.", name, allowedNames(names))
		}
		if len(given) > 1 {
			return nil, manage.NewProblem(manage.CodeBadRequest, "The parameter %s is given twice.", name)
		}
	}
	return values, nil
}

// boolParameter reads a parameter that is 1 for yes, and 0 or left out for no.
func boolParameter(values url.Values, name string) (bool, error) {
	switch values.Get(name) {
	case "", "0":
		return false, nil
	case "1":
		return true, nil
	}
	return false, manage.NewProblem(manage.CodeBadRequest, "The parameter %s must be 1 or 0.", name)
}

// parseLimit returns 0, which means the store's default, for "".
func parseLimit(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 200 {
		return 0, manage.NewProblem(manage.CodeBadRequest, "The limit must be a number from 1 to 200.")
	}
	return n, nil
}

// find returns the connection that the path names.
func (a *Admin) find(r *http.Request) (credstore.Connection, error) {
	name := r.PathValue("name")
	if !credstore.ValidName(name) {
		return credstore.Connection{}, manage.NewProblem(manage.CodeConnectionUnknown, "This is not the name of a connection.")
	}
	c, err := a.store.Find(r.Context(), name)
	if errors.Is(err, credstore.ErrNotFound) {
		return c, manage.NewProblem(manage.CodeConnectionUnknown, "There is no connection %q.", name)
	}
	return c, err
}

// findRemoved returns the id of the connection that was removed last of those with the
// name in the path, or else the error of find, which found none.
func (a *Admin) findRemoved(r *http.Request, unknown error) (id string, err error) {
	name := r.PathValue("name")
	if p := new(webguard.Problem); !errors.As(unknown, &p) || p.Code != manage.CodeConnectionUnknown || !credstore.ValidName(name) {
		return "", unknown
	}
	id, err = a.store.Removed(r.Context(), name)
	if errors.Is(err, credstore.ErrNotFound) {
		return "", unknown
	}
	return id, err
}

// showConnection answers GET /api/v1/connections/NAME.
func (a *Admin) showConnection(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r.URL.RawQuery); err != nil {
		return err
	}
	c, err := a.find(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, manage.Describe(c))
}

// showHistory answers GET /api/v1/connections/NAME/history, also of a connection
// that was removed.
func (a *Admin) showHistory(w http.ResponseWriter, r *http.Request) error {
	values, err := parameters(r.URL.RawQuery, "limit", "cursor")
	if err != nil {
		return err
	}
	limit, err := parseLimit(values.Get("limit"))
	if err != nil {
		return err
	}
	c, err := a.find(r)
	id := c.ID
	if err != nil {
		id, err = a.findRemoved(r, err)
	}
	if err != nil {
		return err
	}
	page, err := a.store.History(r.Context(), id, values.Get("cursor"), limit)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, manage.DescribeHistory(page))
}
