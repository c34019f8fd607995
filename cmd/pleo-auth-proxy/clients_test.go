package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/testca"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// A shared gateway has TLS on an address that other machines can reach, clients that
// may use some connections, and a socket for one connection.
func TestSharedGateway(t *testing.T) {
	w := newEnv(t, simulator.Settings{})
	ca := testca.New(t)
	cert, key := ca.Issue(x509.ExtKeyUsageServerAuth)
	w.write("cert.pem", string(cert))
	w.write("key.pem", string(key))
	token := w.write("token", "token-of-erp\n")
	socket := filepath.Join(w.dir, "acme.sock")
	config := configFor(w.sim, w.url, filepath.Join(w.dir, "data"))
	w.write("config.yaml", replaceOnce(t, config, `proxy: {listen: "127.0.0.1:0"}`, `proxy:
  listen: "0.0.0.0:0"
  tls: {cert_file: `+filepath.Join(w.dir, "cert.pem")+`, key_file: `+filepath.Join(w.dir, "key.pem")+`}
  listeners: [{listen: "unix:`+socket+`?mode=0600", connection: acme}]
  clients: [{name: erp, token_file: `+token+`, connections: ["ac*"], allow: [{methods: [GET]}]}]`))
	_, acme := w.grant("acme", simulator.GrantRequest{})
	_, shop := w.grant("shop", simulator.GrantRequest{Company: w.sim.Companies()[1].ID})
	w.importLines(acme, shop)
	p := w.serve()

	_, port, err := net.SplitHostPort(p.addresses["proxy"])
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	base := "https://127.0.0.1:" + port
	overSocket := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }}
	t.Cleanup(overSocket.CloseIdleConnections)
	tests := []struct {
		name, method, url, connection, token string
		transport                            *http.Transport
		want                                 int
	}{
		{"authenticated", "GET", base, "acme", "token-of-erp", transport, 200},
		{"not authenticated", "GET", base, "acme", "", transport, 401},
		{"another connection", "GET", base, "shop", "token-of-erp", transport, 403},
		{"another method", "DELETE", base, "acme", "token-of-erp", transport, 403},
		{"socket", "GET", "http://localhost", "", "token-of-erp", overSocket, 200},
		{"socket, not authenticated", "GET", "http://localhost", "", "", overSocket, 401},
		{"socket, another connection", "GET", "http://localhost", "shop", "token-of-erp", overSocket, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := request(t, tt.transport, tt.method, tt.url+"/v1/introspect", tt.connection, tt.token)
			if a.status != tt.want {
				t.Errorf("response = %d %s, want %d", a.status, a.body, tt.want)
			}
		})
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket = %v, %v, want mode 0600", info, err)
	}
}

func request(t *testing.T, transport *http.Transport, method, url, connection, token string) response {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if connection != "" {
		r.Header.Set("Pleo-Connection", connection)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	a, err := send(&http.Client{Transport: transport, Timeout: time.Minute}, r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func replaceOnce(t testing.TB, s, old, replacement string) string {
	t.Helper()
	before, after, found := strings.Cut(s, old)
	if !found {
		t.Fatalf("%q is not in %q", old, s)
	}
	return before + replacement + after
}
