package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
)

// authority is a certificate authority. Its certificates are in PEM.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.pem, a.key = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	block, _ := pem.Decode(a.pem)
	var err error
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) sign(template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: "test"}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.NotBefore = template.NotAfter.Add(-2 * time.Hour)
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key
}

// issue returns a certificate and its key.
func (a *authority) issue(usage x509.ExtKeyUsage) (cert, key []byte) {
	a.t.Helper()
	cert, k := a.sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func (a *authority) clientPair() tls.Certificate {
	a.t.Helper()
	pair, err := tls.X509KeyPair(a.issue(x509.ExtKeyUsageClientAuth))
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// tlsEnv is the TLS files of a listener, and the clock of their reader.
type tlsEnv struct {
	t     *testing.T
	paths config.TLS
	now   time.Time
	files *tlsFiles
}

func newTLSEnv(t *testing.T, server, clients *authority) *tlsEnv {
	t.Helper()
	dir := t.TempDir()
	w := &tlsEnv{t: t, now: time.Now(), paths: config.TLS{
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
	}}
	w.serve(server)
	if clients != nil {
		w.paths.ClientCAFile = filepath.Join(dir, "ca.pem")
		w.write(w.paths.ClientCAFile, clients.pem)
	}
	var err error
	if w.files, err = openTLS(&config.Config{}, "proxy.tls", w.paths, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	w.files.now = func() time.Time { return w.now }
	return w
}

// serve writes a certificate that the authority has signed.
func (w *tlsEnv) serve(a *authority) {
	w.t.Helper()
	cert, key := a.issue(x509.ExtKeyUsageServerAuth)
	w.write(w.paths.CertFile, cert)
	w.write(w.paths.KeyFile, key)
}

// write replaces a file, as Kubernetes and ACME clients do.
func (w *tlsEnv) write(path string, content []byte) {
	w.t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

// dial makes a handshake over a pipe, and returns the error of the client or of the
// server.
func (w *tlsEnv) dial(client *tls.Config) error {
	w.t.Helper()
	client.ServerName = "127.0.0.1"
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	served := make(chan error, 1)
	go func() {
		defer func() { _ = far.Close() }()
		served <- tls.Server(far, w.files.config()).HandshakeContext(w.t.Context())
	}()
	err := tls.Client(near, client).HandshakeContext(w.t.Context())
	if err != nil {
		return err
	}
	return <-served
}

func TestCertificateIsReloaded(t *testing.T) {
	old, renewed := newAuthority(t), newAuthority(t)
	w := newTLSEnv(t, old, nil)
	if err := w.dial(&tls.Config{RootCAs: old.pool()}); err != nil {
		t.Fatalf("handshake = %v, want none", err)
	}
	w.serve(renewed)
	w.now = w.now.Add(2 * fileCheckInterval)
	if err := w.dial(&tls.Config{RootCAs: renewed.pool()}); err != nil {
		t.Errorf("handshake after the renewal = %v, want none", err)
	}
	w.write(w.paths.CertFile, []byte("half a certif"))
	w.now = w.now.Add(2 * fileCheckInterval)
	if err := w.dial(&tls.Config{RootCAs: renewed.pool()}); err != nil {
		t.Errorf("handshake with a broken file = %v, want none: the previous certificate stays in use", err)
	}
}

func TestClientCertificatesFailClosed(t *testing.T) {
	server, clients, other := newAuthority(t), newAuthority(t), newAuthority(t)
	w := newTLSEnv(t, server, clients)
	with := func(pairs ...tls.Certificate) *tls.Config {
		// In TLS 1.2 the client learns of it during the handshake.
		return &tls.Config{RootCAs: server.pool(), Certificates: pairs, MaxVersion: tls.VersionTLS12}
	}
	if err := w.dial(with(clients.clientPair())); err != nil {
		t.Errorf("handshake with a certificate = %v, want none", err)
	}
	if err := w.dial(with()); err == nil {
		t.Error("handshake without a certificate = no error, want one")
	}
	if err := w.dial(with(other.clientPair())); err == nil {
		t.Error("handshake with a certificate of another authority = no error, want one")
	}
	if err := os.Remove(w.paths.ClientCAFile); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(2 * fileCheckInterval)
	if err := w.dial(with(clients.clientPair())); err == nil {
		t.Error("handshake while the CA file cannot be read = no error, want one")
	}
	w.write(w.paths.ClientCAFile, other.pem)
	w.now = w.now.Add(2 * fileCheckInterval)
	if err := w.dial(with(other.clientPair())); err != nil {
		t.Errorf("handshake with the new authority = %v, want none", err)
	}
	if err := w.dial(with(clients.clientPair())); err == nil {
		t.Error("handshake with the old authority = no error, want one")
	}
}

// A resumed session would bypass the new CA certificates.
func TestClientCertificatesAreNotResumed(t *testing.T) {
	server, clients, next := newAuthority(t), newAuthority(t), newAuthority(t)
	w := newTLSEnv(t, server, clients)
	session := &tls.Config{
		RootCAs: server.pool(), Certificates: []tls.Certificate{clients.clientPair()},
		MaxVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	if err := w.dial(session); err != nil {
		t.Fatalf("handshake = %v, want none", err)
	}
	w.write(w.paths.ClientCAFile, next.pem)
	w.now = w.now.Add(2 * fileCheckInterval)
	if err := w.dial(session); err == nil {
		t.Error("handshake by an old session = no error, want one")
	}
}

func TestUnusableTLSFilesAtStartup(t *testing.T) {
	a := newAuthority(t)
	tests := []struct {
		name  string
		spoil func(*tlsEnv)
	}{
		{"no certificate", func(w *tlsEnv) { w.paths.CertFile = "/missing" }},
		{"another key", func(w *tlsEnv) { _, key := a.issue(x509.ExtKeyUsageServerAuth); w.write(w.paths.KeyFile, key) }},
		{"no CA file", func(w *tlsEnv) { w.paths.ClientCAFile = "/missing" }},
		{"a CA file without a certificate", func(w *tlsEnv) { w.write(w.paths.ClientCAFile, []byte("nothing")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newTLSEnv(t, a, a)
			tt.spoil(w)
			if _, err := openTLS(&config.Config{}, "proxy.tls", w.paths, zap.NewNop()); exitCode(err) != exitUsage {
				t.Errorf("openTLS = %v, want a mistake in the configuration", err)
			}
		})
	}
}
