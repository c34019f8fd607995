package admin

import (
	"bytes"
	"net/http"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

const (
	// maxImportSize is how much one request may bring in, in bytes: some hundred
	// connections. Pleo is asked about each, and somebody waits for the answer.
	maxImportSize = 1 << 20
	// mediaTypeNDJSON is the media type of JSON lines, for which none is registered.
	mediaTypeNDJSON = "application/x-ndjson"
	// mediaTypeJSONL is what others call them.
	mediaTypeJSONL = "application/jsonl"
	// writeTimeout is how long a client may take to read a part of an answer.
	writeTimeout = time.Minute
)

// importConnections answers POST /api/v1/import.
func (a *Admin) importConnections(w http.ResponseWriter, r *http.Request) error {
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
	// The body is here: what takes time now is Pleo, and not a slow client.
	c := http.NewResponseController(w)
	_, _ = c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{})
	report, err := manage.Importer{Add: a.actions.Intake(offline), AllowSharedCompany: shared}.Run(r.Context(), bytes.NewReader(lines))
	if err != nil {
		return err
	}
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	return writeJSON(w, http.StatusOK, report)
}

// exportConnections answers GET /api/v1/export. Nothing secret leaves by the
// API: for that somebody has to come to the store with the keyset.
func (a *Admin) exportConnections(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r.URL.RawQuery); err != nil {
		return err
	}
	c := http.NewResponseController(w)
	for q := (credstore.Query{Limit: 200}); ; {
		page, err := a.store.List(r.Context(), q)
		if err != nil && q.Cursor == "" {
			return err
		}
		if err != nil {
			panic(http.ErrAbortHandler) // else a part would pass for the whole
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
