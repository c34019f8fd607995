// Package acmetest starts Pebble, the ACME server that Let's Encrypt tests clients
// with, for tests that get certificates from it.
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

// Authority is a Pebble that reaches all domains at this machine.
type Authority struct {
	// ServerRoots is whom to trust when talking to it, as RootFile holds it.
	ServerRoots *x509.CertPool

	t          *testing.T
	pebble     string // the program
	dir        string
	address    string
	management string // where it tells its roots
	cmd        *exec.Cmd
	log        *logBuffer
}

// Config says where an [Authority] looks for domains, and what it issues.
type Config struct {
	TLSPort, HTTPPort int
	Lifetime          time.Duration // of certificates
}

// New prepares an authority, which does not run yet. It skips the test where
// there is no pebble.
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
		"profiles":   map[string]any{"default": map[string]any{"description": "of tests", "validityPeriod": c.Lifetime.Seconds()}},
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

// certificate makes the authority's own certificate, and returns whom to trust.
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

// RootFile is a file with whom to trust when talking to the authority.
func (a *Authority) RootFile() string { return filepath.Join(a.dir, "cert.pem") }

// Directory is where clients begin (RFC 8555 section 7.1.1).
func (a *Authority) Directory() string { return "https://" + a.address + "/dir" }

// Start runs the authority until the test ends, and returns once it answers.
func (a *Authority) Start() {
	a.t.Helper()
	a.cmd = exec.Command(a.pebble, "-config", filepath.Join(a.dir, "pebble.json"), "-dnsserver", serveDNS(a.t))
	a.cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		_ = a.cmd.Process.Kill() // it does not end by itself
		_ = a.cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); !accepts(a.address) || !accepts(a.management); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			a.t.Fatalf("the authority does not answer; it says:\n%s", a.Log())
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

// Roots returns whom the certificates come from that the authority issues: others
// after each start.
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
		a.t.Fatalf("the authority tells no root: %v, %s", err, pem)
	}
	return roots
}

// Log is what the authority has said.
func (a *Authority) Log() string { return string(a.log.bytes()) }

// Issued is how many certificates the authority has issued.
func (a *Authority) Issued() int { return bytes.Count(a.log.bytes(), []byte("Issued certificate")) }

// logBuffer is a log that may be read while it is written.
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

// FreeAddress returns an address of this machine that nobody listens at.
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

// serveDNS runs a DNS server that finds every name at this machine, and
// returns its address. Pebble asks over TCP (RFC 1035 section 4.2.2).
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

// handleDNS answers until whoever asks hangs up or asks nonsense.
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
		reply, err := dnsResponse(query)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

func dnsResponse(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, fmt.Errorf("not a question: %w", err)
	}
	q := m.Questions[0]
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: m.Questions,
	}
	if q.Type == dnsmessage.TypeA {
		reply.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	return reply.Pack()
}
