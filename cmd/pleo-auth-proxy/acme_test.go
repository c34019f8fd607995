package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/acmetest"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

var pebblePath = flag.String("pebble", "", "the ACME server pebble, which `make acme` builds; without it, its tests are skipped")

// acmeEnv is an environment whose pages get their certificate by ACME.
type acmeEnv struct {
	*env
	t      *testing.T
	ca     *acmetest.Authority
	domain string
	pages  string // the address of the TLS listener
}

// newACMEEnv prepares a certificate authority, which is not running yet, and a
// configuration that names it. If plain is set, the authority can reach only the
// listener for plain HTTP.
func newACMEEnv(t *testing.T, domain string, life time.Duration, plain bool) *acmeEnv {
	t.Helper()
	const nowhere = 1
	pages, httpAt := acmetest.FreeAddress(t), acmetest.FreeAddress(t)
	reach := acmetest.Config{TLSPort: acmetest.PortOf(t, pages), HTTPPort: nowhere, Lifetime: life}
	if plain {
		reach.TLSPort, reach.HTTPPort = nowhere, acmetest.PortOf(t, httpAt)
	}
	ca := acmetest.New(t, *pebblePath, reach)
	w := newEnv(t, simulator.Settings{}, fmt.Sprintf(`log: {level: debug}
connect:
  listen: %q
  public_url: "https://%s"
  http: {listen: %q}
  tls:
    acme: {domains: [%s], email: ops@%[2]s, ca_url: %[5]q, ca_root_file: %[6]q}`,
		pages, domain, httpAt, domain, ca.Directory(), ca.RootFile()))
	return &acmeEnv{env: w, t: t, ca: ca, domain: domain, pages: pages}
}

// visit opens a page like a browser that trusts the certificate authority, and
// returns the serial number of the certificate.
func (w *acmeEnv) visit() (serial *big.Int, a response, err error) {
	w.t.Helper()
	var dialer net.Dialer
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, w.pages)
		},
		TLSClientConfig: &tls.Config{RootCAs: w.ca.Roots(), VerifyConnection: func(s tls.ConnectionState) error {
			serial = s.PeerCertificates[0].SerialNumber
			return nil
		}},
	}
	defer transport.CloseIdleConnections()
	a, err = send(&http.Client{Transport: transport, Timeout: time.Minute}, requestTo(w.t, "https://"+w.domain+"/connect/unknown"))
	return serial, a, err
}

// await waits until the pages use a certificate other than the one with the serial
// number, and returns the serial number of the new one.
func (w *acmeEnv) await(p *process, before *big.Int) *big.Int {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		serial, a, err := w.visit()
		if err == nil && (before == nil || serial.Cmp(before) != 0) {
			if a.status != http.StatusNotFound || !strings.Contains(a.body, "This link is not valid") {
				w.t.Errorf("the page over TLS is %d:\n%s", a.status, a.body)
			}
			return serial
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("no certificate: %v; the log of the program:\n%s\nand of the certificate authority:\n%s", err, p.log, w.ca.Log())
		}
	}
}

const quarter = 90 * 24 * time.Hour

// TestACMECertificate starts the program before the certificate authority: only the
// pages are unavailable. Once the authority has started, the pages get their
// certificate, and a restart or a crash does not request another one.
func TestACMECertificate(t *testing.T) {
	t.Parallel()
	w := newACMEEnv(t, "away.example.test", quarter, false)
	_, line := w.grant("acme", simulator.GrantRequest{})
	w.importLines(line)
	p := w.serve()
	p.waitForLog("could not get certificate from issuer")
	if a, err := p.get(client(t), "acme", "/v2/employees"); err != nil || a.status != http.StatusOK {
		t.Errorf("a request while the authority is unavailable: %d, %v, want 200", a.status, err)
	}
	if a := p.admin("/readyz"); a.status != http.StatusOK {
		t.Errorf("GET /readyz while the authority is unavailable = %d, want 200", a.status)
	}
	w.ca.Start()
	first := w.await(p, nil)
	w.checkKeys(p)
	for _, end := range []func(){func() { p.stop() }, func() { p.kill() }} {
		end()
		p = w.serve()
		if again := w.await(p, nil); again.Cmp(first) != 0 {
			t.Errorf("after a restart the certificate is %v, want %v as before", again, first)
		}
	}
	if n := w.ca.Issued(); n != 1 {
		t.Errorf("the authority has issued %d certificates, want 1", n)
	}
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d, want 0", code)
	}
}

// checkKeys checks that the private keys are in the data directory, that only their
// owner can read them, and that the log does not contain them.
func (w *acmeEnv) checkKeys(p *process) {
	w.t.Helper()
	keys := 0
	err := filepath.WalkDir(filepath.Join(w.dir, "data", "certificates"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			w.t.Errorf("%s has mode %v, want access for its owner only", path, info.Mode())
		}
		if filepath.Ext(path) != ".key" {
			return nil
		}
		keys++
		secret, err := os.ReadFile(path)
		for _, part := range strings.Split(string(secret), "\n") {
			if len(part) > 40 && strings.Contains(p.log.String(), part) {
				w.t.Errorf("the log contains the content of %s", path)
			}
		}
		return err
	})
	if err != nil || keys != 2 { // the account's and the certificate's
		w.t.Errorf("%d private keys in the data directory, %v, want 2", keys, err)
	}
}

// TestACMECertificateOverPlainHTTP gets a certificate by connect.http alone. A
// certificate that expires soon is replaced at the next start at the latest.
func TestACMECertificateOverPlainHTTP(t *testing.T) {
	t.Parallel()
	w := newACMEEnv(t, "plain.example.test", 30*time.Second, true)
	w.ca.Start()
	p := w.serve()
	first := w.await(p, nil)
	p.stop()
	p = w.serve()
	w.await(p, first)
	if code := p.stop(); code != exitDone {
		t.Errorf("the server exits %d, want 0", code)
	}
}
