package outbound

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

const (
	dialTimeout       = 10 * time.Second
	keepAliveInterval = 30 * time.Second
	handshakeTimeout  = 10 * time.Second
	idleTimeout       = 90 * time.Second
	headerTimeout     = 60 * time.Second
	continueTimeout   = time.Second
	maxIdlePerHost    = 256
	maxResponseHeader = 1 << 20
)

// Config describes how servers are reached. The zero value connects directly and
// trusts the certificates that the system trusts.
type Config struct {
	// Roots verify the certificates of servers. Nil means those of the system.
	Roots *x509.CertPool
	// ForwardProxy is the URL of an HTTP or SOCKS proxy: http, https or socks5,
	// with an optional user and password. Nil means none; HTTP_PROXY and the like
	// are ignored.
	ForwardProxy *url.URL
}

// NewTransport returns a transport that uses HTTP/1.1, over TLS 1.2 or later for
// https URLs. It pools up to 256 idle connections per host and waits 60 seconds
// for a response header. It does not decompress responses and adds no header
// fields.
//
// HTTP/2 is off: its transport sends requests again on its own when a connection
// ends. The error is about c.ForwardProxy.
func NewTransport(c Config) (*http.Transport, error) {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	t := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAliveInterval}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots},
		TLSHandshakeTimeout:    handshakeTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		Protocols:              &protocols,
	}
	if c.ForwardProxy == nil {
		return t, nil
	}
	if err := CheckForwardProxy(c.ForwardProxy); err != nil {
		return nil, err
	}
	t.Proxy = http.ProxyURL(c.ForwardProxy)
	t.OnProxyConnectResponse = rejectConnectError
	return t, nil
}

// CheckForwardProxy returns an error unless u can be the ForwardProxy of a
// [Config]. The error does not show the user and password of the URL.
func CheckForwardProxy(u *url.URL) error {
	switch u.Scheme {
	case "http", "https", "socks5":
	default:
		return fmt.Errorf("the proxy URL has the scheme %q: use http, https or socks5", u.Scheme)
	}
	if u.Hostname() == "" {
		return errors.New("the proxy URL has no host")
	}
	return nil
}

// rejectConnectError replaces the error of net/http, whose text is the reason
// phrase that the forward proxy sent.
func rejectConnectError(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return &forwardProxyError{status: resp.StatusCode}
	}
	return nil
}

// forwardProxyError is a forward proxy that rejected a CONNECT request.
type forwardProxyError struct{ status int }

func (e *forwardProxyError) Error() string {
	return fmt.Sprintf("the forward proxy returned status %d", e.status)
}

// ReadRoots returns the PEM certificates in the file. Without a file name it
// returns nil, which stands for the system's.
func ReadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nil is what crypto/tls takes for the system's roots
	}
	pem, err := os.ReadFile(file) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return nil, fmt.Errorf("reading the CA file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the CA file %s: no PEM certificate found", file)
	}
	return roots, nil
}
