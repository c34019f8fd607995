package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage/managetest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// node is an object of the OpenAPI document.
type node = map[string]any

// openAPIDocument is the OpenAPI document, and the responses that calls have
// produced. A schema of OpenAPI 3.1 is one of JSON Schema (2020-12).
type openAPIDocument struct {
	t        *testing.T
	root     node
	compiler *jsonschema.Compiler
	seen     map[string]bool // METHOD path status
}

const contractURL = "file:///openapi.json"

func readOpenAPI(t *testing.T) *openAPIDocument {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal(openAPI, &doc); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	root, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := &openAPIDocument{t: t, root: root.(node), compiler: jsonschema.NewCompiler(), seen: map[string]bool{}}
	c.close(at(c.root, "components", "schemas"))
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource(contractURL, c.root); err != nil {
		t.Fatal(err)
	}
	return c
}

// close makes members that are in no schema errors. Clients must ignore them, but
// here they would be undocumented.
func (c *openAPIDocument) close(schemas node) {
	for _, schema := range schemas {
		if s := schema.(node); s["type"] == "object" {
			s["additionalProperties"] = false
		}
	}
}

// at returns the object at the end of the path.
func at(from node, path ...string) node {
	for _, name := range path {
		next, ok := from[name].(node)
		if !ok {
			return nil
		}
		from = next
	}
	return from
}

// resolve follows a reference.
func (c *openAPIDocument) resolve(n node) node {
	if ref, ok := n["$ref"].(string); ok {
		return at(c.root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	return n
}

// check validates the value against a schema of the document.
func (c *openAPIDocument) check(what string, schema node, value any) {
	c.t.Helper()
	ref, ok := schema["$ref"].(string)
	if !ok {
		return // no JSON, or an empty object
	}
	compiled, err := c.compiler.Compile(contractURL + ref)
	if err != nil {
		c.t.Fatalf("the schema of %s: %v", what, err)
	}
	if err := compiled.Validate(value); err != nil {
		c.t.Errorf("%s does not match its schema: %v", what, err)
	}
}

// operation returns the description of a route.
func (c *openAPIDocument) operation(method, path string) node {
	return at(c.root, "paths", path, strings.ToLower(method))
}

// checkResponse validates a response against the document, and records it.
func (c *openAPIDocument) checkResponse(method, path string, w *httptest.ResponseRecorder) {
	c.t.Helper()
	what := fmt.Sprintf("%s %s %d", method, path, w.Code)
	described, ok := at(c.operation(method, path), "responses")[strconv.Itoa(w.Code)].(node)
	if !ok {
		c.t.Errorf("%s is not documented: %s", what, w.Body)
		return
	}
	c.seen[what] = true
	media := w.Header().Get("Content-Type")
	schema := at(c.resolve(described), "content", media, "schema")
	if schema == nil {
		c.t.Errorf("%s has media type %s, which is not documented", what, media)
		return
	}
	if !strings.HasSuffix(media, "json") || media == mediaTypeNDJSON {
		return
	}
	value, err := jsonschema.UnmarshalJSON(w.Body)
	if err != nil {
		c.t.Errorf("%s: %v", what, err)
		return
	}
	c.check(what, schema, value)
}

// examples returns the examples of a route's request body.
func (c *openAPIDocument) examples(op node) map[string]any {
	body := at(c.resolve(at(op, "requestBody")), "content", c.media(op))
	if example, ok := body["example"]; ok {
		return map[string]any{"": example}
	}
	all := map[string]any{}
	for name, example := range at(body, "examples") {
		all[name] = example.(node)["value"]
	}
	return all
}

// media returns the media type of a route's request body.
func (c *openAPIDocument) media(op node) string {
	for media := range at(c.resolve(at(op, "requestBody")), "content") {
		return media
	}
	return ""
}

// apiCall is a request to the API with the status of its response.
type apiCall struct {
	method, path string // as in the description
	name         string // find the connection; empty: acme
	query        string
	body         string
	media        string // find the body; empty: application/json
	change       func(*http.Request)
	err          error // find what is to be done
	storeDown    bool
	noLinks      bool // no pages for customers
	want         int
}

func noToken(r *http.Request) { r.Header.Del("Authorization") }
func noType(r *http.Request)  { r.Header.Del("Content-Type") }

// handlerFor returns an API on a store with one connection of each kind, one of
// them with a rejected refresh token.
func handlerFor(t *testing.T, c apiCall) http.Handler {
	t.Helper()
	rejected := managetest.BareConnection()
	rejected.ID, rejected.Name, rejected.Kind, rejected.Status = "r", "rejected", credstore.OAuth, credstore.ReauthorizationRequired
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), managetest.BareConnection(), managetest.KeyedConnection(), rejected}}
	store.Record(t.Context(), store.Connections[0], credstore.EventRefreshed)
	if c.storeDown {
		store.Err = credstore.ErrUnavailable
	}
	return newTestAPI(t, store, func(config *Config) {
		exposed(config)
		(&managetest.Pleo{Store: store, Err: c.err}).Attach(config.Operator)
		if !c.noLinks {
			config.Operator.Links = managetest.Links{Store: store}
		}
		config.Operator.ReturnURLs = []string{"https://erp.example.com/done"}
	}).Handler(http.NotFoundHandler())
}

// send sends the call to an API of its own.
func (c apiCall) send(t *testing.T) *httptest.ResponseRecorder {
	t.Helper()
	return c.sendTo(t, handlerFor(t, c))
}

func (c apiCall) sendTo(t *testing.T, h http.Handler) *httptest.ResponseRecorder {
	t.Helper()
	name := c.name
	if name == "" {
		name = "acme"
	}
	target := strings.ReplaceAll(c.path, "{name}", name) + c.query
	r := httptest.NewRequest(c.method, target, strings.NewReader(c.body))
	r.Host = "127.0.0.1:8485"
	r.Header.Set("Authorization", "Bearer "+managetest.AdminToken)
	if c.body != "" {
		media := "application/json"
		if c.media != "" {
			media = c.media
		}
		r.Header.Set("Content-Type", media)
	}
	if c.change != nil {
		c.change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestOpenAPI compares the document with the handlers in both directions: every
// route, every status of every route, every member of every response and every
// field of every body.
func TestOpenAPI(t *testing.T) {
	c := readOpenAPI(t)
	var routes, described []string
	for _, r := range apiRoutes(t) {
		routes = append(routes, r.method+" "+r.path)
	}
	for path, item := range at(c.root, "paths") {
		for method := range item.(node) {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(routes)
	slices.Sort(described)
	if diff := cmp.Diff(described, routes); diff != "" {
		t.Fatalf("routes (-documented +served):\n%s", diff)
	}
	for _, call := range openAPICalls(t) {
		w := call.send(t)
		if w.Code != call.want {
			t.Errorf("%s %s%s %s = %d, want %d: %s", call.method, call.path, call.query, call.body, w.Code, call.want, w.Body)
		}
		c.checkResponse(call.method, call.path, w)
	}
	c.runExamples()
	c.checkAllSeen()
}

func apiRoutes(t *testing.T) []route {
	t.Helper()
	return newTestAPI(t, &managetest.Store{}, nil).routes()
}

// runExamples sends the examples of all bodies, which must succeed.
func (c *openAPIDocument) runExamples() {
	c.t.Helper()
	for _, r := range apiRoutes(c.t) {
		if r.method != http.MethodPost {
			continue
		}
		op := c.operation(r.method, r.path)
		examples := c.examples(op)
		if len(examples) == 0 {
			c.t.Errorf("%s %s has no example of its body", r.method, r.path)
		}
		media := c.media(op)
		schema := at(c.resolve(at(op, "requestBody")), "content", media, "schema")
		for name, example := range examples {
			c.check("the example "+name+" of "+r.path, schema, example)
			body, ok := example.(string)
			if !ok {
				raw, err := json.Marshal(example)
				if err != nil {
					c.t.Fatal(err)
				}
				body = string(raw)
			}
			w := apiCall{method: r.method, path: r.path, name: connectionFor(r.path), body: body, media: media}.send(c.t)
			if w.Code >= 300 {
				c.t.Errorf("the example %s of %s = %d: %s", name, r.path, w.Code, w.Body)
			}
			c.checkResponse(r.method, r.path, w)
		}
	}
}

// connectionFor returns a connection for which the action is possible.
func connectionFor(path string) string {
	switch path[strings.LastIndexByte(path, '/')+1:] {
	case "key":
		return "keyed"
	case "retry":
		return "rejected"
	}
	return "acme"
}

// checkAllSeen reports documented responses that no call has produced.
func (c *openAPIDocument) checkAllSeen() {
	c.t.Helper()
	for path, item := range at(c.root, "paths") {
		for method, op := range item.(node) {
			if method == "parameters" {
				continue
			}
			for status := range at(op.(node), "responses") {
				if what := fmt.Sprintf("%s %s %s", strings.ToUpper(method), path, status); !c.seen[what] {
					c.t.Errorf("%s is documented, but no call has produced it", what)
				}
			}
		}
	}
}

// openAPICalls returns calls that produce every documented response.
func openAPICalls(t *testing.T) []apiCall {
	const (
		all, one = "/api/v1/connections", "/api/v1/connections/{name}"
		in, out  = "/api/v1/import", "/api/v1/export"
	)
	calls := []apiCall{
		{method: "GET", path: "/api/v1/openapi.yaml", want: 200},
		{method: "GET", path: all, query: "?limit=2&status=degraded&kind=oauth&q=acme", want: 200},
		{method: "GET", path: all, query: "?limit=1", want: 200},
		{method: "GET", path: all, query: "?kind=key", want: 400},
		{method: "GET", path: one, want: 200},
		{method: "GET", path: one, name: "bare", want: 200},
		{method: "GET", path: one, query: "?fields=name", want: 400},
		{method: "GET", path: one + "/history", want: 200},
		{method: "GET", path: one + "/history", query: "?limit=1&cursor=e999", want: 200},
		{method: "GET", path: one + "/history", query: "?cursor=!", want: 400},
		{method: "GET", path: one + "/history", query: "?before=e1", want: 400},
		{method: "DELETE", path: one, query: "?uninstall=1", want: 200},
		{method: "DELETE", path: one, query: "?uninstall=yes", want: 400},
		{method: "DELETE", path: one, body: "{" + strings.Repeat(" ", maxBodySize) + "}", want: 413},
		{method: "DELETE", path: one, body: "{}", change: noType, want: 415},
		{method: "POST", path: all, body: `{"name":"new","kind":"oauth","return_url":"https://erp.example.com/done"}`, want: 201},
		{method: "POST", path: all, body: `{"name":"new","kind":"oauth"}`, noLinks: true, want: 201},
		{method: "POST", path: all, body: `{"name":"acme","kind":"oauth","external_tenant":"t-1"}`, want: 200},
		{method: "POST", path: all, body: `{"name":"acme","kind":"oauth"}`, want: 409},
		{method: "POST", path: all, body: `{"name":"Acme","kind":"oauth"}`, want: 409},
		{method: "POST", path: all, body: `{"name":"new","kind":"oauth","return_url":"https://erp.example.com/done/"}`, want: 400},
		{method: "POST", path: all, body: `{"name":"new","kind":"oauth","ttl":"1h","allow_shared_company":true}`, want: 201},
		{method: "POST", path: one + "/link", body: `{"return_url":"https://erp.example.com/done","ttl":"1h30m"}`, want: 200},
		{method: "POST", path: one + "/link", body: `{"ttl":"-1h"}`, want: 400},
		{method: "POST", path: one + "/link", body: `{"ttl":3600}`, want: 400},
		{method: "POST", path: one + "/link", body: `{"ttl":"2161h"}`, want: 400},
		{method: "POST", path: one + "/link", noLinks: true, want: 409},
		{method: "POST", path: one + "/check", want: 200},
		{method: "POST", path: one + "/refresh", want: 200},
		{method: "POST", path: one + "/refresh", err: manage.ErrRefreshPending, want: 202},
		{method: "POST", path: one + "/refresh", err: &manage.NotPossibleError{Connection: "acme", Reason: "is disabled"}, want: 409},
		{method: "POST", path: one + "/refresh", err: &manage.RefreshError{Code: "busy", Message: "the server responded with 429"}, want: 502},
		{method: "POST", path: one + "/refresh", err: credstore.ErrBusy, want: 503},
		{method: "POST", path: one + "/retry", want: 409},
		{method: "POST", path: one + "/retry", name: "rejected", want: 200},
		{method: "POST", path: one + "/key", body: `{"api_key":"k"}`, want: 409},
		{method: "POST", path: one + "/key", name: "bare", body: `{"api_key":"k"}`, err: pleo.ErrUnauthorized, want: 422},
		{method: "POST", path: one + "/key", name: "bare", body: `{"api_key":"k"}`, err: &pleo.StatusError{Status: 500}, want: 502},
		{method: "POST", path: one + "/key", name: "bare", body: `{"api_key":"k"}`, err: errors.New("timed out"), want: 502},
		{method: "POST", path: one + "/key", name: "bare", body: `{"api_key":"k"}`, err: apikey.ErrWrongEnvironment, want: 422},
		{method: "POST", path: one + "/key", name: "bare", body: `{"api_key":"k"}`, err: apikey.ErrSameKey, want: 409},
		{method: "POST", path: one + "/key", name: "bare", body: `{"api_key":"k"}`, err: &refresh.Error{Code: refresh.StoreUnavailable}, want: 503},
		{method: "POST", path: one + "/key", name: "bare", body: `{"api_key":"k"}`, err: &credstore.OtherCompanyError{}, want: 409},
		{method: "POST", path: one + "/key", name: "bare", body: `{"api_key":"k"}`, err: &credstore.ConflictError{Err: credstore.ErrCompanyBound, With: "other"}, want: 409},
		{method: "POST", path: one + "/key", name: "bare", want: 400},
		{method: "POST", path: one + "/key", name: "bare", body: `{"api_key":"k","next":true}`, want: 409},
		{method: "POST", path: in, query: "?offline=1&allow_shared_company=1", body: "{}\n" + importLine, media: mediaTypeNDJSON, want: 200},
		{method: "POST", path: in, want: 200},
		{method: "POST", path: in, query: "?offline=yes", want: 400},
		{method: "POST", path: in, query: "?allow_shared_company=", body: importLine, media: mediaTypeJSONL, want: 200},
		{method: "POST", path: in, body: strings.Repeat(" ", maxImportSize+1), media: mediaTypeNDJSON, want: 413},
		{method: "POST", path: in, body: importLine, want: 415},
		{method: "GET", path: out, want: 200},
		{method: "GET", path: out, query: "?with_secrets=1", want: 400},
		{method: "POST", path: one + "/key", name: "bare", body: `{"api_key":"k","expires_at":"2001-01-01T00:00:00Z"}`, want: 400},
	}
	for _, r := range apiRoutes(t) {
		calls = append(calls, apiCall{method: r.method, path: r.path, change: noToken, want: 401})
		if r.path == "/api/v1/openapi.yaml" {
			continue
		}
		if strings.Contains(r.path, "{name}") {
			calls = append(calls, apiCall{method: r.method, path: r.path, name: "unknown", body: bodyFor(r), want: 404})
		}
		calls = append(calls, apiCall{method: r.method, path: r.path, body: bodyFor(r), media: mediaFor(r), storeDown: true, want: 503})
		if r.method == http.MethodPost && r.path != in {
			calls = append(calls,
				apiCall{method: r.method, path: r.path, body: `{"nmae":"x"}`, want: 400},
				apiCall{method: r.method, path: r.path, body: "{" + strings.Repeat(" ", maxBodySize) + "}", want: 413},
				apiCall{method: r.method, path: r.path, body: "{}", change: noType, want: 415})
		}
	}
	return calls
}

// importLine is a valid line of an import.
const importLine = `{"name":"brought","kind":"oauth","refresh_token":"r"}`

// mediaFor returns the media type of bodyFor.
func mediaFor(r route) string {
	if r.path == "/api/v1/import" {
		return mediaTypeNDJSON
	}
	return ""
}

// bodyFor returns a valid body.
func bodyFor(r route) string {
	switch {
	case r.path == "/api/v1/connections" && r.method == http.MethodPost:
		return `{"name":"new","kind":"oauth"}`
	case strings.HasSuffix(r.path, "/key"):
		return `{"api_key":"k"}`
	case strings.HasSuffix(r.path, "/import"):
		return importLine
	}
	return ""
}

// TestOpenAPIRequestFields compares the fields of request bodies. Responses are
// covered by TestOpenAPI.
func TestOpenAPIRequestFields(t *testing.T) {
	c := readOpenAPI(t)
	line := manage.Fields{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[manage.ConnectionLine]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		line[name] = nil
	}
	for name, fields := range map[string]manage.Fields{
		"NewConnection": new(createRequest).fields(),
		"LinkRequest":   new(linkRequest).fields(),
		"NewKey":        new(keyRequest).fields(),
		"ImportLine":    line,
	} {
		described := slices.Sorted(maps.Keys(at(c.root, "components", "schemas", name, "properties")))
		if diff := cmp.Diff(described, slices.Sorted(maps.Keys(fields))); diff != "" {
			t.Errorf("fields of %s (-documented +read):\n%s", name, diff)
		}
	}
}

// TestOpenAPIWebhooks compares the documented events with those that are sent.
func TestOpenAPIWebhooks(t *testing.T) {
	c := readOpenAPI(t)
	body := at(c.root, "webhooks", "connectionEvent", "post", "requestBody", "content", "application/json", "schema")
	described, _ := at(c.resolve(body), "properties", "type")["enum"].([]any)
	var sent []any
	for _, e := range credstore.PublicEvents() {
		sent = append(sent, string(e))
		raw, err := json.Marshal(map[string]any{"type": e, "timestamp": time.Now().UTC(), "data": manage.Describe(managetest.FullConnection())})
		if err != nil {
			t.Fatal(err)
		}
		message, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		c.check("the message "+string(e), body, message)
	}
	if diff := cmp.Diff(described, sent); diff != "" {
		t.Errorf("event types (-documented +sent):\n%s", diff)
	}
}
