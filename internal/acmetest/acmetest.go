// Package acmetest runs Pebble, the ACME test server of Let's Encrypt, for tests.
package acmetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/freeport"
)

// Authority is a certificate authority for which all domains resolve to this
// machine.
type Authority struct {
	// ServerRoots verifies the certificate of its server, as RootFile does.
	ServerRoots *x509.CertPool

	t          *testing.T
	pebble     string // the program
	dir        string
	address    string
	management string // address that serves the root certificates
	cmd        *exec.Cmd
	log        *logBuffer
}

// Config configures an [Authority]: the ports at which it validates domains, and
// its certificates.
type Config struct {
	TLSPort, HTTPPort int
	Lifetime          time.Duration // of certificates
}

// New returns an authority that is not running yet. pebble is the path of the
// program; if it is empty, New skips the test.
func New(t *testing.T, pebble string, c Config) *Authority {
	t.Helper()
	if pebble == "" {
		t.Skip("needs -pebble; `make acme` runs this")
	}
	a := &Authority{t: t, pebble: pebble, dir: t.TempDir(), address: FreeAddress(t), management: FreeAddress(t), log: new(logBuffer)}
	a.ServerRoots = a.certificate()
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": a.address, "managementListenAddress": a.management,
		"certificate": filepath.Join(a.dir, "cert.pem"), "privateKey": filepath.Join(a.dir, "key.pem"),
		"httpPort": c.HTTPPort, "tlsPort": c.TLSPort, "keyAlgorithm": "ecdsa",
		"profiles":   map[string]any{"default": map[string]any{"description": "for tests", "validityPeriod": c.Lifetime.Seconds()}},
		"retryAfter": map[string]any{"authz": 1, "order": 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	a.write("pebble.json", config)
	return a
}

func (a *Authority) write(name string, data []byte) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), data, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// certificate creates the certificate of the authority's server and returns a pool
// that verifies it.
func (a *Authority) certificate() *x509.CertPool {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pebble"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.write("cert.pem", cert)
	a.write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	return roots
}

// RootFile is the path of a PEM file that verifies the authority's server.
func (a *Authority) RootFile() string { return filepath.Join(a.dir, "cert.pem") }

// Directory is the URL of the directory (RFC 8555 section 7.1.1).
func (a *Authority) Directory() string { return "https://" + a.address + "/dir" }

// Start runs the authority until the test ends, and returns when it is ready.
func (a *Authority) Start() {
	a.t.Helper()
	a.cmd = exec.Command(a.pebble, "-config", filepath.Join(a.dir, "pebble.json"), "-dnsserver", serveDNS(a.t))
	a.cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		_ = a.cmd.Process.Kill() // it does not exit by itself
		_ = a.cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); !accepts(a.address) || !accepts(a.management); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			a.t.Fatalf("timeout while waiting for the authority; its log:\n%s", a.Log())
		}
	}
}

func accepts(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// Roots returns the roots of the certificates that the authority issues. They
// change with every start.
func (a *Authority) Roots() *x509.CertPool {
	a.t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.ServerRoots}}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Get("https://" + a.management + "/roots/0")
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	pem, err := io.ReadAll(res.Body)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		a.t.Fatalf("reading the root certificate: %v, %s", err, pem)
	}
	return roots
}

// Log returns what the authority has logged.
func (a *Authority) Log() string { return string(a.log.bytes()) }

// Issued returns how many certificates the authority has issued.
func (a *Authority) Issued() int { return bytes.Count(a.log.bytes(), []byte("Issued certificate")) }

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.buf.Bytes())
}

// FreeAddress returns an address of this machine on which no process listens.
func FreeAddress(t *testing.T) string {
	t.Helper()
	address, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// PortOf returns the port of an address.
func PortOf(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// serveDNS runs a DNS server that resolves every name to this machine, and returns
// its address. Pebble uses TCP (RFC 1035 section 4.2.2).
func serveDNS(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go handleDNS(conn)
		}
	}()
	return l.Addr().String()
}

// handleDNS serves queries until the client closes the connection or sends a
// malformed query.
func handleDNS(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		response, err := dnsResponse(query)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(response))), response...)); err != nil {
			return
		}
	}
}

func dnsResponse(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, fmt.Errorf("parsing the query: %w", err)
	}
	q := m.Questions[0]
	response := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: m.Questions,
	}
	if q.Type == dnsmessage.TypeA {
		response.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	return response.Pack()
}
