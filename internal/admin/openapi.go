package admin

import (
	_ "embed"
	"net/http"
)

//go:embed openapi.yaml
var openAPI []byte

// showOpenAPI answers GET /api/v1/openapi.yaml with the description of the API.
func showOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(openAPI) // only a client that has left makes this fail
	return nil
}
