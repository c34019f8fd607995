package admin

import (
	"encoding/json"
	"net/http"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

func writeProblem(w http.ResponseWriter, p *webguard.Problem) {
	_, _ = p.Write(w) // fails only if the client has left
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	writeBody(w, v)
	return nil
}

func writeBody(w http.ResponseWriter, v any) {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // only a client that has left makes this fail
}
