package api

import (
	"bytes"
	"net/http"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

const (
	// maxImportSize is the size of an import in bytes: some hundred connections.
	// Pleo is asked about each of them while the client waits.
	maxImportSize = 1 << 20
	// mediaTypeNDJSON and mediaTypeJSONL are in common use for JSON lines. No type
	// is registered.
	mediaTypeNDJSON = "application/x-ndjson"
	mediaTypeJSONL  = "application/jsonl"
	// writeTimeout is how long a client may take to read one part of a response.
	writeTimeout = time.Minute
	// exportPageSize is the number of connections that are read at a time.
	exportPageSize = 200
)

// importLines serves POST /api/v1/import.
func (a *API) importLines(w http.ResponseWriter, r *http.Request) error {
	values, err := parameters(r.URL.RawQuery, "offline", "allow_shared_company")
	if err != nil {
		return err
	}
	offline, err := boolParameter(values, "offline")
	if err != nil {
		return err
	}
	shared, err := boolParameter(values, "allow_shared_company")
	if err != nil {
		return err
	}
	lines, err := readAll(w, r, maxImportSize, mediaTypeNDJSON, mediaTypeJSONL)
	if err != nil {
		return err
	}
	// The deadlines of the server are for slow clients. This one has sent its whole
	// body; what takes time now is Pleo.
	c := http.NewResponseController(w)
	_, _ = c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{})
	report, err := a.operator.Import(r.Context(), bytes.NewReader(lines), manage.ImportOptions{Offline: offline, AllowSharedCompany: shared})
	if err != nil {
		return err
	}
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	return writeJSON(w, http.StatusOK, report)
}

// exportAll serves GET /api/v1/export. It never exports secrets: that takes access
// to the store and its keyset.
func (a *API) exportAll(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r.URL.RawQuery); err != nil {
		return err
	}
	c := http.NewResponseController(w)
	for q := (credstore.Query{Limit: exportPageSize}); ; {
		page, err := a.operator.Store.List(r.Context(), q)
		if err != nil && q.Cursor == "" {
			return err
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the client must not take a part for the whole
		}
		w.Header().Set("Content-Type", mediaTypeNDJSON)
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
		for _, connection := range page.Connections {
			if err := manage.NewConnectionLine(connection).Write(w); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
		if page.Next == "" {
			return nil
		}
		q.Cursor = page.Next
	}
}
