package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

// Limits of connections and responses.
const (
	connectTimeout  = 10 * time.Second // to dial, and for the handshakes of proxy and TLS
	continueTimeout = time.Second      // before a body is sent that the server has not asked for

	maxHeadBytes        = 1 << 20 // of all heads of one response, 1xx included
	maxInterimResponses = 32

	maxIdleConns = 256
	maxConnAge   = time.Minute // a server that has moved is called at its old address for so long

	// Load balancers commonly close idle connections after 60 seconds. The client
	// is first, to avoid sending a request on a connection that is being closed.
	idleConnTimeout = 55 * time.Second
)

// Config is the configuration of a [Client]. URL is required.
type Config struct {
	// URL is the server's: scheme http or https, host, and a path, which the
	// client ignores.
	URL *url.URL

	// RootCAs verify the certificates of server and proxy. Nil means those of
	// the system.
	RootCAs *x509.CertPool

	// ProxyURL is a forward proxy of scheme http, https or socks5, with user and
	// password if it needs them. Nil means none; the environment is ignored.
	ProxyURL *url.URL

	// ResponseTimeout is how long the server may take from the last byte of a
	// request that it was sent to the head of its response. Waiting for the
	// request body's reader does not count. 0 means no limit.
	ResponseTimeout time.Duration

	// BodyTimeout is how long the server may take between two pieces of a
	// response body. 0 means no limit.
	BodyTimeout time.Duration

	// Dial opens connections. Nil means TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client sends requests to one server. It is safe for concurrent use.
type Client struct {
	url             *url.URL
	roots           *x509.CertPool
	proxy           *url.URL
	responseTimeout time.Duration
	bodyTimeout     time.Duration
	dialContext     func(ctx context.Context, network, address string) (net.Conn, error)
	pool            pool
}

// New returns a client. Its error reports what is wrong with c, and no password
// in a URL.
func New(c Config) (*Client, error) {
	if err := errors.Join(checkURL(c.URL), checkProxyURL(c.ProxyURL)); err != nil {
		return nil, err
	}
	if min(c.ResponseTimeout, c.BodyTimeout) < 0 {
		return nil, fmt.Errorf("upstream timeouts must not be negative: %v, %v", c.ResponseTimeout, c.BodyTimeout)
	}
	client := &Client{
		url:             c.URL,
		roots:           c.RootCAs,
		proxy:           c.ProxyURL,
		responseTimeout: c.ResponseTimeout,
		bodyTimeout:     c.BodyTimeout,
		dialContext:     c.Dial,
		pool:            pool{size: maxIdleConns, idleTimeout: idleConnTimeout, maxAge: maxConnAge},
	}
	if client.dialContext == nil {
		client.dialContext = (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	return client, nil
}

func checkURL(u *url.URL) error {
	switch {
	case u == nil:
		return errors.New("upstream URL is missing")
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("upstream URL must begin with http:// or https://, not %q", u.Scheme)
	case u.Host == "" || u.Opaque != "":
		return errors.New("upstream URL has no host")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("upstream URL may have a path and nothing else after its host, and no user before it")
	}
	return nil
}

func checkProxyURL(u *url.URL) error {
	if u == nil {
		return nil
	}
	return outbound.CheckForwardProxy(u)
}

// URL returns the server's URL.
func (c *Client) URL() *url.URL { return c.url }

// Close closes the connections that no request is using, and the others as soon
// as their responses were read.
func (c *Client) Close() { c.pool.close() }

// Do sends a request and returns the head of its final response, of status 200
// or above. The caller reads the body and closes it; the connection is used again
// if the body was read to its end. The end of ctx closes the connection, also
// while the body is read. The error is an [*Error].
func (c *Client) Do(ctx context.Context, r *Request) (*http.Response, error) {
	if err := r.validate(); err != nil {
		return nil, &Error{NotSent, err}
	}
	var failed error // of the first send
	if cn := c.pool.get(); cn != nil {
		res, err := c.send(ctx, cn, r)
		if err == nil || ctx.Err() != nil || !r.mayResend(err) {
			return res, err
		}
		failed = err
	}
	cn, err := c.dial(ctx)
	if err != nil {
		return nil, dialError(ctx, err, failed)
	}
	return c.send(ctx, cn, r)
}

// dialError returns the error of a request for which no connection could be
// opened. If it was sent on another one before, that is what its caller must
// know.
func dialError(ctx context.Context, err, failed error) error {
	if e, ok := errors.AsType[*Error](failed); ok && e.Phase != NotSent {
		return failed
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return &Error{NotSent, err}
}
