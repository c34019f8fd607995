package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// send asks with a body of JSON and the admin token.
func send(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:8485"
	r.Header.Set("Authorization", "Bearer "+adminToken)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// withLinks is an Admin's configuration with pages for customers.
func withLinks(c *Config) {
	withToken(c)
	c.Links = true
}

// TestCreateIsIdempotent: whoever lost the answer asks again, also twice at
// the same time.
func TestCreateIsIdempotent(t *testing.T) {
	store := &memoryStore{}
	h := newAdmin(t, store, withLinks).Handler()
	const body = `{"name":"acme","kind":"oauth","external_tenant":"4711"}`
	answers := make([]*httptest.ResponseRecorder, 20)
	var asking sync.WaitGroup
	for i := range answers {
		asking.Go(func() { answers[i] = send(h, "POST", "/api/v1/connections", body) })
	}
	asking.Wait()
	made := 0
	for _, w := range answers {
		var created CreateResponse
		if err := json.Unmarshal(w.Body.Bytes(), &created); err != nil {
			t.Fatal(err)
		}
		if w.Code == http.StatusCreated {
			made++
		} else if w.Code != http.StatusOK {
			t.Errorf("asking again = %d, want 200: %s", w.Code, w.Body)
		}
		if c := created.Connection; c.Name != "acme" || c.Status != "pending" || *c.ExternalTenant != "4711" {
			t.Errorf("created %+v, want acme, pending, of tenant 4711", c)
		}
		if created.ConnectURL == nil || !strings.HasSuffix(*created.ConnectURL, canaryLink+"-acme") {
			t.Errorf("connect_url = %v, want the link", created.ConnectURL)
		}
	}
	if made != 1 || len(store.connections) != 1 {
		t.Errorf("made %d times, and the store holds %d connections, want 1 and 1", made, len(store.connections))
	}
}

// concurrentRemoval is a store, and what is done with it, from which somebody else removes
// whatever is made.
type concurrentRemoval struct {
	Store
	manage.Actions
	taken bool // it is removed after its name was found taken, and not when a link is made
}

func (r concurrentRemoval) Create(ctx context.Context, n credstore.NewConnection) (credstore.Connection, error) {
	if r.taken {
		return credstore.Connection{}, &credstore.ConflictError{Err: credstore.ErrNameTaken, With: n.Name}
	}
	return r.Store.Create(ctx, n)
}

func (r concurrentRemoval) Link(context.Context, credstore.Connection, credstore.LinkRequest) (manage.Link, error) {
	return manage.Link{}, credstore.ErrNotFound
}

// TestCreateDuringRemoval has whoever creates try again.
func TestCreateDuringRemoval(t *testing.T) {
	for _, taken := range []bool{false, true} {
		store := &memoryStore{}
		r := concurrentRemoval{store, &fakeActions{store: store}, taken}
		h := newAdmin(t, store, func(c *Config) {
			withLinks(c)
			c.Store, c.Actions = r, r
		}).Handler()
		w := send(h, "POST", "/api/v1/connections", `{"name":"acme","kind":"oauth"}`)
		if got := problemCode(t, w); w.Code != http.StatusServiceUnavailable || got != "connection_busy" || w.Header().Get("Retry-After") == "" {
			t.Errorf("taken %v: %d %s, want 503 connection_busy and when to try again", taken, w.Code, got)
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
		h := newAdmin(t, &memoryStore{connections: []credstore.Connection{fullConnection()}}, withLinks).Handler()
		w := send(h, "POST", "/api/v1/connections", body)
		if got := problemCode(t, w); w.Code != http.StatusConflict || got != "connection_exists" {
			t.Errorf("%s: %d %s, want 409 connection_exists", name, w.Code, got)
		}
	}
}

// TestCreateWithMorePermissionsConflicts: what is asked for beyond what is there must not
// pass for done.
func TestCreateWithMorePermissionsConflicts(t *testing.T) {
	const body = `{"name":"acme","kind":"oauth","external_tenant":"t-1","allow_shared_company":true}`
	shared := fullConnection()
	shared.SharedCompany = true
	for _, test := range []struct {
		there credstore.Connection
		want  int
	}{{fullConnection(), http.StatusConflict}, {shared, http.StatusOK}} {
		w := send(newAdmin(t, &memoryStore{connections: []credstore.Connection{test.there}}, withLinks).Handler(), "POST", "/api/v1/connections", body)
		if w.Code != test.want {
			t.Errorf("the company may be shared already: %v: %d, want %d", test.there.SharedCompany, w.Code, test.want)
		}
		if w.Code == http.StatusConflict {
			if got := problemCode(t, w); got != "connection_exists" {
				t.Errorf("code %s, want connection_exists", got)
			}
		}
	}
}

// TestBodiesAreStrict: what is wrong is named, except for what may be a secret.
func TestBodiesAreStrict(t *testing.T) {
	const create, key = "/api/v1/connections", "/api/v1/connections/bare/key"
	for _, test := range []struct{ name, target, body, want string }{
		{"unknown field", create, `{"name":"a","kind":"oauth","tenant":"x"}`, `There is no field "tenant"; use allow_shared_company, external_tenant, kind, name, return_url, ttl.`},
		{"field of no body", "/api/v1/connections/acme/disable", `{"reason":"x"}`, `There is no field "reason"; this takes none.`},
		{"wrong type", create, `{"name":7}`, "The field name wants a text."},
		{"text for a bool", key, `{"api_key":"k","next":"yes"}`, "The field next wants true or false."},
		{"text for a time", key, `{"api_key":"k","expires_at":"soon"}`, "The field expires_at wants a time such as 2030-01-31T00:00:00Z."},
		{"other case", create, `{"Name":"a","kind":"oauth"}`, `There is no field "Name"; use allow_shared_company, external_tenant, kind, name, return_url, ttl.`},
		{"twice", create, `{"name":"a","name":"b"}`, `The field "name" is given twice.`},
		{"latin-1", create, `{"name":"a","kind":"oauth","external_tenant":"M` + "\xfc" + `ller"}`, "The body is not UTF-8."},
		{"list", create, `[]`, "The body is not one JSON object."},
		{"two documents", create, `{"name":"a","kind":"oauth"}{}`, "The body is not one JSON object."},
		{"cut off", create, `{"name":"a"`, "The body is not one JSON object."},
		{"cut off in a value", create, `{"name":"a`, "The body is not one JSON object."},
		{"no kind", create, `{"name":"a"}`, `Unknown kind "": use oauth, integrated_key or standalone_key.`},
		{"no name", create, `{"kind":"oauth"}`, "The name must have 1 to 128 letters, digits or . _ ~ : -, the first a letter or a digit."},
		{"half a pair of a tenant", create, `{"name":"a","kind":"oauth","external_tenant":"Caf\ud83d"}`, "The external tenant is not usable: it holds half a character, or U+FFFD, which stands for a lost one."},
		{"long tenant", create, `{"name":"a","kind":"oauth","external_tenant":"` + strings.Repeat("x", 257) + `"}`, "The external tenant is not usable: it takes up to 256 bytes without control characters."},
		{"key with a line break", key, `{"api_key":"` + canaryKey + `\n"}`, "The API key is missing, or holds spaces, line breaks or other characters that no key of Pleo's has."},
		{"key is a number", key, `{"api_key":123}`, "The field api_key wants a text."},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := &memoryStore{connections: []credstore.Connection{fullConnection(), bareConnection()}}
			w := send(newAdmin(t, store, withLinks).Handler(), "POST", test.target, test.body)
			if got := problemCode(t, w); w.Code != http.StatusBadRequest || got != "bad_request" {
				t.Errorf("%d %s, want 400 bad_request", w.Code, got)
			}
			var doc decodedProblem
			if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.Detail != test.want {
				t.Errorf("detail = %q, want %q", doc.Detail, test.want)
			}
			if len(store.connections) != 2 || len(store.events) != 0 {
				t.Error("something was changed")
			}
		})
	}
}

// TestMisplacedInputIsRejected: what stands where it does nothing is an error, and nothing
// is done.
func TestMisplacedInputIsRejected(t *testing.T) {
	const acme = "/api/v1/connections/acme"
	for _, test := range []struct{ name, method, target, body, want string }{
		{"fresh in the query", "POST", acme + "/link?fresh=1", `{}`, `There is no parameter "fresh"; this takes none.`},
		{"next in the query", "POST", "/api/v1/connections/bare/key?next=1", `{"api_key":"` + canaryKey + `"}`, `There is no parameter "next"; this takes none.`},
		{"tenant in the query", "POST", "/api/v1/connections?external_tenant=1", `{"name":"a","kind":"oauth"}`, `There is no parameter "external_tenant"; this takes none.`},
		{"reason in the query", "POST", acme + "/disable?reason=x", ``, `There is no parameter "reason"; this takes none.`},
		{"uninstall in the body", "DELETE", acme, `{"uninstall":true}`, `There is no field "uninstall"; this takes none.`},
		{"reading", "GET", acme + "?fields=name", ``, `There is no parameter "fields"; this takes none.`},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := &memoryStore{connections: []credstore.Connection{fullConnection(), bareConnection()}}
			w := send(newAdmin(t, store, withLinks).Handler(), test.method, test.target, test.body)
			var doc decodedProblem
			if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != http.StatusBadRequest || doc.Detail != test.want {
				t.Errorf("%d %q, want 400 %q", w.Code, doc.Detail, test.want)
			}
			if len(store.connections) != 2 || len(store.events) != 0 {
				t.Error("something was changed")
			}
		})
	}
}

// TestNullMeansAbsent, as programs write what they do not have.
func TestNullMeansAbsent(t *testing.T) {
	w := send(newAdmin(t, &memoryStore{}, withLinks).Handler(), "POST", "/api/v1/connections",
		`{"name":"a","kind":"oauth","external_tenant":null,"return_url":null,"ttl":null,"allow_shared_company":null}`)
	if w.Code != http.StatusCreated {
		t.Errorf("%d %s, want 201", w.Code, w.Body)
	}
}

// TestEveryChangeRequiresToken: also where everybody may read.
func TestEveryChangeRequiresToken(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection(), bareConnection()}}
	a := newAdmin(t, store, withLinks)
	h := a.Handler()
	changing := 0
	for _, r := range a.routes() {
		if !r.changes {
			continue
		}
		changing++
		target := strings.ReplaceAll(r.path, "{name}", "acme")
		for _, authorization := range []string{"", "Bearer wrong", "Basic " + adminToken} {
			w := request(h, r.method, target, map[string]string{"Authorization": authorization, "Content-Type": "application/json"})
			if code := problemCode(t, w); w.Code != http.StatusUnauthorized || code != "admin_token_required" {
				t.Errorf("%s %s with %q = %d %s, want 401", r.method, target, authorization, w.Code, code)
			}
		}
		// A browser that has signed in is not a program with the token.
		cookie := signIn(t, h)
		w := request(h, r.method, target, map[string]string{"Cookie": cookie})
		if w.Code != http.StatusUnauthorized {
			t.Errorf("%s %s with a session = %d, want 401", r.method, target, w.Code)
		}
	}
	if changing != 10 {
		t.Errorf("%d routes change something, want 10", changing)
	}
	if len(store.events) != 0 || len(store.connections) != 2 {
		t.Error("something was changed")
	}
}

// TestHistoryNamesActor: what comes by the API is the back office's doing, and
// what comes by a page the operator's.
func TestHistoryNamesActor(t *testing.T) {
	store := &memoryStore{connections: []credstore.Connection{fullConnection()}}
	h := newAdmin(t, store, withLinks).Handler()
	if w := send(h, "POST", "/api/v1/connections/acme/disable", ""); w.Code != http.StatusOK {
		t.Fatalf("disable = %d: %s", w.Code, w.Body)
	}
	b := signedIn(t, h)
	if w := b.submit("/connections/acme/enable", nil); w.Code != http.StatusSeeOther {
		t.Fatalf("enable = %d: %s", w.Code, w.Body)
	}
	w := request(h, "GET", "/api/v1/connections/acme/history", nil)
	var history manage.History
	if err := json.Unmarshal(w.Body.Bytes(), &history); err != nil {
		t.Fatal(err)
	}
	var did []string
	for _, e := range history.Events {
		did = append(did, e.Type+" by "+e.Actor)
	}
	const want = "[connection.enabled by operator (dashboard) connection.disabled by back office]"
	if got := fmt.Sprint(did); got != want {
		t.Errorf("history = %v, want %v", got, want)
	}
}

// TestHistoryOfRemovedConnection: what was done with a connection can be looked up
// after its removal too.
func TestHistoryOfRemovedConnection(t *testing.T) {
	store := &memoryStore{
		connections: []credstore.Connection{fullConnection()},
		events: []credstore.Event{
			{ID: "1", ConnectionID: "first", Connection: "gone", Type: credstore.EventRemoved, Actor: "somebody else"},
			{ID: "2", ConnectionID: "last", Connection: "gone", Type: credstore.EventExported, Actor: credstore.ActorCommandLine},
			{ID: "3", ConnectionID: "last", Connection: "gone", Type: credstore.EventRemoved, Actor: credstore.ActorDashboard},
		},
	}
	h := newAdmin(t, store, withLinks).Handler()
	w := request(h, "GET", "/api/v1/connections/gone/history", nil)
	if body := w.Body.String(); w.Code != http.StatusOK || !strings.Contains(body, "connection.exported") || strings.Contains(body, "somebody else") {
		t.Errorf("the history = %d: %s, want 200 and what happened to the last that had the name", w.Code, body)
	}
	w = request(h, "GET", "/connections/gone", nil)
	if body := w.Body.String(); w.Code != http.StatusGone || !strings.Contains(body, "This connection was removed") || !strings.Contains(body, credstore.ActorDashboard) {
		t.Errorf("its page = %d: %s, want 410 and what happened", w.Code, body)
	}
	for _, path := range []string{"/connections/nobody", "/api/v1/connections/nobody/history", "/connections/no%20name", "/api/v1/connections/gone"} {
		if w := request(h, "GET", path, nil); w.Code != http.StatusNotFound {
			t.Errorf("GET %s = %d, want 404", path, w.Code)
		}
	}
}

// TestNoSecretInResponsesPagesAndLogs plants an admin token, an API key and a
// connect link, does everything that can be done with them, well and badly, and
// looks for them. Only who asks for a link is shown it.
func TestNoSecretInResponsesPagesAndLogs(t *testing.T) {
	logs, entries := observer.New(zap.DebugLevel)
	store := &memoryStore{connections: []credstore.Connection{fullConnection(), bareConnection()}}
	actions := &fakeActions{store: store}
	h := newAdmin(t, store, func(c *Config) {
		withLinks(c)
		c.Actions, c.Logger = actions, zap.New(logs)
	}).Handler()
	b := signedIn(t, h)
	session := strings.TrimPrefix(b.cookie, plainCookie+"=")
	answers := map[string]*httptest.ResponseRecorder{}
	note := func(what string, w *httptest.ResponseRecorder) { answers[what] = w }
	for _, target := range []string{
		"/", "/?period=24h", "/connections", "/connections?q=" + canaryKey[7:], "/connections/acme", "/connections/bare",
		"/connections/bare/key", "/connections/acme/remove", "/new", "/sign-in", "/metrics", "/readyz?verbose",
		"/api/v1/connections", "/api/v1/connections/acme", "/api/v1/connections/acme/history", "/api/v1/openapi.yaml",
	} {
		note("GET "+target, b.open(target))
	}
	for _, err := range []error{nil, credstore.ErrUnavailable, credstore.ErrBusy} {
		actions.err = err
		note(fmt.Sprint("key by the API, ", err), send(h, "POST", "/api/v1/connections/bare/key", `{"api_key":"`+canaryKey+`"}`))
		note(fmt.Sprint("key by the page, ", err), b.submit("/connections/bare/key", map[string]string{"api_key": canaryKey}))
		note(fmt.Sprint("check, ", err), b.submit("/connections/acme/check", nil))
	}
	note("misspelt", send(h, "POST", "/api/v1/connections/bare/key", `{"api_key":["`+canaryKey+`"]}`))
	note("bad form", b.submit("/connections/bare/key", map[string]string{"api_key": canaryKey + "\n", "expires_on": "x"}))
	note("wrong token", b.post("/sign-in", map[string]string{"token": adminToken + "x"}))
	note("in the query", request(h, "POST", "/sign-in?token="+adminToken, nil))
	note("no such page", b.open("/connections/acme/"+canaryKey))
	note("after all", b.open("/connections/bare"))
	secrets := []string{adminToken, canaryKey, canaryLink, session}
	for what, w := range answers {
		for _, secret := range secrets {
			if strings.Contains(w.Body.String(), secret) || strings.Contains(fmt.Sprint(w.Header()), secret) {
				t.Errorf("%s shows %s:\n%v\n%s", what, secret, w.Header(), w.Body)
			}
		}
	}
	for _, e := range entries.All() {
		line := fmt.Sprint(e.Message, e.ContextMap())
		for _, secret := range secrets {
			if strings.Contains(line, secret) {
				t.Errorf("the log shows %s: %s", secret, line)
			}
		}
	}
	if len(actions.keys) != 2 || entries.Len() == 0 {
		t.Errorf("%d keys were set and %d lines logged, so that was not tried", len(actions.keys), entries.Len())
	}
}
