package pleo

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

// Secrets of the tests. No part of them occurs in a text of the program.
const (
	sentToken      = "rt-Zq81/+%: canary-K4x7W"
	clientSecret   = "cs-J9w3/+%: canary-P2m6V"
	previousSecret = "os-L5t2/+%: canary-D8h1N"
	clientID       = "id with/odd+chars%:é"
	tokenResponse  = `{"access_token":"at-1","token_type":"Bearer","expires_in":900,"refresh_token":"rt-2","scope":"users:read export-jobs:read"}`
	jsonMediaType  = "application/json;charset=UTF-8"
)

func secret(s string) func() credstore.Secret {
	return func() credstore.Secret { return credstore.NewSecret(s) }
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// newServer returns the authorization server at base, configured by opts.
func newServer(t testing.TB, base string, opts ...func(*ServerConfig)) *AuthorizationServer {
	t.Helper()
	cfg := ServerConfig{
		URL:          mustURL(t, base),
		ClientID:     clientID,
		ClientSecret: secret(clientSecret),
		Transport:    newTransport(t, outbound.Config{}),
		Timeout:      10 * time.Second,
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	s, err := NewAuthorizationServer(cfg)
	if err != nil {
		t.Fatalf("NewAuthorizationServer: %v", err)
	}
	return s
}

func newTransport(t testing.TB, c outbound.Config) *http.Transport {
	t.Helper()
	transport, err := outbound.NewTransport(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// recordedRequest is a request to a recorder.
type recordedRequest struct {
	Method, Path                   string
	ID, Secret                     string // of Basic authentication, still form-encoded
	Basic                          bool
	Form                           url.Values
	Accept, Encoding, Close, Agent string
}

// recorder is a server that records its requests.
type recorder struct {
	*httptest.Server
	mu   sync.Mutex
	reqs []recordedRequest // guarded by mu
}

func record(t testing.TB, response func(w http.ResponseWriter, req recordedRequest)) *recorder {
	t.Helper()
	r := new(recorder)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := req.ParseForm(); err != nil {
			t.Errorf("parsing the form: %v", err)
		}
		s := recordedRequest{Method: req.Method, Path: req.URL.Path, Form: req.PostForm, Accept: req.Header.Get("Accept"), Encoding: req.Header.Get("Accept-Encoding"), Agent: req.UserAgent()}
		s.ID, s.Secret, s.Basic = req.BasicAuth()
		if req.Close {
			s.Close = "close"
		}
		r.mu.Lock()
		r.reqs = append(r.reqs, s)
		r.mu.Unlock()
		response(w, s)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *recorder) requests() []recordedRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]recordedRequest(nil), r.reqs...)
}

// respond returns a handler that responds with the status and the body.
func respond(status int, body string, header ...string) func(http.ResponseWriter, recordedRequest) {
	return func(w http.ResponseWriter, _ recordedRequest) {
		w.Header().Set("Content-Type", jsonMediaType)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// tcpServer calls serve for each connection and closes it afterwards. It returns its
// address, and ends with the test.
func tcpServer(t testing.TB, serve func(conn *net.TCPConn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return listener.Addr().String()
}

// readRequest reads one request and returns its body.
func readRequest(conn net.Conn) (string, error) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(req.Body)
	return string(body), err
}

// httpResponse returns a complete response as sent over the connection.
func httpResponse(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d Whatever\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		status, jsonMediaType, len(body), body)
}

// chunkedResponse returns the same in two chunks, split at cut.
func chunkedResponse(status int, body string, cut int) string {
	return fmt.Sprintf("HTTP/1.1 %d Whatever\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n",
		status, jsonMediaType, cut, body[:cut], len(body)-cut, body[cut:])
}

// assertNoSecret fails the test if err, printed in any way, contains a part of a
// secret or a text chosen by the server.
func assertNoSecret(t testing.TB, err error) {
	t.Helper()
	for ; err != nil; err = unwrapOne(err) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
			text := fmt.Sprintf(verb, err)
			if strings.Contains(text, "canary") {
				t.Errorf("an error contains a secret or a text of the server: %s", text)
			}
		}
	}
}

func unwrapOne(err error) error {
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return e.Unwrap()
	case interface{ Unwrap() []error }:
		return e.Unwrap()[0]
	}
	return nil
}

// readHead reads a request header byte by byte, so that it reads nothing beyond.
func readHead(conn net.Conn) (string, error) {
	var head []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, b[0]) {
		if _, err := io.ReadFull(conn, b); err != nil {
			return "", err
		}
	}
	return string(head), nil
}

// discardLog returns a log for the errors that tests cause in servers.
func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
