package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/testca"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// TestConnectPagesOverTLS: the pages use the certificate in the files, and the new one
// when the files change. Plain HTTP redirects to them, regardless of the Host field.
func TestConnectPagesOverTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	install := func(a *testca.Authority) {
		t.Helper()
		certPEM, keyPEM := a.Issue(x509.ExtKeyUsageServerAuth)
		for path, data := range map[string][]byte{cert: certPEM, key: keyPEM} {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	first, second := testca.New(t), testca.New(t)
	install(first)
	public := freeAddress(t)
	w := newEnv(t, simulator.Settings{}, fmt.Sprintf(`connect:
  listen: %q
  public_url: "https://%s"
  http: {listen: "127.0.0.1:0"}
  tls: {cert_file: %q, key_file: %q}`, public, public, cert, key))
	p := w.serve()

	if a, err := send(clientTrusting(t, first), requestTo(t, "https://"+public+"/connect/unknown")); err != nil || a.status != http.StatusNotFound {
		t.Errorf("an unknown link over TLS: %d, %v, want 404", a.status, err)
	}
	r := requestTo(t, "http://"+p.addresses["connect.http"]+"/connect/unknown?x=1")
	r.Host = "evil.example"
	plain := client(t)
	plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a, err := send(plain, r)
	if want := "https://" + public + "/connect/unknown?x=1"; err != nil || a.status != http.StatusPermanentRedirect || a.header.Get("Location") != want {
		t.Errorf("plain HTTP: %d to %q, %v, want 308 to %q", a.status, a.header.Get("Location"), err, want)
	}
	install(second)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = send(clientTrusting(t, second), requestTo(t, "https://"+public+"/")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new certificate is not used: %v", err)
		}
	}
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d", code)
	}
}

// TestConnectPagesWaitForCertificate: while the certificate authority cannot be
// reached, only the pages are unavailable.
func TestConnectPagesWaitForCertificate(t *testing.T) {
	public := freeAddress(t)
	w := newEnv(t, simulator.Settings{}, fmt.Sprintf(`connect:
  listen: %q
  public_url: "https://connect.example.test"
  tls: {acme: {domains: [connect.example.test], ca_url: "https://%s/dir"}}`, public, freeAddress(t)))
	_, line := w.grant("acme", simulator.GrantRequest{})
	w.importLines(line)
	p := w.serve()
	p.waitForLog("could not get certificate from issuer")
	if a, err := p.get(client(t), "acme", "/v2/employees"); err != nil || a.status != http.StatusOK {
		t.Errorf("a request as acme: %d, %v, want 200", a.status, err)
	}
	if a := p.admin("/readyz"); a.status != http.StatusOK {
		t.Errorf("GET /readyz = %d, want 200", a.status)
	}
	r := requestTo(t, "https://"+public+"/")
	if a, err := send(client(t), r); err == nil {
		t.Errorf("the pages respond with %d without a certificate", a.status)
	}
	began := time.Now()
	if code := p.stop(); code != exitDone || time.Since(began) > 20*time.Second {
		t.Errorf("the server exits %d after %v", code, time.Since(began))
	}
}

func requestTo(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// clientTrusting returns a client that trusts the authority alone.
func clientTrusting(t *testing.T, a *testca.Authority) *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool()}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}
