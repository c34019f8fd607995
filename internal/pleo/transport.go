package pleo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// Limits of [NewTransport].
const (
	dialTimeout          = 10 * time.Second
	handshakeTimeout     = 10 * time.Second
	idleTimeout          = 90 * time.Second
	maxIdlePerHost       = 256
	maxResponseHeader    = 1 << 20
	defaultHeaderTimeout = 60 * time.Second
)

// TransportConfig says how Pleo's servers are reached. The zero value reaches
// them directly and trusts the certificates that the machine trusts.
type TransportConfig struct {
	// CAFile is a file of PEM certificates that are trusted instead of the
	// machine's. Empty: the machine's.
	CAFile string
	// ProxyURL is a proxy on the way, of scheme http, https or socks5; it may
	// hold a user and a password. Nil: none, whatever the environment says.
	ProxyURL *url.URL
	// HeaderTimeout is how long to wait for the head of an answer once the
	// request is written. 0 means 60 seconds.
	HeaderTimeout time.Duration
	// Dial opens connections. Nil: over TCP, within 10 seconds.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// NewTransport returns a transport that speaks HTTP/1.1, over TLS 1.2 or later
// to verified servers where the URL says https. It keeps up to 256 idle
// connections per host, follows nothing, decompresses nothing and adds no header.
// The error names what is wrong with the configuration.
func NewTransport(cfg TransportConfig) (*http.Transport, error) {
	roots, err := rootsOf(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		DialContext:            dialer(cfg),
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    handshakeTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleTimeout,
		ResponseHeaderTimeout:  cfg.HeaderTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxResponseHeader,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	if cfg.HeaderTimeout == 0 {
		t.ResponseHeaderTimeout = defaultHeaderTimeout
	}
	if err := useProxy(t, cfg.ProxyURL); err != nil {
		return nil, err
	}
	return t, nil
}

func dialer(cfg TransportConfig) func(ctx context.Context, network, address string) (net.Conn, error) {
	if cfg.Dial != nil {
		return cfg.Dial
	}
	return (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
}

func useProxy(t *http.Transport, proxy *url.URL) error {
	if proxy == nil {
		return nil
	}
	switch proxy.Scheme {
	case "http", "https", "socks5":
	default:
		return fmt.Errorf("the proxy's URL has the scheme %q: use http, https or socks5", proxy.Scheme)
	}
	if proxy.Host == "" {
		return errors.New("the proxy's URL names no host")
	}
	t.Proxy = http.ProxyURL(proxy)
	// Without this the proxy's reason phrase becomes the error's text.
	t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return &forwardProxyError{status: resp.StatusCode}
		}
		return nil
	}
	return nil
}

// forwardProxyError is a proxy that does not connect us.
type forwardProxyError struct{ status int }

func (e *forwardProxyError) Error() string {
	return fmt.Sprintf("the proxy on the way answered %d", e.status)
}

// rootsOf returns the certificates in the file, or nil, which stands for the
// machine's, when no file is named.
func rootsOf(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return nil, fmt.Errorf("reading the CA file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the CA file %s: it holds no PEM certificate", file)
	}
	return roots, nil
}
