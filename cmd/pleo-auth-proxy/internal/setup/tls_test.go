package setup

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/testca"
)

// tlsEnv is the TLS files of a listener, and the clock of their reader.
type tlsEnv struct {
	t     *testing.T
	paths config.TLS
	now   time.Time
	files *TLSFiles
}

func newTLSEnv(t *testing.T, server, clients *testca.Authority) *tlsEnv {
	t.Helper()
	dir := t.TempDir()
	w := &tlsEnv{t: t, now: time.Now(), paths: config.TLS{
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
	}}
	w.serve(server)
	if clients != nil {
		w.paths.ClientCAFile = filepath.Join(dir, "ca.pem")
		w.write(w.paths.ClientCAFile, clients.PEM)
	}
	var err error
	if w.files, err = openTLS(&config.Config{}, "proxy.tls", w.paths, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	w.files.now = func() time.Time { return w.now }
	return w
}

// serve writes a certificate that the authority has signed.
func (w *tlsEnv) serve(a *testca.Authority) {
	w.t.Helper()
	cert, key := a.Issue(x509.ExtKeyUsageServerAuth)
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
		served <- tls.Server(far, w.files.Config()).HandshakeContext(w.t.Context())
	}()
	err := tls.Client(near, client).HandshakeContext(w.t.Context())
	if err != nil {
		return err
	}
	return <-served
}

func TestCertificateIsReloaded(t *testing.T) {
	old, renewed := testca.New(t), testca.New(t)
	w := newTLSEnv(t, old, nil)
	if err := w.dial(&tls.Config{RootCAs: old.Pool()}); err != nil {
		t.Fatalf("handshake = %v, want none", err)
	}
	w.serve(renewed)
	w.now = w.now.Add(2 * fileCheckInterval)
	if err := w.dial(&tls.Config{RootCAs: renewed.Pool()}); err != nil {
		t.Errorf("handshake after the renewal = %v, want none", err)
	}
	w.write(w.paths.CertFile, []byte("half a certif"))
	w.now = w.now.Add(2 * fileCheckInterval)
	if err := w.dial(&tls.Config{RootCAs: renewed.Pool()}); err != nil {
		t.Errorf("handshake with a broken file = %v, want none: the previous certificate stays in use", err)
	}
}

func TestClientCertificatesFailClosed(t *testing.T) {
	server, clients, other := testca.New(t), testca.New(t), testca.New(t)
	w := newTLSEnv(t, server, clients)
	with := func(pairs ...tls.Certificate) *tls.Config {
		// In TLS 1.2 the client learns of it during the handshake.
		return &tls.Config{RootCAs: server.Pool(), Certificates: pairs, MaxVersion: tls.VersionTLS12}
	}
	if err := w.dial(with(clients.ClientPair())); err != nil {
		t.Errorf("handshake with a certificate = %v, want none", err)
	}
	if err := w.dial(with()); err == nil {
		t.Error("handshake without a certificate = no error, want one")
	}
	if err := w.dial(with(other.ClientPair())); err == nil {
		t.Error("handshake with a certificate of another authority = no error, want one")
	}
	if err := os.Remove(w.paths.ClientCAFile); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(2 * fileCheckInterval)
	if err := w.dial(with(clients.ClientPair())); err == nil {
		t.Error("handshake while the CA file cannot be read = no error, want one")
	}
	w.write(w.paths.ClientCAFile, other.PEM)
	w.now = w.now.Add(2 * fileCheckInterval)
	if err := w.dial(with(other.ClientPair())); err != nil {
		t.Errorf("handshake with the new authority = %v, want none", err)
	}
	if err := w.dial(with(clients.ClientPair())); err == nil {
		t.Error("handshake with the old authority = no error, want one")
	}
}

// A resumed session would bypass the new CA certificates.
func TestClientCertificatesAreNotResumed(t *testing.T) {
	server, clients, next := testca.New(t), testca.New(t), testca.New(t)
	w := newTLSEnv(t, server, clients)
	session := &tls.Config{
		RootCAs: server.Pool(), Certificates: []tls.Certificate{clients.ClientPair()},
		MaxVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	if err := w.dial(session); err != nil {
		t.Fatalf("handshake = %v, want none", err)
	}
	w.write(w.paths.ClientCAFile, next.PEM)
	w.now = w.now.Add(2 * fileCheckInterval)
	if err := w.dial(session); err == nil {
		t.Error("handshake by an old session = no error, want one")
	}
}

func TestUnusableTLSFilesAtStartup(t *testing.T) {
	a := testca.New(t)
	tests := []struct {
		name  string
		spoil func(*tlsEnv)
	}{
		{"no certificate", func(w *tlsEnv) { w.paths.CertFile = "/missing" }},
		{"another key", func(w *tlsEnv) { _, key := a.Issue(x509.ExtKeyUsageServerAuth); w.write(w.paths.KeyFile, key) }},
		{"no CA file", func(w *tlsEnv) { w.paths.ClientCAFile = "/missing" }},
		{"a CA file without a certificate", func(w *tlsEnv) { w.write(w.paths.ClientCAFile, []byte("nothing")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newTLSEnv(t, a, a)
			tt.spoil(w)
			var mistakes *config.Error
			if _, err := openTLS(&config.Config{}, "proxy.tls", w.paths, zap.NewNop()); !errors.As(err, &mistakes) {
				t.Errorf("openTLS = %v, want a mistake in the configuration", err)
			}
		})
	}
}
