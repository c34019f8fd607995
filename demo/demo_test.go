package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCurlIsNotNeeded: the demo is promised to machines that have Go and make.
func TestCurlIsNotNeeded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/x-demo")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, r.Header.Get("Pleo-Connection")+" asks\r\n\r\nfor "+r.URL.Path)
	}))
	defer server.Close()
	ways := map[string]curl{"without curl": ""}
	if path := findCurl(); path != "" {
		ways["with curl"] = path
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			got, err := way.send(t.Context(), request{connection: "acme", url: server.URL + "/pot"})
			if err != nil {
				t.Fatal(err)
			}
			if got.status != http.StatusTeapot || got.line != "HTTP/1.1 418 I'm a teapot" ||
				got.contentType != "text/x-demo" || string(got.body) != "acme asks\r\n\r\nfor /pot" {
				t.Errorf("send() = %d %q %q %q, want the server's answer", got.status, got.line, got.contentType, got.body)
			}
		})
	}
}

func TestSaysWhichProgramDoesNotStart(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\necho no port is free >&2\nexit 1\n"
	if err := os.WriteFile(filepath.Join(bin, "pleo-sim"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	var told, logs strings.Builder
	s := &stage{bin: bin, out: &told}
	err := s.play(t.Context())
	s.showLogs(&logs)
	if err == nil || !strings.Contains(err.Error(), "pleo-sim did not become ready") {
		t.Errorf("play() = %v, want the name of the program", err)
	}
	if !strings.Contains(logs.String(), "no port is free") {
		t.Errorf("logs = %q, want what the program said", logs.String())
	}
}
