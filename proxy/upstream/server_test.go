package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// rawServer serves TCP connections by a function, and records what it reads.
type rawServer struct {
	address string

	mu    sync.Mutex // guards the fields below
	seen  strings.Builder
	conns int
}

// serveRaw calls handle for each connection, with its number from 1.
func serveRaw(t testing.TB, handle func(r *bufio.Reader, c net.Conn, n int)) *rawServer {
	t.Helper()
	return serveRawOn(t, listen(t), handle)
}

func serveRawOn(t testing.TB, l net.Listener, handle func(r *bufio.Reader, c net.Conn, n int)) *rawServer {
	t.Helper()
	s := &rawServer{address: l.Addr().String()}
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns++
			n := s.conns
			s.mu.Unlock()
			running.Go(func() {
				defer func() { _ = c.Close() }()
				handle(bufio.NewReader(io.TeeReader(c, s)), c, n)
			})
		}
	})
	return s
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Write records what was read from a connection.
func (s *rawServer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.Write(p)
}

func (s *rawServer) received() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.String()
}

func (s *rawServer) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// readRequest reads a request to its end, and reports whether there was one.
func readRequest(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

const okResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// respond serves each request with the next of the responses, and then closes the
// connection.
func respond(responses ...string) func(*bufio.Reader, net.Conn, int) {
	return func(r *bufio.Reader, c net.Conn, _ int) {
		for _, response := range responses {
			if !readRequest(r) {
				return
			}
			_, _ = io.WriteString(c, response)
		}
	}
}

// respondForever serves every request with the same response.
func respondForever(r *bufio.Reader, c net.Conn, _ int) {
	for readRequest(r) {
		_, _ = io.WriteString(c, okResponse)
	}
}

func newClient(t testing.TB, address string, adjust ...func(*Config)) *Client {
	t.Helper()
	config := Config{URL: &url.URL{Scheme: "http", Host: address}, ResponseTimeout: 20 * time.Second}
	for _, f := range adjust {
		f(&config)
	}
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func get(target string) *Request { return &Request{Method: "GET", Target: target} }

func post(body string) *Request {
	return &Request{Method: "POST", Target: "/", Body: strings.NewReader(body), ContentLength: int64(len(body))}
}

// result is a response that was read to its end, or why there is none.
type result struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
	err     error // of Do, or of reading the body
}

func do(t testing.TB, c *Client, r *Request) result {
	t.Helper()
	return doContext(t.Context(), c, r)
}

func doContext(ctx context.Context, c *Client, r *Request) result {
	res, err := c.Do(ctx, r)
	if err != nil {
		return result{err: err}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return result{res.StatusCode, res.Header, string(body), res.Trailer, err}
}

// waitIdle waits until the client has an idle connection. The connection of a
// request with a body may be released only after its response was read.
func waitIdle(t testing.TB, c *Client) {
	t.Helper()
	waitFor(t, func() bool {
		c.pool.mu.Lock()
		defer c.pool.mu.Unlock()
		return len(c.pool.conns) > 0
	})
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the condition did not become true")
}

func (r result) check(t testing.TB, status int, body string) {
	t.Helper()
	if r.status != status || r.body != body || r.err != nil {
		t.Errorf("response = %d %.100q, %v, want %d %.100q", r.status, r.body, r.err, status, body)
	}
}

// checkPhase checks that there is no response, or none to the end, and why.
func (r result) checkPhase(t testing.TB, want Phase) {
	t.Helper()
	if e, ok := errors.AsType[*Error](r.err); !ok || e.Phase != want {
		t.Errorf("error = %v, want one of phase %d", r.err, want)
	}
}

// certificate returns a certificate for 127.0.0.1 and example.com, and its
// authority.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return s.TLS.Certificates[0], s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
}

// listenTLS returns a listener and what makes a client trust it.
func listenTLS(t testing.TB) (net.Listener, func(*Config)) {
	t.Helper()
	cert, roots := certificate(t)
	l := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	return l, func(c *Config) { c.URL.Scheme, c.RootCAs = "https", roots }
}
