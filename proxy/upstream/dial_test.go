package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http/httpguts"
)

func TestTLS(t *testing.T) {
	l, adjust := listenTLS(t)
	s := serveRawOn(t, l, respondForever)
	c := newClient(t, s.address, adjust)
	for range 20 { // also past the session tickets of TLS 1.3
		do(t, c, get("/")).check(t, 200, "ok")
	}
	if n := s.connections(); n != 1 {
		t.Errorf("connections = %d, want 1", n)
	}
	do(t, c, post("hi")).check(t, 200, "ok")
}

func TestTLSIsVerified(t *testing.T) {
	tests := []struct {
		name   string
		adjust func(c *Config)
		server func(*tls.Config)
		ok     bool
	}{
		{"as configured", nil, nil, true},
		{"other authorities", func(c *Config) { c.RootCAs = nil }, nil, false},
		{"another name", func(c *Config) { c.URL.Host = strings.Replace(c.URL.Host, "127.0.0.1", "localhost", 1) }, nil, false},
		{"old version", nil, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, false},
		{"plain HTTP", func(c *Config) { c.URL.Scheme = "http" }, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert, roots := certificate(t)
			config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
			if tt.server != nil {
				tt.server(config)
			}
			s := serveRawOn(t, tls.NewListener(listen(t), config), respondForever)
			c := newClient(t, s.address, func(c *Config) {
				c.URL.Scheme, c.RootCAs = "https", roots
				if tt.adjust != nil {
					tt.adjust(c)
				}
			})
			got := do(t, c, get("/"))
			if tt.ok {
				got.check(t, 200, "ok")
			} else if got.err == nil || s.received() != "" {
				t.Errorf("error = %v, the server got %q, want one and nothing", got.err, s.received())
			}
		})
	}
}

// forwardProxy is an HTTP proxy that supports CONNECT.
type forwardProxy struct {
	address string

	mu    sync.Mutex // guards heads
	heads []http.Header
}

// newForwardProxy serves a proxy that responds with status and connects to target
// whatever the client requests.
func newForwardProxy(t *testing.T, l net.Listener, target, status string) *forwardProxy {
	t.Helper()
	p := &forwardProxy{}
	p.address = serveRawOn(t, l, func(r *bufio.Reader, c net.Conn, _ int) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		p.mu.Lock()
		req.Header.Set("X-Line", req.Method+" "+req.RequestURI+" "+req.Host)
		p.heads = append(p.heads, req.Header)
		p.mu.Unlock()
		_, _ = fmt.Fprintf(c, "HTTP/1.1 %s\r\n\r\n", status)
		if strings.HasPrefix(status, "200") {
			pipe(c, r, target)
		}
	}).address
	return p
}

// pipe copies between a client and target.
func pipe(c net.Conn, r io.Reader, target string) {
	to, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	go func() {
		_, _ = io.Copy(to, r)
		_ = to.Close()
	}()
	_, _ = io.Copy(c, to)
}

func (p *forwardProxy) header(name string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var values []string
	for _, h := range p.heads {
		values = append(values, h.Get(name))
	}
	return values
}

func TestForwardProxy(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS to the server: %v", scheme, secure), func(t *testing.T) {
				l, adjust := listen(t), func(*Config) {}
				if secure {
					l, adjust = listenTLS(t)
				}
				s := serveRawOn(t, l, respondForever)
				proxyListener := listen(t)
				if scheme == "https" {
					cert, _ := certificate(t)
					proxyListener = tls.NewListener(proxyListener, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
				}
				p := newForwardProxy(t, proxyListener, s.address, "200 Connection established")
				c := newClient(t, "example.com", adjust, func(c *Config) {
					_, c.RootCAs = certificate(t)
					c.ProxyURL = &url.URL{Scheme: scheme, Host: p.address, User: url.UserPassword("user", "pass:word")}
				})
				do(t, c, post("hi")).check(t, 200, "ok")
				waitIdle(t, c)
				do(t, c, get("/")).check(t, 200, "ok")
				port := map[bool]string{false: "80", true: "443"}[secure]
				if got, want := fmt.Sprint(p.header("X-Line")), fmt.Sprintf("[CONNECT example.com:%s example.com:%s]", port, port); got != want {
					t.Errorf("requests to the proxy = %s, want %s", got, want)
				}
				if got := fmt.Sprint(p.header("Proxy-Authorization")); got != "[Basic dXNlcjpwYXNzOndvcmQ=]" {
					t.Errorf("credentials for the proxy = %s, want those of the URL", got)
				}
				if strings.Contains(s.received(), "Proxy-") {
					t.Errorf("the server got %q, want nothing for the proxy", s.received())
				}
			})
		}
	}
}

func TestForwardProxyRejects(t *testing.T) {
	for status, code := range map[string]int{"407 evil": 407, "403 evil": 403, "502 evil": 502, "204 No Content": 204} {
		p := newForwardProxy(t, listen(t), "", status)
		c := newClient(t, "example.com", func(c *Config) { c.ProxyURL = &url.URL{Scheme: "http", Host: p.address} })
		got := do(t, c, get("/"))
		got.checkPhase(t, NotSent)
		if e, ok := errors.AsType[*ProxyError](got.err); !ok || e.StatusCode != code || strings.Contains(got.err.Error(), "evil") {
			t.Errorf("error = %v, want a ProxyError with %d and nothing of the response", got.err, code)
		}
	}
}

func TestForwardProxyFails(t *testing.T) {
	for name, response := range map[string]string{
		"closes": "", "not HTTP": "SSH-2.0-evil\r\n", "endless head": "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: evil\r\n", 10_000),
		"sends data first": "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 evil\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := serveRaw(t, func(r *bufio.Reader, c net.Conn, _ int) {
				readHead(r)
				_, _ = io.WriteString(c, response)
			})
			c := newClient(t, "example.com", func(c *Config) { c.ProxyURL = &url.URL{Scheme: "http", Host: s.address} })
			got := do(t, c, get("/"))
			if got.checkPhase(t, NotSent); got.err == nil || strings.Contains(got.err.Error(), "evil") {
				t.Errorf("error = %v, want one without anything of the response", got.err)
			}
		})
	}
}

func TestSOCKSProxy(t *testing.T) {
	l, adjust := listenTLS(t)
	s := serveRawOn(t, l, respondForever)
	var asked, user string
	p := serveRaw(t, func(r *bufio.Reader, c net.Conn, _ int) { // RFC 1928, RFC 1929
		_, _ = io.ReadFull(r, make([]byte, 2))
		methods, _ := r.ReadByte()
		_ = methods
		for r.Buffered() > 0 {
			_, _ = r.ReadByte()
		}
		_, _ = c.Write([]byte{5, 2})
		_, _ = r.ReadByte()
		user = readString(r) + ":" + readString(r)
		_, _ = c.Write([]byte{1, 0})
		_, _ = io.ReadFull(r, make([]byte, 4))
		host := readString(r)
		port := make([]byte, 2)
		_, _ = io.ReadFull(r, port)
		asked = fmt.Sprintf("%s:%d", host, binary.BigEndian.Uint16(port))
		_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		pipe(c, r, s.address)
	})
	c := newClient(t, "example.com", adjust, func(c *Config) {
		c.ProxyURL = &url.URL{Scheme: "socks5", Host: p.address, User: url.UserPassword("user", "password")}
	})
	do(t, c, post("hi")).check(t, 200, "ok")
	if asked != "example.com:443" || user != "user:password" {
		t.Errorf("the proxy was asked for %q by %q, want example.com:443 by user:password", asked, user)
	}
}

func readString(r *bufio.Reader) string {
	n, err := r.ReadByte()
	if err != nil {
		return ""
	}
	s := make([]byte, n)
	_, _ = io.ReadFull(r, s)
	return string(s)
}

func TestSOCKSProxyFails(t *testing.T) {
	s := serveRaw(t, func(r *bufio.Reader, c net.Conn, _ int) {
		_, _ = io.ReadFull(r, make([]byte, 3))
		_, _ = c.Write([]byte{5, 0xff}) // no method is acceptable
	})
	c := newClient(t, "example.com", func(c *Config) { c.ProxyURL = &url.URL{Scheme: "socks5", Host: s.address} })
	do(t, c, get("/")).checkPhase(t, NotSent)
}

// FuzzResponse checks that for everything a server can send, Do does not panic, the
// body is not longer than its framing says, and the connection is not reused after
// anything but a complete response.
func FuzzResponse(f *testing.F) {
	for _, raw := range []string{
		okResponse, okResponse + okResponse, "HTTP/1.1 103 Early Hints\r\n\r\n" + okResponse, "HTTP/1.0 200 OK\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\n folded\r\nContent-Length: 0\r\n\r\n",
	} {
		f.Add(raw, "GET")
		f.Add(raw, "HEAD")
		f.Add(raw, "POST")
	}
	f.Fuzz(func(t *testing.T, raw, method string) {
		if !httpguts.ValidHeaderFieldName(method) {
			return
		}
		conns := 0
		c, err := New(Config{URL: &url.URL{Scheme: "http", Host: "api.test"}, Dial: fuzzDialer(raw, &conns)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		res, err := c.Do(t.Context(), &Request{Method: method, Target: "/"})
		if err != nil {
			checkFuzzError(t, err)
			return
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			checkFuzzError(t, err)
		}
		if res.StatusCode < 200 || res.ContentLength >= 0 && method != "HEAD" && int64(len(body)) > res.ContentLength && res.StatusCode != 204 && res.StatusCode != 304 {
			t.Errorf("response = %d with %d bytes, Content-Length %d", res.StatusCode, len(body), res.ContentLength)
		}
		if len(body) > len(raw) || len(body) > 0 && method == "HEAD" {
			t.Errorf("body of %s = %q, from %q", method, body, raw)
		}
		pooled := len(c.pool.conns) > 0
		if pooled && (err != nil || res.Close) {
			t.Errorf("the connection is kept after %q, %v", raw, err)
		}
		second := do(t, c, &Request{Method: "POST", Target: "/"})
		if second.err != nil || second.body != "ok" {
			t.Errorf("the next response = %d %q, %v, want its own", second.status, second.body, second.err)
		}
		if conns != 2 && !pooled {
			t.Errorf("connections = %d, want 2", conns)
		}
	})
}

// fuzzDialer dials connections in memory. The first response on the first one is
// raw; all others are valid.
func fuzzDialer(raw string, conns *int) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		*conns++
		first := *conns == 1
		go func() {
			defer func() { _ = server.Close() }()
			r := bufio.NewReader(server)
			for readRequest(r) {
				response := okResponse
				if first {
					response, first = raw, false
				}
				if _, err := io.WriteString(server, response); err != nil || response == raw && !strings.HasPrefix(raw, okResponse) {
					return
				}
			}
		}()
		return client, nil
	}
}

func checkFuzzError(t *testing.T, err error) {
	t.Helper()
	if e, ok := errors.AsType[*Error](err); !ok || e.Phase == NotSent {
		t.Errorf("error = %v, want an Error after the request was sent", err)
	}
}
