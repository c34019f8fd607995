package autocert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"flag"
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
)

var pebblePath = flag.String("pebble", "", "the ACME server pebble, which `make acme` builds; without it its tests are skipped")

// authority is Pebble, the ACME server that Let's Encrypt tests clients with. It
// reaches all domains at this machine.
type authority struct {
	t       *testing.T
	dir     string
	address string
	cmd     *exec.Cmd
	log     *logBuffer

	roots *x509.CertPool // of its own certificate
}

// authorityConfig says where an authority looks for domains.
type authorityConfig struct {
	tlsPort, httpPort int
	life              time.Duration // of certificates
}

// newAuthority prepares an authority, which does not run yet.
func newAuthority(t *testing.T, c authorityConfig) *authority {
	t.Helper()
	if *pebblePath == "" {
		t.Skip("needs -pebble; `make acme` runs this")
	}
	a := &authority{t: t, dir: t.TempDir(), address: freeAddress(t), log: new(logBuffer)}
	a.roots = a.certificate()
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": a.address,
		"certificate":   filepath.Join(a.dir, "cert.pem"), "privateKey": filepath.Join(a.dir, "key.pem"),
		"httpPort": c.httpPort, "tlsPort": c.tlsPort, "keyAlgorithm": "ecdsa",
		"profiles":   map[string]any{"default": map[string]any{"description": "of tests", "validityPeriod": c.life.Seconds()}},
		"retryAfter": map[string]any{"authz": 1, "order": 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	a.write("pebble.json", config)
	return a
}

func (a *authority) write(name string, data []byte) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), data, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// certificate makes the authority's own certificate, and returns whom to trust.
func (a *authority) certificate() *x509.CertPool {
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

// directory is what ca_url names.
func (a *authority) directory() string { return "https://" + a.address + "/dir" }

// start runs the authority until the test ends.
func (a *authority) start() {
	a.t.Helper()
	a.cmd = exec.Command(*pebblePath, "-config", filepath.Join(a.dir, "pebble.json"), "-dnsserver", serveNames(a.t))
	a.cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		_ = a.cmd.Process.Kill() // it does not end by itself
		_ = a.cmd.Wait()
	})
}

// issued is how many certificates the authority has issued.
func (a *authority) issued() int { return bytes.Count(a.log.bytes(), []byte("Issued certificate")) }

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

// freeAddress returns an address of this machine that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nothing was accepted
	return l.Addr().String()
}

func portOf(t *testing.T, address string) int {
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

// serveNames runs a DNS server that finds every name at this machine, and
// returns its address. Pebble asks over TCP (RFC 1035 section 4.2.2).
func serveNames(t *testing.T) string {
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
			go answerNames(conn)
		}
	}()
	return l.Addr().String()
}

// answerNames answers until whoever asks hangs up or asks nonsense.
func answerNames(conn net.Conn) {
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
		reply, err := nameReply(query)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

func nameReply(query []byte) ([]byte, error) {
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

// page is what the servers of these tests answer with.
const page = "the connect page"

func servePage(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }
