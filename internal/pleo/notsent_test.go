package pleo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

// closedPort is an address that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// rootsOf returns the certificate of the server as a root.
func rootsOf(server *httptest.Server) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return roots
}

func quietTLS(t *testing.T, answer http.HandlerFunc, config *tls.Config) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(answer)
	server.TLS = config
	server.Config.ErrorLog = discardLog()
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// TestRefreshNotSent: refused dials, names that do not resolve and TLS that
// fails never count as sent.
func TestRefreshNotSent(t *testing.T) {
	var requests atomic.Int32
	count := func(http.ResponseWriter, *http.Request) { requests.Add(1) }
	server := quietTLS(t, count, nil)
	old := quietTLS(t, count, &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}) //nolint:gosec // G402: what we refuse
	plainText := tcpServer(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "220 canary ready\r\n") })
	silent := tcpServer(t, func(*net.TCPConn) {})
	trust := func(c *ServerConfig) { c.Transport.TLSClientConfig.RootCAs = rootsOf(server) }

	tests := []struct {
		name, url, says string
		opt             func(*ServerConfig)
	}{
		{"refused", "http://" + closedPort(t), "connection refused", nil},
		{"no such name", "https://canary.invalid", "no such host", failingDNS},
		{"unknown authority", server.URL, "unknown authority", nil},
		{"name on the certificate", strings.Replace(server.URL, "127.0.0.1", "localhost", 1), `not valid for "localhost"`, trust},
		{"TLS too old", old.URL, "TLS", nil},
		{"no TLS", "https://" + plainText, "TLS", nil},
		{"closed during the handshake", "https://" + silent, "connection", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, tt.url, opts(tt.opt)...)
			_, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
			var notSent *NotSentError
			if !errors.As(err, &notSent) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("Refresh = %v, want a NotSentError that says %q", err, tt.says)
			}
			if tt.opt == nil {
				assertNoSecret(t, err)
			}
		})
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests arrived, want 0", n)
	}
}

func opts(opt func(*ServerConfig)) []func(*ServerConfig) {
	if opt == nil {
		return nil
	}
	return []func(*ServerConfig){opt}
}

// failingDNS answers as a resolver does that knows no such name.
func failingDNS(c *ServerConfig) {
	c.Transport.DialContext = func(_ context.Context, network, address string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(address)
		return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
	}
}

func TestRefreshKeepsErrno(t *testing.T) {
	_, err := newServer(t, "http://"+closedPort(t)).Refresh(t.Context(), credstore.NewSecret(sentToken))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Refresh = %v, want ECONNREFUSED", err)
	}
}

func TestRefreshWithCancelledContext(t *testing.T) {
	server := record(t, respond(200, tokenResponse))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newServer(t, server.URL).Refresh(ctx, credstore.NewSecret(sentToken))
	var notSent *NotSentError
	if !errors.As(err, &notSent) || !errors.Is(err, context.Canceled) {
		t.Errorf("Refresh = %v, want a NotSentError of context.Canceled", err)
	}
	if n := len(server.requests()); n != 0 {
		t.Errorf("%d requests, want 0", n)
	}
}

// TestRefreshDialTimeout ends by the timeout, and nothing was sent.
func TestRefreshDialTimeout(t *testing.T) {
	s := newServer(t, "http://127.0.0.1:1", func(c *ServerConfig) {
		c.Timeout = 20 * time.Millisecond
		c.Transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	_, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
	var notSent *NotSentError
	if !errors.As(err, &notSent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Refresh = %v, want a NotSentError of context.DeadlineExceeded", err)
	}
}

// TestRefreshSentWithoutResponse: once bytes may have left, silence is an unknown
// outcome, whatever ended it.
func TestRefreshSentWithoutResponse(t *testing.T) {
	tests := []struct {
		name  string
		serve func(conn *net.TCPConn)
		is    error
	}{
		{"closed after the request", func(conn *net.TCPConn) { _, _ = readRequest(conn) }, nil},
		{"reset after the request", func(conn *net.TCPConn) {
			_, _ = readRequest(conn)
			_ = conn.SetLinger(0)
		}, nil},
		{"reset in the middle of the request", func(conn *net.TCPConn) {
			_, _ = io.ReadFull(conn, make([]byte, 10))
			_ = conn.SetLinger(0)
		}, nil},
		{"no answer in time", func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) }, context.DeadlineExceeded},
		{"not HTTP", func(conn *net.TCPConn) {
			body, _ := readRequest(conn)
			_, _ = io.WriteString(conn, "220 canary "+body+"\r\n")
		}, nil},
		{"a bad head", func(conn *net.TCPConn) {
			body, _ := readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 canary"+body+"\r\n\r\n")
		}, nil},
		{"a bad field", func(conn *net.TCPConn) {
			body, _ := readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncanary "+body+"\r\n\r\n")
		}, nil},
		{"switching protocols", func(conn *net.TCPConn) {
			_, _ = readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 101 canary\r\nConnection: upgrade\r\nUpgrade: canary\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn)
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, "http://"+tcpServer(t, tt.serve), func(c *ServerConfig) { c.Timeout = 500 * time.Millisecond })
			_, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
			var unknown *UnknownOutcomeError
			if !errors.As(err, &unknown) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("Refresh = %#v, want an UnknownError of %v", err, tt.is)
			}
			assertNoSecret(t, err)
		})
	}
}

// TestRefreshResponseWithoutEnd: the end of the caller's patience is not the end of
// what was read until then.
func TestRefreshResponseWithoutEnd(t *testing.T) {
	head, body, _ := strings.Cut(httpResponse(200, tokenResponse+" "), "\r\n\r\n")
	s := newServer(t, "http://"+tcpServer(t, func(conn *net.TCPConn) {
		_, _ = readRequest(conn)
		_, _ = io.WriteString(conn, head+"\r\n\r\n"+strings.TrimSuffix(body, " "))
		_, _ = io.Copy(io.Discard, conn)
	}), func(c *ServerConfig) { c.Timeout = time.Second })
	got, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
	if err != nil || got.RefreshToken.Reveal() != "rt-2" {
		t.Errorf("Refresh = %+v, %v, want the tokens that were read", revealed(got), err)
	}
}

// TestRefreshReturnsAtEndOfJSON: the answer says that it has no end yet.
func TestRefreshReturnsAtEndOfJSON(t *testing.T) {
	released := make(chan struct{})
	s := newServer(t, "http://"+tcpServer(t, func(conn *net.TCPConn) {
		_, _ = readRequest(conn)
		_, _ = io.WriteString(conn, strings.TrimSuffix(chunkedResponse(200, tokenResponse, 20), "0\r\n\r\n"))
		_, _ = io.Copy(io.Discard, conn) // until the client has hung up
		close(released)
	}), func(c *ServerConfig) { c.Timeout = time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(20*time.Second, cancel).Stop()
	got, err := s.Refresh(ctx, credstore.NewSecret(sentToken))
	if err != nil || got.RefreshToken.Reveal() != "rt-2" || ctx.Err() != nil {
		t.Errorf("Refresh = %+v, %v with %v, want the tokens before the context has to end", revealed(got), err, ctx.Err())
	}
	<-released
}

// TestRefreshWriteFails: a connection that fails before it
// has taken a byte is a refresh that was not sent, and one that has taken a
// single byte is not.
func TestRefreshWriteFails(t *testing.T) {
	address := tcpServer(t, func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	for _, takes := range []int{0, 1} {
		s := newServer(t, "http://"+address, func(c *ServerConfig) {
			dial := c.Transport.DialContext
			c.Transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				return &failingConn{Conn: conn, takes: takes}, err
			}
		})
		_, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
		var notSent *NotSentError
		if got := errors.As(err, &notSent); got != (takes == 0) {
			t.Errorf("after %d bytes: Refresh = %v, not sent %v, want %v", takes, err, got, takes == 0)
		}
	}
}

// TestRefreshWriteFailsAfterHandshake: bytes of the TLS handshake are not bytes
// of the request.
func TestRefreshWriteFailsAfterHandshake(t *testing.T) {
	server := quietTLS(t, func(http.ResponseWriter, *http.Request) {}, nil)
	var conn failingAfterHandshake
	s := newServer(t, server.URL, func(c *ServerConfig) {
		c.Transport.TLSClientConfig.RootCAs = rootsOf(server)
		dial := c.Transport.DialContext
		c.Transport.DialContext = func(ctx context.Context, network, address string) (_ net.Conn, err error) {
			conn.Conn, err = dial(ctx, network, address)
			return &conn, err
		}
	})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		TLSHandshakeDone: func(tls.ConnectionState, error) { conn.failing.Store(true) },
	})
	_, err := s.Refresh(ctx, credstore.NewSecret(sentToken))
	var notSent *NotSentError
	if !errors.As(err, &notSent) || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Refresh = %v, want a NotSentError of EPIPE", err)
	}
}

// failingAfterHandshake takes everything until it is told to fail.
type failingAfterHandshake struct {
	net.Conn
	failing atomic.Bool
}

func (c *failingAfterHandshake) Write(b []byte) (int, error) {
	if c.failing.Load() {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(b)
}

// failingConn takes so many bytes of a write, then fails it.
type failingConn struct {
	net.Conn
	takes int
}

func (c *failingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b[:c.takes])
	if err != nil {
		return n, err
	}
	return n, syscall.EPIPE
}

// TestRefreshThroughAProxy: a proxy that does not connect us has sent nothing,
// and neither its words nor its password come out.
func TestRefreshThroughAProxy(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, tokenResponse)
	}))
	defer server.Close()
	for _, status := range []string{"200 Connected", "407 canary", "503 canary"} {
		address := tcpServer(t, func(conn *net.TCPConn) { connect(conn, status, server.Listener.Addr().String()) })
		s := newServer(t, server.URL, func(c *ServerConfig) {
			c.Transport = newTransport(t, outbound.Config{
				Roots: rootsOf(server), ForwardProxy: &url.URL{Scheme: "http", Host: address, User: url.UserPassword("me", "canary")},
			})
		})
		_, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
		assertNoSecret(t, err)
		var notSent *NotSentError
		if refused := errors.As(err, &notSent); refused == strings.HasPrefix(status, "200") {
			t.Errorf("Refresh through a proxy that answers %q = %v", status, err)
		}
	}
}

// connect answers a CONNECT request with the status, and joins the connection
// with the address if that is a good one.
func connect(conn *net.TCPConn, status, address string) {
	if _, err := readHead(conn); err != nil {
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 "+status+"\r\n\r\n")
	if !strings.HasPrefix(status, "200") {
		return
	}
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(server, conn)
		_ = server.Close()
	}()
	_, _ = io.Copy(conn, server)
}
