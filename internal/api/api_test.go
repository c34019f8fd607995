package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage/managetest"
)

// newTestAPI returns an API on the store.
func newTestAPI(t *testing.T, store *managetest.Store, change func(*Config)) *API {
	t.Helper()
	c := Config{Operator: managetest.NewOperator(store), Gatherer: prometheus.NewPedanticRegistry(), AllowedHosts: []string{"Ops.Example.com"}}
	if change != nil {
		change(&c)
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(h http.Handler, method, target string, header map[string]string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "127.0.0.1:8485"
	for name, value := range header {
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// decodedProblem is a problem document as clients read it.
type decodedProblem struct {
	Type, Title, Detail, Code, Message, Connection string
	Status                                         int
}

// problemCode returns the code of a problem document, and checks the members that
// all of them have.
func problemCode(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	if got, want := w.Header().Get("Content-Type"), "application/problem+json"; got != want {
		t.Errorf("Content-Type = %q, want %q", got, want)
	}
	var doc decodedProblem
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatalf("the problem is not JSON: %v", err)
	}
	if doc.Status != w.Code || doc.Detail == "" || doc.Message != doc.Detail || doc.Title == "" {
		t.Errorf("problem = %+v, want status %d and the same detail and message", doc, w.Code)
	}
	if want := "urn:pleo-auth-proxy:problem:" + doc.Code; doc.Type != want {
		t.Errorf("type = %q, want %q", doc.Type, want)
	}
	return doc.Code
}

func TestShowConnection(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), managetest.BareConnection()}}
	h := newTestAPI(t, store, nil).Handler(http.NotFoundHandler())
	for name, want := range map[string]string{
		"acme": `{"name":"acme","kind":"oauth","status":"degraded","reason":"refresh_unavailable",
			"company_id":"11111111-2222-3333-4444-555555555555","company_name":"Acme","subject":"urn:pleo:company:1",
			"external_tenant":"t-1","version":7,"expires_at":"2030-01-02T02:04:05Z","refreshed_at":"2030-01-02T02:04:05Z",
			"last_error":{"code":"busy","message":"the authorization server responded with 429","at":"2030-01-02T02:04:05Z"},
			"created_at":"2030-01-02T02:04:05Z"}`,
		"bare": `{"name":"bare","kind":"standalone_key","status":"pending","reason":null,"company_id":null,"company_name":null,
			"subject":null,"external_tenant":null,"version":null,"expires_at":null,"refreshed_at":null,"last_error":null,
			"created_at":"1970-01-01T00:00:00Z"}`,
	} {
		w := request(h, "GET", "/api/v1/connections/"+name, nil)
		if w.Code != http.StatusOK || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("GET %s = %d %v, want 200 without caching", name, w.Code, w.Header())
		}
		if diff := cmp.Diff(decode(t, want), decode(t, w.Body.String())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func decode(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func TestListConnectionsByPage(t *testing.T) {
	var store managetest.Store
	for i := range 5 {
		store.Connections = append(store.Connections, credstore.Connection{Name: fmt.Sprint("c", i), Status: credstore.Active})
	}
	store.Connections[3].Status = credstore.Pending
	h := newTestAPI(t, &store, nil).Handler(http.NotFoundHandler())
	var names []string
	cursor, pages := "", 0
	for {
		w := request(h, "GET", "/api/v1/connections?limit=2&status=active&q=c&cursor="+cursor, nil)
		var page manage.Page
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Connections {
			names = append(names, c.Name)
		}
		pages++
		if page.NextCursor == nil {
			break
		}
		cursor = *page.NextCursor
	}
	if want := []string{"c0", "c1", "c2", "c4"}; !slices.Equal(names, want) || pages != 2 {
		t.Errorf("listed %v on %d pages, want %v on 2", names, pages, want)
	}
	w := request(h, "GET", "/api/v1/connections?q=nothing", nil)
	if diff := cmp.Diff(decode(t, `{"connections":[],"next_cursor":null}`), decode(t, w.Body.String())); diff != "" {
		t.Errorf("an empty listing (-want +got):\n%s", diff)
	}
}

func TestProblems(t *testing.T) {
	up := newTestAPI(t, &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}, nil).Handler(http.NotFoundHandler())
	down := newTestAPI(t, &managetest.Store{Err: fmt.Errorf("reading: %w", credstore.ErrUnavailable)}, nil).Handler(http.NotFoundHandler())
	for _, test := range []struct {
		name           string
		h              http.Handler
		method, target string
		header         map[string]string
		status         int
		code           string
	}{
		{"limit 0", up, "GET", "/api/v1/connections?limit=0", nil, 400, "bad_request"},
		{"limit 201", up, "GET", "/api/v1/connections?limit=201", nil, 400, "bad_request"},
		{"limit not a number", up, "GET", "/api/v1/connections?limit=many", nil, 400, "bad_request"},
		{"status", up, "GET", "/api/v1/connections?status=fine", nil, 400, "bad_request"},
		{"misspelled filter", up, "GET", "/api/v1/connections?stauts=active", nil, 400, "bad_request"},
		{"twice", up, "GET", "/api/v1/connections?q=a&q=b", nil, 400, "bad_request"},
		{"cursor", up, "GET", "/api/v1/connections?cursor=!", nil, 400, "bad_request"},
		{"escape", up, "GET", "/api/v1/connections?q=%zz", nil, 400, "bad_request"},
		{"unknown", up, "GET", "/api/v1/connections/unknown", nil, 404, "connection_unknown"},
		{"other case", up, "GET", "/api/v1/connections/ACME", nil, 404, "connection_unknown"},
		{"no name", up, "GET", "/api/v1/connections/%2e%2e", nil, 404, "connection_unknown"},
		{"no such address", up, "GET", "/api/v2", nil, 404, "not_found"},
		{"write", up, "PUT", "/api/v1/connections/acme", nil, 405, "method_not_supported"},
		{"write a probe", up, "POST", "/livez", nil, 405, "method_not_supported"},
		{"store down: list", down, "GET", "/api/v1/connections", nil, 503, "store_unavailable"},
		{"store down: show", down, "GET", "/api/v1/connections/acme", nil, 503, "store_unavailable"},
		{"DNS rebinding", up, "GET", "/api/v1/connections", map[string]string{"Host": "evil.example.com:8485"}, 403, "host_not_allowed"},
		{"DNS rebinding of metrics", up, "GET", "/metrics", map[string]string{"Host": "evil.example.com"}, 403, "host_not_allowed"},
		{"no host", up, "GET", "/livez", map[string]string{"Host": ""}, 403, "host_not_allowed"},
		{"other origin", up, "GET", "/livez", map[string]string{"Origin": "http://evil.example"}, 403, "cross_site_request"},
		{"other port", up, "GET", "/livez", map[string]string{"Origin": "http://127.0.0.1:1"}, 403, "cross_site_request"},
		{"opaque origin", up, "GET", "/livez", map[string]string{"Origin": "null"}, 403, "cross_site_request"},
		{"cross-site link", up, "GET", "/livez", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403, "cross_site_request"},
		{"same site is not same origin", up, "GET", "/livez", map[string]string{"Sec-Fetch-Site": "same-site"}, 403, "cross_site_request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := request(test.h, test.method, test.target, test.header)
			if got := problemCode(t, w); w.Code != test.status || got != test.code {
				t.Errorf("%s %s = %d %s, want %d %s", test.method, test.target, w.Code, got, test.status, test.code)
			}
		})
	}
}

func TestAllowedHostsAndOrigins(t *testing.T) {
	h := newTestAPI(t, &managetest.Store{}, nil).Handler(http.NotFoundHandler())
	for _, header := range []map[string]string{
		{"Host": "127.0.0.1:8485"},
		{"Host": "[::1]:8485"},
		{"Host": "10.1.2.3"},
		{"Host": "localhost:8485"},
		{"Host": "proxy.localhost"},
		{"Host": "pleo-proxy"},
		{"Host": "PLEO_PROXY:8485"},
		{"Host": "proxy.team.svc"},
		{"Host": "proxy.team.svc.cluster.local."},
		{"Host": "host.docker.internal:8485"},
		{"Host": "ops.example.COM:8485"},
		{"Host": "localhost:8485", "Origin": "http://localhost:8485", "Sec-Fetch-Site": "same-origin"},
		{"Sec-Fetch-Site": "none"},
	} {
		if w := request(h, "GET", "/livez", header); w.Code != http.StatusOK {
			t.Errorf("GET /livez with %v = %d, want 200", header, w.Code)
		}
	}
}

func TestHealthListenerServesOnlyProbesAndMetrics(t *testing.T) {
	h := newTestAPI(t, &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection()}}, nil).HealthHandler()
	for target, want := range map[string]int{
		"/livez": 200, "/readyz": 200, "/metrics": 200, "/api/v1/connections": 404, "/api/v1/connections/acme": 404, "/": 404,
	} {
		if w := request(h, "GET", target, map[string]string{"Host": "anything.example.com"}); w.Code != want {
			t.Errorf("GET %s = %d, want %d", target, w.Code, want)
		}
	}
}

func TestReadyz(t *testing.T) {
	var notReady error
	store := &managetest.Store{}
	h := newTestAPI(t, store, func(c *Config) {
		c.Ready = func() error { return notReady }
		c.Checks = []Check{
			{Name: "store", Probe: func(context.Context) error { return store.Err }},
			{Name: "spool", Probe: func(context.Context) error { return nil }},
		}
	}).Handler(http.NotFoundHandler())
	expect := func(target string, status int, body string) {
		t.Helper()
		w := request(h, "GET", target, nil)
		if w.Code != status || w.Body.String() != body {
			t.Errorf("GET %s = %d %q, want %d %q", target, w.Code, w.Body, status, body)
		}
	}
	expect("/readyz", 200, "ready\n")
	store.Err = credstore.ErrUnavailable
	expect("/readyz?verbose", 200, "[-] store: the store is unavailable\n[+] spool: ok\nready\n")
	notReady = errors.New("draining")
	expect("/readyz", 503, "not ready: draining\n")
	expect("/livez", 200, "ok\n")
}

func TestReadyzWithHangingCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestAPI(t, &managetest.Store{}, func(c *Config) {
			c.Checks = []Check{{Name: "store", Probe: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}}
		}).Handler(http.NotFoundHandler())
		w := request(h, "GET", "/readyz?verbose", nil)
		if w.Code != 200 || w.Body.String() != "[-] store: context deadline exceeded\nready\n" {
			t.Errorf("GET /readyz?verbose = %d %q, want 200 and the deadline", w.Code, w.Body)
		}
	})
}

func TestConnectionMetrics(t *testing.T) {
	store := &managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), managetest.BareConnection()}}
	h := newTestAPI(t, store, nil).Handler(http.NotFoundHandler())
	body := request(h, "GET", "/metrics", nil).Body.String()
	for _, want := range []string{
		"pleo_store_up 1\n",
		`pleo_connections{kind="oauth",status="degraded"} 1` + "\n",
		`pleo_connections{kind="oauth",status="active"} 0` + "\n",
		`pleo_connections{kind="standalone_key",status="pending"} 1` + "\n",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("missing metric %q", want)
		}
	}
	store.Err = credstore.ErrUnavailable
	body = request(h, "GET", "/metrics", nil).Body.String()
	if !strings.Contains(body, "pleo_store_up 0\n") || strings.Contains(body, "pleo_connections{") {
		t.Errorf("with the store down the metrics are %q, want pleo_store_up 0 and no counts", body)
	}
}

func TestUnixSocketNeedsNoHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(newTestAPI(t, &managetest.Store{}, nil).Handler(http.NotFoundHandler()), nil, nil)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() { _ = server.Close(); <-served }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	response, err := client.Get("http://any.example.com/livez")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		t.Errorf("GET /livez over the socket = %d, want 200", response.StatusCode)
	}
}
