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

var pebblePath = flag.String("pebble", "", "the ACME server pebble, which `make acme` builds; without it, its tests are skipped")

// page is the response of the servers in these tests.
const page = "the connect page"

func servePage(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }

// site is a listener that obtains its certificates from a certificate authority.
type site struct {
	t        *testing.T
	domain   string // unique: the challenges of a process share one map
	address  string // of the TLS listener
	httpAt   string // of the plain HTTP listener; empty: none
	dir      string
	ca       *acmetest.Authority
	checking time.Duration
}

// run serves the site until stop is called.
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
		_ = errors.Join(tlsServer.Close(), plain.Close()) // errors of connections that are closed
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

// certificate returns the certificate that the site presents now.
func (s *site) certificate() (*x509.Certificate, error) {
	d := tls.Dialer{Config: &tls.Config{ServerName: s.domain, InsecureSkipVerify: true}} // the root certificate is new in each test
	conn, err := d.DialContext(s.t.Context(), "tcp", s.address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// await waits until the site presents a certificate that matches.
func (s *site) await(within time.Duration, matches func(*x509.Certificate) bool) *x509.Certificate {
	s.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		cert, err := s.certificate()
		if err == nil && matches(cert) {
			return cert
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no matching certificate after %v; the last was %v, %v; the log of the certificate authority:\n%s", within, cert, err, s.ca.Log())
		}
	}
}

func (s *site) isFor(cert *x509.Certificate) bool { return cert.VerifyHostname(s.domain) == nil }

// newSite returns a site whose certificate authority is not running yet.
func newSite(t *testing.T, life time.Duration) *site {
	s := &site{t: t, domain: strings.ToLower(t.Name()) + ".example.test", address: acmetest.FreeAddress(t), dir: t.TempDir()}
	s.ca = acmetest.New(t, *pebblePath, acmetest.Config{TLSPort: acmetest.PortOf(t, s.address), HTTPPort: 1, Lifetime: life})
	return s
}

const long = 90 * 24 * time.Hour

// TestACMEIssuesOnce obtains a certificate by a challenge on the listener itself. A
// restart requests no other one.
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

// TestACMEOverPlainHTTP obtains a certificate by a challenge over plain HTTP, while
// the certificate authority cannot reach the TLS listener.
func TestACMEOverPlainHTTP(t *testing.T) {
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
		t.Errorf("renewed at %v, want before the first certificate expires at %v", second.NotBefore, first.NotAfter)
	}
}

// TestACMEAuthorityUnavailable: handshakes fail while there is no certificate, and
// succeed soon after the certificate authority has started.
func TestACMEAuthorityUnavailable(t *testing.T) {
	t.Parallel()
	s := newSite(t, long)
	defer s.run()()
	time.Sleep(time.Second) // so that the first request has failed
	if cert, err := s.certificate(); err == nil {
		t.Fatalf("a certificate for %v exists before the certificate authority has started", cert.DNSNames)
	}
	s.ca.Start()
	s.await(90*time.Second, s.isFor)
}
