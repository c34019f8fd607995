package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"

	"golang.org/x/net/proxy"
)

// dial opens a connection to the server, through the forward proxy if there is one.
func (c *Client) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	to := c.url
	if c.proxy != nil {
		to = c.proxy
	}
	// Names are resolved each time, so that a server that has moved is found.
	dialed, err := c.dialContext(ctx, "tcp", addressOf(to))
	if err != nil {
		return nil, err
	}
	raw := newRawConn(dialed)
	// Closing the connection interrupts a proxy that does not respond.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	over, err := c.connect(ctx, raw)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	cn := newConn(over, raw)
	// Not all connections that were opened together should expire together.
	cn.born = cn.born.Add(-rand.N(c.pool.maxAge/4 + 1)) //nolint:gosec // not a secret
	return cn, nil
}

// connect turns a raw connection, to the server or to the forward proxy, into one
// to the server.
func (c *Client) connect(ctx context.Context, raw net.Conn) (net.Conn, error) {
	conn := raw
	if c.proxy != nil {
		var err error
		if conn, err = c.tunnel(ctx, raw); err != nil {
			return nil, err
		}
	}
	if c.url.Scheme == "https" {
		return c.startTLS(ctx, conn, c.url)
	}
	return conn, nil
}

// tunnel turns a connection to the forward proxy into one to the server.
func (c *Client) tunnel(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if c.proxy.Scheme == "socks5" {
		return conn, requestSOCKS(ctx, conn, c.proxy, addressOf(c.url))
	}
	var err error
	if c.proxy.Scheme == "https" {
		if conn, err = c.startTLS(ctx, conn, c.proxy); err != nil {
			return nil, err
		}
	}
	return conn, requestTunnel(conn, addressOf(c.url), c.proxy.User)
}

func requestSOCKS(ctx context.Context, conn net.Conn, server *url.URL, address string) error {
	var auth *proxy.Auth
	if server.User != nil {
		password, _ := server.User.Password()
		auth = &proxy.Auth{User: server.User.Username(), Password: password}
	}
	dialer, err := proxy.SOCKS5("tcp", addressOf(server), auth, nil)
	if err == nil {
		_, err = dialer.(socksDialer).DialWithConn(ctx, conn, "tcp", address)
	}
	if err != nil {
		return fmt.Errorf("connecting through the forward proxy: %w", err)
	}
	return nil
}

// socksDialer is implemented by what [proxy.SOCKS5] returns.
type socksDialer interface {
	DialWithConn(ctx context.Context, c net.Conn, network, address string) (net.Addr, error)
}

func (c *Client) startTLS(ctx context.Context, conn net.Conn, to *url.URL) (net.Conn, error) {
	over := tls.Client(conn, &tls.Config{
		RootCAs:    c.roots,
		ServerName: to.Hostname(),
		NextProtos: []string{"http/1.1"},
		MinVersion: tls.VersionTLS12,
	})
	if err := over.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return over, nil
}

// maxTunnelHead is how large a proxy's response to CONNECT may be, in bytes.
const maxTunnelHead = 64 << 10

// requestTunnel sends a CONNECT request to a forward proxy (RFC 9110 section 9.3.6).
func requestTunnel(conn net.Conn, address string, user *url.Userinfo) error {
	head := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if user != nil {
		password, _ := user.Password()
		head += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return fmt.Errorf("connecting through the forward proxy: %w", err)
	}
	r := bufio.NewReader(io.LimitReader(conn, maxTunnelHead))
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect}) //nolint:bodyclose // a tunnel has none
	if err != nil {
		return fmt.Errorf("connecting through the forward proxy: %w", causeOf(context.Background(), err))
	}
	if res.StatusCode != http.StatusOK {
		return &ProxyError{StatusCode: res.StatusCode}
	}
	if r.Buffered() > 0 {
		return errors.New("connecting through the forward proxy: it sent data before the server did")
	}
	return nil
}

// addressOf returns host and port of u.
func addressOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
