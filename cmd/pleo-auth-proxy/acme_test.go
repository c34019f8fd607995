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

var pebblePath = flag.String("pebble", "", "the ACME server pebble, which `make acme` builds; without it its tests are skipped")

// acmeEnv is a world whose pages get their certificate from an authority.
type acmeEnv struct {
	*env
	t      *testing.T
	ca     *acmetest.Authority
	domain string
	pages  string // the address of the TLS listener
}

// newACMEEnv prepares an authority that does not run yet, and a configuration that
// names it. Where plain is set, the authority reaches the plain listener only.
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

// visit opens a page as a browser does that trusts the authority, and returns the
// serial number of the certificate that it was shown.
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

// waitForRefresh waits until a page comes with a certificate other than the one with the
// serial number, and returns its own.
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
			w.t.Fatalf("no certificate: %v; the program says:\n%s\nand the authority:\n%s", err, p.log, w.ca.Log())
		}
	}
}

const quarter = 90 * 24 * time.Hour

// TestACMECertificate: an authority that is away when the program starts keeps the
// pages waiting and nothing else. Once it is there they get their certificate
// without a hand, and no restart, after a crash or not, asks for another one.
func TestACMECertificate(t *testing.T) {
	t.Parallel()
	w := newACMEEnv(t, "away.example.test", quarter, false)
	_, line := w.grant("acme", simulator.GrantRequest{})
	w.importLines(line)
	p := w.serve()
	p.waitForLog("could not get certificate from issuer")
	if a, err := p.get(client(t), "acme", "/v2/employees"); err != nil || a.status != http.StatusOK {
		t.Errorf("a request while the authority is away: %d, %v, want 200", a.status, err)
	}
	if a := p.admin("/readyz"); a.status != http.StatusOK {
		t.Errorf("GET /readyz while the authority is away = %d, want 200", a.status)
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

// checkKeys looks for private keys: beside the store, for its owner alone, and
// nowhere in the log.
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
			w.t.Errorf("%s has mode %v, want its owner's alone", path, info.Mode())
		}
		if filepath.Ext(path) != ".key" {
			return nil
		}
		keys++
		secret, err := os.ReadFile(path)
		for _, part := range strings.Split(string(secret), "\n") {
			if len(part) > 40 && strings.Contains(p.log.String(), part) {
				w.t.Errorf("the log shows what is in %s", path)
			}
		}
		return err
	})
	if err != nil || keys != 2 { // the account's and the certificate's
		w.t.Errorf("%d private keys beside the store, %v, want 2", keys, err)
	}
}

// TestACMECertificateOverPlainHTTP: by connect.http alone; and a certificate whose life
// is over soon is replaced by the next start at the latest.
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
