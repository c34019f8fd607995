package api

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

// handler is an [http.HandlerFunc] that returns an error unless it has begun to
// write a response.
type handler func(http.ResponseWriter, *http.Request) error

// route is one operation of the API.
type route struct {
	method  string
	path    string // with {name} for the name of a connection
	changes bool   // requires the admin token on every listener
	handler handler
}

// routes returns the operations of the API, which openapi.yaml describes.
func (a *API) routes() []route {
	const (
		all  = "/api/v1/connections"
		one  = all + "/{name}"
		read = false
	)
	return []route{
		{http.MethodGet, "/api/v1/openapi.yaml", read, showOpenAPI},
		{http.MethodGet, all, read, a.list},
		{http.MethodPost, all, true, a.create},
		{http.MethodGet, one, read, a.show},
		{http.MethodDelete, one, true, a.remove},
		{http.MethodGet, one + "/history", read, a.history},
		{http.MethodPost, one + "/link", true, a.link},
		{http.MethodPost, one + "/check", true, a.withoutBody(a.check)},
		{http.MethodPost, one + "/refresh", true, a.withoutBody(a.refresh)},
		{http.MethodPost, one + "/retry", true, a.withoutBody(describeChange(a.operator.Retry))},
		{http.MethodPost, one + "/disable", true, a.withoutBody(describeChange(a.operator.Disable))},
		{http.MethodPost, one + "/enable", true, a.withoutBody(describeChange(a.operator.Enable))},
		{http.MethodPost, one + "/key", true, a.setKey},
		{http.MethodGet, "/api/v1/export", read, a.exportAll},
		{http.MethodPost, "/api/v1/import", true, a.importLines},
	}
}

// register adds the routes, and 405 responses for other methods.
func (a *API) register(mux *http.ServeMux) {
	allowed := map[string][]string{} // path → methods
	for _, r := range a.routes() {
		require := a.access.requireReader
		if r.changes {
			require = a.access.requireToken
		}
		mux.HandleFunc(r.method+" "+r.path, require(a.writeErrors(r.handler)))
		allowed[r.path] = append(allowed[r.path], r.method)
	}
	for path, methods := range allowed {
		rejectOtherMethods(mux, path, methods...)
	}
}

// handleGet serves GET and HEAD of the path and rejects other methods.
func handleGet(mux *http.ServeMux, path string, h http.HandlerFunc) {
	mux.HandleFunc("GET "+path, h)
	rejectOtherMethods(mux, path, http.MethodGet)
}

func rejectOtherMethods(mux *http.ServeMux, path string, methods ...string) {
	if slices.Contains(methods, http.MethodGet) {
		methods = append(methods, http.MethodHead)
	}
	slices.Sort(methods)
	allow := strings.Join(methods, ", ")
	mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", allow)
		writeProblem(w, manage.NewProblem(manage.CodeMethodNotSupported, "This address supports only %s.", allow))
	})
}

// writeErrors writes errors of h as problem documents.
func (a *API) writeErrors(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(credstore.WithActor(r.Context(), credstore.ActorBackOffice))
		err := h(w, r)
		if err == nil || webguard.ClientGone(r, err) {
			return
		}
		p := a.operator.Problem(err)
		if name := r.PathValue("name"); credstore.ValidName(name) {
			p.Connection = name
		}
		writeProblem(w, p)
	}
}

func writeProblem(w http.ResponseWriter, p *webguard.Problem) {
	_, _ = p.Write(w) // fails only if the client has left
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // fails only if the client has left
	return nil
}

//go:embed openapi.yaml
var openAPI []byte

// showOpenAPI serves GET /api/v1/openapi.yaml.
func showOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(openAPI) // fails only if the client has left
	return nil
}
