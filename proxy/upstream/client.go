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
	continueTimeout = time.Second      // for a 100 response, until the body is sent without it

	maxHeadBytes        = 1 << 20 // of all heads of one response, 1xx included
	maxInterimResponses = 32

	maxIdleConns = 256
	maxConnAge   = time.Minute // bounds the use of the old address after a server has moved

	// Load balancers commonly close idle connections after 60 seconds. Closing them
	// earlier avoids requests on a connection that is being closed.
	idleConnTimeout = 55 * time.Second
)

// Config is the configuration of a [Client]. URL is required.
type Config struct {
	// URL has the scheme, http or https, and the host of the server. The client
	// ignores its path.
	URL *url.URL

	// RootCAs verify the certificates of server and proxy. Nil means those of
	// the system.
	RootCAs *x509.CertPool

	// ProxyURL is the URL of a forward proxy: http, https or socks5, with an optional
	// user and password. Requests are tunneled (CONNECT), also to http URLs. Nil
	// means no proxy; environment variables are ignored.
	ProxyURL *url.URL

	// ResponseTimeout limits the time from the last byte of the request that was
	// sent to the head of the response. Waiting for the reader of the request body
	// does not count. 0 means no limit.
	ResponseTimeout time.Duration

	// BodyTimeout limits the time between two pieces of a response body. 0 means no
	// limit.
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

// New returns a client. Its error does not contain passwords of URLs.
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

// Close closes the idle connections, and each other one when its response has been
// read.
func (c *Client) Close() { c.pool.close() }

// Do sends a request and returns the head of the final response, whose status is
// 200 or above. The caller must close the body; the connection is reused only if
// the body was read to its end. If ctx ends before that, the connection is closed.
// A deadline of ctx thus limits the whole exchange. The error is an [*Error].
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

// dialError returns the error of a request for which no connection was opened. If
// it was sent on another one before, the caller must know that.
func dialError(ctx context.Context, err, failed error) error {
	if e, ok := errors.AsType[*Error](failed); ok && e.Phase != NotSent {
		return failed
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return &Error{NotSent, err}
}
