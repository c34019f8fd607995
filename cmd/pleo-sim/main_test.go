package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// start runs the program until the test ends and returns its ready line.
func start(t *testing.T, args ...string) ready {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	cmd := newCommand()
	cmd.SetArgs(append([]string{"--listen", "127.0.0.1:0"}, args...))
	cmd.SetOut(in)
	cmd.SetErr(io.Discard)
	ended := make(chan error, 1)
	go func() {
		err := cmd.ExecuteContext(ctx)
		_ = in.CloseWithError(err) // unblocks the reader below if no line was printed
		ended <- err
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the program ended with error %v, want none", err)
		}
	})
	text, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("reading the first line: %v", err)
	}
	var line ready
	if err := json.Unmarshal(text, &line); err != nil {
		t.Fatalf("reading %s: %v", text, err)
	}
	return line
}

func status(t *testing.T, method, url, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestOnePortForEverything(t *testing.T) {
	line := start(t)
	if line.AuthURL != line.APIURL || line.ControlURL != line.APIURL {
		t.Errorf("URLs = %+v, want one", line)
	}
	for path, want := range map[string]int{"/v1/introspect": 401, "/oauth/authorize": 400, "/_control/grants": 200} {
		if got := status(t, "GET", line.APIURL+path, ""); got != want {
			t.Errorf("GET %s = %d, want %d", path, got, want)
		}
	}
	if line.ClientID != simulator.DefaultClientID || len(line.Companies) != 3 {
		t.Errorf("line = %+v, want the default client and 3 companies", line)
	}
}

func TestSeparatePorts(t *testing.T) {
	line := start(t, "--auth-listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0")
	if got := status(t, "GET", line.AuthURL+"/oauth/authorize", ""); got != 400 {
		t.Errorf("GET /oauth/authorize = %d, want 400", got)
	}
	if got := status(t, "GET", line.AuthURL+"/v1/introspect", ""); got != 404 {
		t.Errorf("the API on the authorization server's port = %d, want 404", got)
	}
	if got := status(t, "POST", line.ControlURL+"/_control/grants", "{}"); got != 200 {
		t.Errorf("POST /_control/grants = %d, want 200", got)
	}
}

// certificate writes the certificate of a test server to files and returns a
// client that trusts it.
func certificate(t *testing.T) (client *http.Client, certFile, keyFile string) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	pair := server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		keyFile:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return server.Client(), certFile, keyFile
}

func TestTLS(t *testing.T) {
	client, cert, key := certificate(t)
	line := start(t, "--tls-cert", cert, "--tls-key", key, "--control-listen", "127.0.0.1:0")
	resp, err := client.Get(line.APIURL + "/v1/introspect")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 401 || !strings.HasPrefix(line.ControlURL, "http://") {
		t.Errorf("GET /v1/introspect = %d, control at %s; want 401 and control without TLS", resp.StatusCode, line.ControlURL)
	}
}

func TestFlagsOverrideTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sim.json")
	if err := os.WriteFile(file, []byte(simulator.ExampleSettings()), 0o600); err != nil {
		t.Fatal(err)
	}
	line := start(t, "--settings", file, "--client-secret", "other", "--companies", "2",
		"--fault", `{"kind":"status","status":418,"target":"api"}`)
	if line.ClientID != "my-client" || line.ClientSecret != "other" || len(line.Companies) != 4 || len(line.Keys) != 3 {
		t.Errorf("line = %+v, want the file's client and keys, the flag's secret, 4 companies", line)
	}
	if got := status(t, "GET", line.APIURL+"/v1/introspect", ""); got != 418 {
		t.Errorf("GET /v1/introspect = %d, want the fault's 418", got)
	}
}

// TestEveryFlagHasAnEffect finds flags that are not applied to the settings.
func TestEveryFlagHasAnEffect(t *testing.T) {
	values := map[string]string{
		"client-id": "c", "client-secret": "s", "redirect-uri": "http://127.0.0.1/cb", "access-token-lifetime": "7s",
		"refresh-token-lifetime": "7h", "code-lifetime": "7s", "grace": "7s", "latency": "7ms", "client-auth": "post",
		"consent": "page", "expires-in": "string", "reuse": "reject", "old-access-token": "survives",
		"rejection-code": "invalid_grant", "rejection-status": "401", "unauthorized-body": "empty", "introspection": "absent",
	}
	var none, all options
	noFlags, allFlags := &cobra.Command{}, &cobra.Command{}
	none.addSettingsFlags(noFlags)
	all.addSettingsFlags(allFlags)
	for name, value := range values {
		if err := allFlags.Flags().Set(name, value); err != nil {
			t.Errorf("--%s %s: %v", name, value, err)
		}
	}
	settings, err := all.settings(allFlags)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range values {
		if !strings.Contains(string(text), strings.TrimSuffix(value, "h")) {
			t.Errorf("--%s %s has no effect on %s", name, value, text)
		}
	}
	if settings, err := none.settings(noFlags); err != nil || len(settings.Clients) != 0 {
		t.Errorf("settings without flags = %+v, %v; want the zero settings", settings, err)
	}
}

func TestWrongUsage(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.json")
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"--nope"}, "unknown flag"},
		{"argument", []string{"now"}, "unknown command"},
		{"missing file", []string{"--settings", missing}, "opening the settings"},
		{"invalid value", []string{"--reuse", "forgive"}, "oauth.reuse"},
		{"malformed fault", []string{"--fault", "{"}, "reading --fault"},
		{"invalid fault", []string{"--fault", `{"kind":"explode"}`}, "explode"},
		{"certificate without key", []string{"--tls-cert", missing}, "--tls-cert"},
		{"invalid log level", []string{"--log-level", "loud"}, "--log-level"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := newCommand()
			cmd.SetArgs(tt.args)
			cmd.SetOut(io.Discard)
			cmd.SetErr(io.Discard)
			err := cmd.ExecuteContext(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) || exitCode(err) != 2 {
				t.Errorf("error = %v, want exit status 2 and %q", err, tt.want)
			}
		})
	}
}

func TestPortInUse(t *testing.T) {
	line := start(t)
	cmd := newCommand()
	cmd.SetArgs([]string{"--listen", strings.TrimPrefix(line.APIURL, "http://")})
	cmd.SetErr(io.Discard)
	if err := cmd.ExecuteContext(t.Context()); err == nil || exitCode(err) != 1 || errors.Is(err, errUsage) {
		t.Errorf("error = %v, want exit status 1", err)
	}
}

func TestSettingsCommandPrintsTheExample(t *testing.T) {
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SetArgs([]string{"settings"})
	cmd.SetOut(&out)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := simulator.ReadSettings(&out); err != nil {
		t.Errorf("reading the example: %v", err)
	}
}

func TestHelpListsTheControlEndpoint(t *testing.T) {
	doc, err := os.ReadFile("../../internal/simulator/control.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(doc)) {
		_, rest, found := strings.Cut(line, `"/_control/`)
		if !found {
			_, rest, found = strings.Cut(line, ` /_control/`)
		}
		name, _, quoted := strings.Cut(rest, `"`)
		if found && quoted && !strings.Contains(longHelp, "/_control/"+strings.Split(name, "/{")[0]) {
			t.Errorf("--help does not list /_control/%s", name)
		}
	}
}
