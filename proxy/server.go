package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"log"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

// Limits of the proxy listener. There is none on the time that a body or an
// answer takes: both are streams.
const (
	readHeaderTimeout = 15 * time.Second
	idleTimeout       = 3 * time.Minute
	maxHeaderBytes    = 256 << 10
)

// NewServer returns the server of a proxy listener, with limits that slow
// clients cannot exceed: HTTP/1.1 in the clear if t is nil, else HTTP/1.1 and 2
// over TLS, by ServeTLS without files. What it serves should come from
// [TrackConnections]. errorLog gets what clients do wrong below HTTP; nil
// discards it.
func NewServer(h http.Handler, t *tls.Config, errorLog *log.Logger) *http.Server {
	if errorLog == nil {
		errorLog = log.New(discardWriter{}, "", 0)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(t != nil)
	return &http.Server{
		Handler:           h,
		TLSConfig:         t,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          errorLog,
		Protocols:         &protocols,
		ConnContext:       connContext,
		ConnState:         connState,
		// OPTIONS * is for the handler to refuse.
		DisableGeneralOptionsHandler: true,
	}
}

type discardWriter struct{}

func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }

// Limits of the connections to the API.
const (
	dialTimeout            = 10 * time.Second
	handshakeTimeout       = 10 * time.Second
	maxIdleConns           = 512
	continueTimeout        = time.Second
	maxResponseHeaderBytes = 1 << 20
)

// UpstreamIdleTimeout is how long a connection to the API stays in the pool.
// Load balancers commonly close idle connections after 60 seconds. Being first
// avoids sending a request on one that is being closed.
const UpstreamIdleTimeout = 55 * time.Second

// TransportConfig says how the API is reached. Its zero value is usable.
type TransportConfig struct {
	// RootCAs verify the API's certificate. Nil means those of the system.
	RootCAs *x509.CertPool

	// ProxyURL is an HTTP proxy on the way to the API. Nil means none; the
	// environment is not asked.
	ProxyURL *url.URL
}

// NewTransport returns a transport for [Config]: HTTP/1.1 over warm, pooled
// connections, nothing added to requests and nothing decompressed.
//
// It does not speak HTTP/2, which sends requests again on its own account when
// a connection ends, and puts all of them behind each other on one connection.
func NewTransport(c TransportConfig) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	t := &http.Transport{
		DialContext:            outbound.TrackWrites((&net.Dialer{Timeout: dialTimeout}).DialContext),
		TLSClientConfig:        &tls.Config{RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    handshakeTimeout,
		DisableCompression:     true,
		MaxIdleConns:           maxIdleConns,
		MaxIdleConnsPerHost:    maxIdleConns,
		IdleConnTimeout:        UpstreamIdleTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxResponseHeaderBytes,
		Protocols:              &protocols,
	}
	if c.ProxyURL != nil {
		t.Proxy = http.ProxyURL(c.ProxyURL)
	}
	return t
}
