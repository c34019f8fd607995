package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage/managetest"
)

// send sends a request with the admin token and a JSON body.
func send(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:8485"
	r.Header.Set("Authorization", "Bearer "+managetest.AdminToken)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// withLinks configures an admin token and connect links.
func withLinks(c *Config) {
	withToken(c)
	c.Operator.Links = managetest.Links{Store: c.Operator.Store}
}

// TestCreateIsIdempotent repeats a request, as a client does that lost the
// response, also concurrently.
func TestCreateIsIdempotent(t *testing.T) {
	store := &managetest.Store{}
	h := newTestAPI(t, store, withLinks).Handler(http.NotFoundHandler())
	const body = `{"name":"acme","kind":"oauth","external_tenant":"4711"}`
	responses := make([]*httptest.ResponseRecorder, 20)
	var requests sync.WaitGroup
	for i := range responses {
		requests.Go(func() { responses[i] = send(h, "POST", "/api/v1/connections", body) })
	}
	requests.Wait()
	made := 0
	for _, w := range responses {
		var created CreateResponse
		if err := json.Unmarshal(w.Body.Bytes(), &created); err != nil {
			t.Fatal(err)
		}
		if w.Code == http.StatusCreated {
			made++
		} else if w.Code != http.StatusOK {
			t.Errorf("repeated request = %d, want 200: %s", w.Code, w.Body)
		}
		if c := created.Connection; c.Name != "acme" || c.Status != "pending" || *c.ExternalTenant != "4711" {
			t.Errorf("created %+v, want acme, pending, tenant 4711", c)
		}
		if created.ConnectURL == nil || !strings.HasSuffix(*created.ConnectURL, managetest.CanaryLink+"-acme") {
			t.Errorf("connect_url = %v, want the link", created.ConnectURL)
		}
	}
	if made != 1 || len(store.Connections) != 1 {
		t.Errorf("created %d times, %d connections in the store, want 1 and 1", made, len(store.Connections))
	}
}

// concurrentRemoval is a store from which another process removes every
// connection that is created.
type concurrentRemoval struct {
	manage.Store
	taken bool // removed after its name was found taken, and not when its link is created
}

func (r concurrentRemoval) Create(ctx context.Context, n credstore.NewConnection) (credstore.Connection, error) {
	if r.taken {
		return credstore.Connection{}, &credstore.ConflictError{Err: credstore.ErrNameTaken, With: n.Name}
	}
	return r.Store.Create(ctx, n)
}

func (r concurrentRemoval) Issue(context.Context, string, credstore.LinkRequest) (string, credstore.Link, error) {
	return "", credstore.Link{}, credstore.ErrNotFound
}

// TestCreateDuringRemoval checks that the client is asked to try again.
func TestCreateDuringRemoval(t *testing.T) {
	for _, taken := range []bool{false, true} {
		store := &managetest.Store{}
		r := concurrentRemoval{store, taken}
		h := newTestAPI(t, store, func(c *Config) {
			withToken(c)
			c.Operator.Store, c.Operator.Links = r, r
		}).Handler(http.NotFoundHandler())
		w := send(h, "POST", "/api/v1/connections", `{"name":"acme","kind":"oauth"}`)
		if got := problemCode(t, w); w.Code != http.StatusServiceUnavailable || got != "connection_busy" || w.Header().Get("Retry-After") == "" {
			t.Errorf("taken %v: %d %s, want 503 connection_busy with Retry-After", taken, w.Code, got)
		}
	}
}

func TestCreateConflictingConnection(t *testing.T) {
	for name, body := range map[string]string{
		"other kind":   `{"name":"acme","kind":"standalone_key","external_tenant":"t-1"}`,
		"other tenant": `{"name":"acme","kind":"oauth","external_tenant":"t-2"}`,
		"no tenant":    `{"name":"acme","kind":"oauth"}`,
		"other case":   `{"name":"ACME","kind":"oauth","external_tenant":"t-1"}`,
	} {
		h := newTestAPI(t, &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}, withLinks).Handler(http.NotFoundHandler())
		w := send(h, "POST", "/api/v1/connections", body)
		if got := problemCode(t, w); w.Code != http.StatusConflict || got != "connection_exists" {
			t.Errorf("%s: %d %s, want 409 connection_exists", name, w.Code, got)
		}
	}
}

// TestCreateWithMorePermissionsConflicts checks that a repeated request which
// allows more than the existing connection is not reported as done.
func TestCreateWithMorePermissionsConflicts(t *testing.T) {
	const body = `{"name":"acme","kind":"oauth","external_tenant":"t-1","allow_shared_company":true}`
	shared := managetest.FullConnection()
	shared.SharedCompany = true
	for _, test := range []struct {
		there credstore.Connection
		want  int
	}{{managetest.FullConnection(), http.StatusConflict}, {shared, http.StatusOK}} {
		w := send(newTestAPI(t, &managetest.Store{Connections: []credstore.Connection{test.there}}, withLinks).Handler(http.NotFoundHandler()), "POST", "/api/v1/connections", body)
		if w.Code != test.want {
			t.Errorf("existing connection allows sharing %v: %d, want %d", test.there.SharedCompany, w.Code, test.want)
		}
		if w.Code == http.StatusConflict {
			if got := problemCode(t, w); got != "connection_exists" {
				t.Errorf("code %s, want connection_exists", got)
			}
		}
	}
}

// TestBodiesAreStrict checks that errors name what is wrong, but not values that
// may be secret.
func TestBodiesAreStrict(t *testing.T) {
	const create, key = "/api/v1/connections", "/api/v1/connections/bare/key"
	for _, test := range []struct{ name, target, body, want string }{
		{"unknown field", create, `{"name":"a","kind":"oauth","tenant":"x"}`, `Unknown field "tenant"; supported are allow_shared_company, external_tenant, kind, name, return_url, ttl.`},
		{"field of no body", "/api/v1/connections/acme/disable", `{"reason":"x"}`, `Unknown field "reason"; none are supported.`},
		{"wrong type", create, `{"name":7}`, "The field name must be a string."},
		{"text for a bool", key, `{"api_key":"k","next":"yes"}`, "The field next must be true or false."},
		{"text for a time", key, `{"api_key":"k","expires_at":"soon"}`, "The field expires_at must be a time such as 2030-01-31T00:00:00Z."},
		{"other case", create, `{"Name":"a","kind":"oauth"}`, `Unknown field "Name"; supported are allow_shared_company, external_tenant, kind, name, return_url, ttl.`},
		{"twice", create, `{"name":"a","name":"b"}`, `The field name occurs twice.`},
		{"latin-1", create, `{"name":"a","kind":"oauth","external_tenant":"M` + "\xfc" + `ller"}`, "The input is not valid UTF-8."},
		{"list", create, `[]`, "The input is not a single JSON object."},
		{"two documents", create, `{"name":"a","kind":"oauth"}{}`, "The input is not a single JSON object."},
		{"cut off", create, `{"name":"a"`, "The input is not a single JSON object."},
		{"cut off in a value", create, `{"name":"a`, "The input is not a single JSON object."},
		{"no kind", create, `{"name":"a"}`, `Unknown kind "": use oauth, integrated_key or standalone_key.`},
		{"no name", create, `{"kind":"oauth"}`, "The name must have 1 to 128 letters, digits or . _ ~ : -, the first a letter or a digit."},
		{"unpaired surrogate in tenant", create, `{"name":"a","kind":"oauth","external_tenant":"Caf\ud83d"}`, "The external tenant must not have invalid UTF-8 or the replacement character U+FFFD."},
		{"long tenant", create, `{"name":"a","kind":"oauth","external_tenant":"` + strings.Repeat("x", 257) + `"}`, "The external tenant must have at most 256 bytes and no control characters."},
		{"key with a line break", key, `{"api_key":"` + managetest.CanaryKey + `\n"}`, "The token or key contains spaces, control characters or characters that are not ASCII, so it cannot be one of Pleo's."},
		{"number for a key", key, `{"api_key":123}`, "The field api_key must be a string."},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), managetest.BareConnection()}}
			w := send(newTestAPI(t, store, withLinks).Handler(http.NotFoundHandler()), "POST", test.target, test.body)
			if got := problemCode(t, w); w.Code != http.StatusBadRequest || got != "bad_request" {
				t.Errorf("%d %s, want 400 bad_request", w.Code, got)
			}
			var doc decodedProblem
			if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.Detail != test.want {
				t.Errorf("detail = %q, want %q", doc.Detail, test.want)
			}
			if len(store.Connections) != 2 || len(store.Recorded) != 0 {
				t.Error("something was changed")
			}
		})
	}
}

// TestMisplacedInputIsRejected checks that input in a place where it would have
// no effect is an error, and that nothing is changed.
func TestMisplacedInputIsRejected(t *testing.T) {
	const acme = "/api/v1/connections/acme"
	for _, test := range []struct{ name, method, target, body, want string }{
		{"fresh in the query", "POST", acme + "/link?fresh=1", `{}`, `Unknown parameter "fresh"; none are supported.`},
		{"next in the query", "POST", "/api/v1/connections/bare/key?next=1", `{"api_key":"` + managetest.CanaryKey + `"}`, `Unknown parameter "next"; none are supported.`},
		{"tenant in the query", "POST", "/api/v1/connections?external_tenant=1", `{"name":"a","kind":"oauth"}`, `Unknown parameter "external_tenant"; none are supported.`},
		{"reason in the query", "POST", acme + "/disable?reason=x", ``, `Unknown parameter "reason"; none are supported.`},
		{"uninstall in the body", "DELETE", acme, `{"uninstall":true}`, `Unknown field "uninstall"; none are supported.`},
		{"reading", "GET", acme + "?fields=name", ``, `Unknown parameter "fields"; none are supported.`},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), managetest.BareConnection()}}
			w := send(newTestAPI(t, store, withLinks).Handler(http.NotFoundHandler()), test.method, test.target, test.body)
			var doc decodedProblem
			if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != http.StatusBadRequest || doc.Detail != test.want {
				t.Errorf("%d %q, want 400 %q", w.Code, doc.Detail, test.want)
			}
			if len(store.Connections) != 2 || len(store.Recorded) != 0 {
				t.Error("something was changed")
			}
		})
	}
}

func TestNullMeansAbsent(t *testing.T) {
	w := send(newTestAPI(t, &managetest.Store{}, withLinks).Handler(http.NotFoundHandler()), "POST", "/api/v1/connections",
		`{"name":"a","kind":"oauth","external_tenant":null,"return_url":null,"ttl":null,"allow_shared_company":null}`)
	if w.Code != http.StatusCreated {
		t.Errorf("%d %s, want 201", w.Code, w.Body)
	}
}

// TestEveryChangeRequiresToken checks a listener on which reading requires none.
func TestEveryChangeRequiresToken(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), managetest.BareConnection()}}
	a := newTestAPI(t, store, withLinks)
	h := a.Handler(http.NotFoundHandler())
	changing := 0
	for _, r := range a.routes() {
		if !r.changes {
			continue
		}
		changing++
		target := strings.ReplaceAll(r.path, "{name}", "acme")
		for _, authorization := range []string{"", "Bearer wrong", "Basic " + managetest.AdminToken} {
			w := request(h, r.method, target, map[string]string{"Authorization": authorization, "Content-Type": "application/json"})
			if code := problemCode(t, w); w.Code != http.StatusUnauthorized || code != "admin_token_required" {
				t.Errorf("%s %s with %q = %d %s, want 401", r.method, target, authorization, w.Code, code)
			}
		}
	}
	if changing != 10 {
		t.Errorf("%d routes change something, want 10", changing)
	}
	if len(store.Recorded) != 0 || len(store.Connections) != 2 {
		t.Error("something was changed")
	}
}
