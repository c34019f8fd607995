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

// closedPort returns an address that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// rootsOf returns a pool with the certificate of the server.
func rootsOf(server *httptest.Server) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return roots
}

func quietTLS(t *testing.T, response http.HandlerFunc, config *tls.Config) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(response)
	server.TLS = config
	server.Config.ErrorLog = discardLog()
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// TestRefreshNotSent checks that a request is not sent if the name does not resolve,
// the connection is refused or TLS fails.
func TestRefreshNotSent(t *testing.T) {
	var requests atomic.Int32
	count := func(http.ResponseWriter, *http.Request) { requests.Add(1) }
	server := quietTLS(t, count, nil)
	old := quietTLS(t, count, &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}) //nolint:gosec // G402: the version to reject
	plainText := tcpServer(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "220 canary ready\r\n") })
	silent := tcpServer(t, func(*net.TCPConn) {})
	trust := func(c *ServerConfig) { c.Transport.TLSClientConfig.RootCAs = rootsOf(server) }

	tests := []struct {
		name, url, want string
		opt             func(*ServerConfig)
	}{
		{"connection refused", "http://" + closedPort(t), "connection refused", nil},
		{"no such host", "https://canary.invalid", "no such host", failingDNS},
		{"unknown authority", server.URL, "unknown authority", nil},
		{"certificate for another host", strings.Replace(server.URL, "127.0.0.1", "localhost", 1), `not valid for "localhost"`, trust},
		{"TLS too old", old.URL, "TLS", nil},
		{"no TLS", "https://" + plainText, "TLS", nil},
		{"closed during the handshake", "https://" + silent, "connection", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, tt.url, opts(tt.opt)...)
			_, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
			var notSent *NotSentError
			if !errors.As(err, &notSent) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Refresh = %v, want a NotSentError that contains %q", err, tt.want)
			}
			if tt.opt == nil {
				assertNoSecret(t, err)
			}
		})
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests received, want 0", n)
	}
}

func opts(opt func(*ServerConfig)) []func(*ServerConfig) {
	if opt == nil {
		return nil
	}
	return []func(*ServerConfig){opt}
}

// failingDNS makes dialing fail as for an unknown name.
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

// TestRefreshDialTimeout checks that the timeout ends dialing, and nothing is sent.
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

// TestRefreshSentWithoutResponse checks that the outcome is unknown once bytes may
// have been sent, whatever ended the exchange.
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
		{"reset during the request", func(conn *net.TCPConn) {
			_, _ = io.ReadFull(conn, make([]byte, 10))
			_ = conn.SetLinger(0)
		}, nil},
		{"timeout", func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) }, context.DeadlineExceeded},
		{"not HTTP", func(conn *net.TCPConn) {
			body, _ := readRequest(conn)
			_, _ = io.WriteString(conn, "220 canary "+body+"\r\n")
		}, nil},
		{"invalid status line", func(conn *net.TCPConn) {
			body, _ := readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 canary"+body+"\r\n\r\n")
		}, nil},
		{"invalid header field", func(conn *net.TCPConn) {
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
				t.Fatalf("Refresh = %#v, want an UnknownOutcomeError of %v", err, tt.is)
			}
			assertNoSecret(t, err)
		})
	}
}

// TestRefreshResponseWithoutEnd checks that the tokens read before a timeout are
// returned.
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

// TestRefreshReturnsAtEndOfJSON checks that Refresh does not wait for the last chunk.
func TestRefreshReturnsAtEndOfJSON(t *testing.T) {
	released := make(chan struct{})
	s := newServer(t, "http://"+tcpServer(t, func(conn *net.TCPConn) {
		_, _ = readRequest(conn)
		_, _ = io.WriteString(conn, strings.TrimSuffix(chunkedResponse(200, tokenResponse, 20), "0\r\n\r\n"))
		_, _ = io.Copy(io.Discard, conn) // until the client closes the connection
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

// TestRefreshWriteFails checks that a request is not sent only if not a single byte
// was written.
func TestRefreshWriteFails(t *testing.T) {
	address := tcpServer(t, func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	for _, accepts := range []int{0, 1} {
		s := newServer(t, "http://"+address, func(c *ServerConfig) {
			dial := c.Transport.DialContext
			c.Transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				return &failingConn{Conn: conn, accepts: accepts}, err
			}
		})
		_, err := s.Refresh(t.Context(), credstore.NewSecret(sentToken))
		var notSent *NotSentError
		if got := errors.As(err, &notSent); got != (accepts == 0) {
			t.Errorf("after %d bytes: Refresh = %v, not sent %v, want %v", accepts, err, got, accepts == 0)
		}
	}
}

// TestRefreshWriteFailsAfterHandshake checks that the bytes of the TLS handshake do not
// count as bytes of the request.
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

// failingAfterHandshake fails writes once failing is set.
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

// failingConn writes the first bytes of a write, then fails it.
type failingConn struct {
	net.Conn
	accepts int
}

func (c *failingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b[:c.accepts])
	if err != nil {
		return n, err
	}
	return n, syscall.EPIPE
}

// TestRefreshThroughAProxy checks that nothing is sent if the forward proxy rejects the
// CONNECT request, and that neither its text nor its password appear in the error.
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
		if got := errors.As(err, &notSent); got == strings.HasPrefix(status, "200") {
			t.Errorf("Refresh through a proxy with status %q = %v", status, err)
		}
	}
}

// connect responds to a CONNECT request with the status. If that is 200, it connects
// the client to the address.
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
