package autocert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/acmetest"
)

var pebblePath = flag.String("pebble", "", "the ACME server pebble, which `make acme` builds; without it its tests are skipped")

// page is what the servers of these tests answer with.
const page = "the connect page"

func servePage(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }

// site is a listener that gets its certificates from an authority.
type site struct {
	t        *testing.T
	domain   string // of its own: challenges under way are known to the whole process
	address  string // of the TLSConfig listener
	httpAt   string // of the plain one; empty: there is none
	dir      string
	ca       *acmetest.Authority
	checking time.Duration
}

// run serves the site until the function that it returns is called.
func (s *site) run() (stop func()) {
	s.t.Helper()
	c := Config{
		Domains: []string{s.domain}, Email: "ops@example.test", CAURL: s.ca.Directory(), RootCAs: s.ca.ServerRoots, Dir: s.dir,
		Host: "127.0.0.1", Port: acmetest.PortOf(s.t, s.address), CheckInterval: s.checking, Logger: zaptest.NewLogger(s.t),
	}
	if s.httpAt != "" {
		c.HTTPPort = acmetest.PortOf(s.t, s.httpAt)
	}
	certs := New(c)
	tlsServer := &http.Server{Handler: http.HandlerFunc(servePage), TLSConfig: certs.TLSConfig(), ReadHeaderTimeout: time.Minute}
	go func() { _ = tlsServer.ServeTLS(listen(s.t, s.address), "", "") }()
	plain := &http.Server{Handler: certs.ChallengeHandler(http.NotFoundHandler()), ReadHeaderTimeout: time.Minute}
	if s.httpAt != "" {
		go func() { _ = plain.Serve(listen(s.t, s.httpAt)) }()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); certs.Run(ctx) }()
	return func() {
		s.t.Helper()
		cancel()
		<-done
		_ = errors.Join(tlsServer.Close(), plain.Close()) // connections that are to end
	}
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Error(err)
	}
	return l
}

// certificate returns what the site shows to whoever connects now.
func (s *site) certificate() (*x509.Certificate, error) {
	d := tls.Dialer{Config: &tls.Config{ServerName: s.domain, InsecureSkipVerify: true}} // the authority's roots are new each time
	conn, err := d.DialContext(s.t.Context(), "tcp", s.address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// await waits until the site shows a certificate that is wanted.
func (s *site) await(within time.Duration, wanted func(*x509.Certificate) bool) *x509.Certificate {
	s.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		cert, err := s.certificate()
		if err == nil && wanted(cert) {
			return cert
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no such certificate after %v; the last was %v, %v; the authority says:\n%s", within, cert, err, s.ca.Log())
		}
	}
}

func (s *site) isFor(cert *x509.Certificate) bool { return cert.VerifyHostname(s.domain) == nil }

// newSite returns a site whose authority does not run yet.
func newSite(t *testing.T, life time.Duration) *site {
	s := &site{t: t, domain: strings.ToLower(t.Name()) + ".example.test", address: acmetest.FreeAddress(t), dir: t.TempDir()}
	s.ca = acmetest.New(t, *pebblePath, acmetest.Config{TLSPort: acmetest.PortOf(t, s.address), HTTPPort: 1, Lifetime: life})
	return s
}

const long = 90 * 24 * time.Hour

// TestACMEIssuesOnce: a certificate comes by a challenge on the listener itself,
// and a restart asks for no other one.
func TestACMEIssuesOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, long)
	s.ca.Start()
	stop := s.run()
	first := s.await(30*time.Second, s.isFor)
	stop()
	stop = s.run()
	defer stop()
	again := s.await(30*time.Second, s.isFor)
	if again.SerialNumber.Cmp(first.SerialNumber) != 0 || s.ca.Issued() != 1 {
		t.Errorf("certificate %v after the restart, and %d issued, want %v and 1", again.SerialNumber, s.ca.Issued(), first.SerialNumber)
	}
}

// TestACMEByPlainHTTP: where the authority cannot reach the TLSConfig listener itself,
// the challenge on the plain one will do.
func TestACMEByPlainHTTP(t *testing.T) {
	t.Parallel()
	s := newSite(t, long)
	s.httpAt = acmetest.FreeAddress(t)
	s.ca = acmetest.New(t, *pebblePath, acmetest.Config{TLSPort: 1, HTTPPort: acmetest.PortOf(t, s.httpAt), Lifetime: long})
	s.ca.Start()
	defer s.run()()
	s.await(90*time.Second, s.isFor)
}

func TestACMERenews(t *testing.T) {
	t.Parallel()
	s := newSite(t, 12*time.Second)
	s.checking = time.Second
	s.ca.Start()
	defer s.run()()
	first := s.await(30*time.Second, s.isFor)
	second := s.await(30*time.Second, func(c *x509.Certificate) bool {
		return s.isFor(c) && c.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	if !second.NotBefore.Before(first.NotAfter) {
		t.Errorf("renewed at %v, want before the end of the first certificate at %v", second.NotBefore, first.NotAfter)
	}
}

// TestACMEAuthorityIsAway: handshakes fail as long as there is no certificate,
// and succeed soon after the authority has come.
func TestACMEAuthorityIsAway(t *testing.T) {
	t.Parallel()
	s := newSite(t, long)
	defer s.run()()
	time.Sleep(time.Second) // so that it has been asked for in vain
	if cert, err := s.certificate(); err == nil {
		t.Fatalf("there is a certificate for %v without an authority", cert.DNSNames)
	}
	s.ca.Start()
	s.await(90*time.Second, s.isFor)
}
