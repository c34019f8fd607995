package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage/managetest"
)

// TestExportCanBeImported imports an export of several pages. Without secrets,
// its lines become connections that wait for their customers.
func TestExportCanBeImported(t *testing.T) {
	store := &managetest.Store{}
	for i := range 450 {
		_, err := store.Create(t.Context(), credstore.NewConnection{
			Name: "c" + string(rune('a'+i%26)) + strings.Repeat("x", i/26), Kind: credstore.OAuth, ExternalTenant: "<4711>",
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	w := request(newTestAPI(t, store, withLinks).Handler(http.NotFoundHandler()), "GET", "/api/v1/export", nil)
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != mediaTypeNDJSON {
		t.Fatalf("export = %d %v", w.Code, w.Header())
	}
	imported := &managetest.Store{}
	report, err := managetest.NewOperator(imported).Import(t.Context(), w.Body, manage.ImportOptions{})
	if err != nil || report.Imported != 450 || report.Pending != 450 || report.Failed != 0 {
		t.Errorf("imported %d, %d of them pending, %d failed, %v; want all 450", report.Imported, report.Pending, report.Failed, err)
	}
	if diff := cmp.Diff(store.Connections, imported.Connections); diff != "" {
		t.Errorf("the imported connections differ from the exported ones (-want +got):\n%s", diff)
	}
}

// failsOnSecondPage is a store that lists only its first page.
type failsOnSecondPage struct{ *managetest.Store }

func (s failsOnSecondPage) List(ctx context.Context, q credstore.Query) (credstore.Page, error) {
	if q.Cursor != "" {
		return credstore.Page{}, credstore.ErrUnavailable
	}
	q.Limit = 1
	return s.Store.List(ctx, q)
}

// TestInterruptedExportFails checks that clients notice an incomplete export.
func TestInterruptedExportFails(t *testing.T) {
	store := failsOnSecondPage{&managetest.Store{Connections: []credstore.Connection{managetest.FullConnection(), managetest.BareConnection()}}}
	srv := httptest.NewServer(newTestAPI(t, store.Store, func(c *Config) { c.Operator.Store = store }).Handler(http.NotFoundHandler()))
	defer srv.Close()
	r, err := srv.Client().Get(srv.URL + "/api/v1/export")
	if err == nil {
		_, err = io.ReadAll(r.Body)
		err = errors.Join(err, r.Body.Close())
	}
	if err == nil {
		t.Error("half an export was read to its end without an error")
	}
}

// importLines sends lines to the API and returns the report.
func importLines(t *testing.T, h http.Handler, query, lines string) manage.ImportReport {
	t.Helper()
	w := apiCall{method: "POST", path: "/api/v1/import", query: query, body: lines, media: mediaTypeNDJSON}.sendTo(t, h)
	if w.Code != http.StatusOK {
		t.Fatalf("import = %d: %s", w.Code, w.Body)
	}
	if strings.Contains(w.Body.String(), "s3cr3t") {
		t.Errorf("the report repeats what is secret: %s", w.Body)
	}
	var report manage.ImportReport
	if err := json.Unmarshal(w.Body.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	return report
}

// TestImportReportsEachLine checks that an invalid line does not stop the import,
// and that a repeated import changes nothing.
func TestImportReportsEachLine(t *testing.T) {
	store := &managetest.Store{}
	h := newTestAPI(t, store, withLinks).Handler(http.NotFoundHandler())
	const lines = "\n" + `{"name":"one","kind":"oauth","refresh_token":"s3cr3t"}` + "\r\n" + `s3cr3t` + "\n" +
		`{"name":"two","kind":"standalone_key","api_key":"s3cr3t","expires_at":"s3cr3t"}` + "\n" + `{"name":"three","kind":"integrated_key"}`
	text := func(s string) *string { return &s }
	want := manage.ImportReport{Imported: 2, Pending: 1, Failed: 2, Lines: []manage.ImportResult{
		{Line: 2, Name: text("one"), Result: "imported"},
		{Line: 3, Result: "failed", Code: text("bad_request"), Error: text("the input is not a single JSON object")},
		{Line: 4, Name: text("two"), Result: "failed", Code: text("bad_request"), Error: text("the field expires_at must be a time such as 2030-01-02T03:04:05Z")},
		{Line: 5, Name: text("three"), Result: "imported"},
	}}
	if diff := cmp.Diff(want, importLines(t, h, "", lines)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	again := importLines(t, h, "", lines)
	if again.Imported != 0 || again.Failed != 4 || *again.Lines[0].Code != "connection_exists" {
		t.Errorf("the second import reports %+v", again)
	}
	if len(store.Recorded) != 2 || store.Recorded[0].Actor != credstore.ActorBackOffice {
		t.Errorf("history: %+v; want two imports by the back office", store.Recorded)
	}
}

// TestImportRejectsAmbiguousLines checks lines of which a JSON decoder would lose
// a part, so that a connection with a token could become one without.
func TestImportRejectsAmbiguousLines(t *testing.T) {
	const unknown = "unknown field; supported are access_token, api_key, company_id, expires_at, external_tenant, kind, name, refresh_token"
	for _, test := range []struct{ name, line, want string }{
		{"two tokens", `{"name":"a","kind":"oauth","refresh_token":"s3cr3t","refresh_token":"s3cr3t2"}`, "the field refresh_token occurs twice"},
		{"two names, one escaped", `{"name":"a","kind":"oauth","na\u006de":"b"}`, "the field name occurs twice"},
		{"empty token in other letters", `{"name":"a","kind":"oauth","Refresh_Token":""}`, unknown},
		{"token in other letters", `{"name":"a","kind":"oauth","REFRESH_TOKEN":"s3cr3t"}`, unknown},
		{"latin-1", `{"name":"a","kind":"oauth","external_tenant":"M` + "\xfc" + `ller"}`, "the input is not valid UTF-8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := &managetest.Store{}
			report := importLines(t, newTestAPI(t, store, withLinks).Handler(http.NotFoundHandler()), "", test.line)
			if len(report.Lines) != 1 || report.Lines[0].Error == nil || *report.Lines[0].Error != test.want {
				t.Errorf("report = %+v, want one failed line: %s", report, test.want)
			}
			if len(store.Connections) != 0 {
				t.Errorf("there are %d connections, want none", len(store.Connections))
			}
		})
	}
}
