package outbound

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNewTransportErrors(t *testing.T) {
	for proxy, want := range map[string]string{"ftp://u:canary@host": `"ftp"`, "http://u:canary@/x": "no host"} {
		u, err := url.Parse(proxy)
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewTransport(Config{ForwardProxy: u})
		if err == nil || got != nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("NewTransport with the proxy %s = %v, %v, want an error that contains %q", proxy, got, err, want)
		}
	}
}

func TestReadRoots(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	roots, err := ReadRoots(ca)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Certificate().Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		t.Errorf("the roots do not verify the certificate in the file: %v", err)
	}
	if roots, err := ReadRoots(""); roots != nil || err != nil {
		t.Errorf("ReadRoots without a file = %v, %v, want nil", roots, err)
	}
	for path, want := range map[string]string{filepath.Join(dir, "missing.pem"): "missing.pem", write("junk.pem", []byte("junk")): "no PEM certificate"} {
		if _, err := ReadRoots(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadRoots(%s) = %v, want an error that contains %q", path, err, want)
		}
	}
}

func TestNewTransportIgnoresEnvironment(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	transport, err := NewTransport(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if transport.Proxy != nil {
		t.Error("the transport uses a proxy from the environment, want none")
	}
}

// TestTransportPassesResponsesThrough checks that the transport uses HTTP/1.1 where
// the server offers HTTP/2, verifies TLS by the given roots, and adds no header and
// no decompression.
func TestTransportPassesResponsesThrough(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %q", r.Proto, r.Header.Values("Accept-Encoding"))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	transport, err := NewTransport(Config{Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(httptest.NewRequest(http.MethodGet, server.URL, nil))
	if err != nil {
		t.Fatalf("RoundTrip: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if got, want := string(body), "HTTP/1.1 []"; err != nil || got != want {
		t.Errorf("the server received %s, %v, want %s", got, err, want)
	}
	if transport.TLSClientConfig.MinVersion != tls.VersionTLS12 || transport.MaxIdleConnsPerHost < 256 {
		t.Errorf("TLS from %x, %d idle connections, want 1.2 and at least 256",
			transport.TLSClientConfig.MinVersion, transport.MaxIdleConnsPerHost)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                              0,
		"120":                           2 * time.Minute,
		" 1.5 ":                         1500 * time.Millisecond,
		"-1":                            0,
		"NaN":                           0,
		"Inf":                           0,
		"31536000":                      24 * time.Hour,
		"Wed, 02 Jan 2030 04:04:05 GMT": time.Hour,
		"Wed, 02 Jan 2030 02:04:05 GMT": 0,
		"Tue, 01 Jan 2099 00:00:00 GMT": 24 * time.Hour,
		"soon":                          0,
	} {
		if got := RetryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("RetryAfter(%q) = %v, want %v", value, got, want)
		}
	}
}

func TestProbe(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	date, header, err := Probe(t.Context(), http.DefaultTransport, u)
	if err != nil || time.Since(date) > time.Minute || header.Get("Content-Type") == "" {
		t.Errorf("Probe = %v, %v, %v, want the server's time and header", date, header, err)
	}
	server.Close()
	_, _, err = Probe(t.Context(), http.DefaultTransport, u)
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Hint != hintRefused {
		t.Errorf("Probe of a closed port = %v, want an UnreachableError with the hint %q", err, hintRefused)
	}
}
