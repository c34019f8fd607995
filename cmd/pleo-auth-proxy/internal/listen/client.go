package listen

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
)

// maxBodySize is how much of a response Request reads.
const maxBodySize = 64 << 10

// Response is the response of a listener on this machine.
type Response struct {
	Status int
	Header http.Header
	Body   string
}

// Request sends a request without a body to a listener on this machine, over a
// connection of its own that ignores HTTP_PROXY. The host of the URL is only what
// the Host field says, and no certificate is verified: nothing secret is sent.
func Request(ctx context.Context, at config.Listen, method, url string) (Response, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // G402: see above
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, at.Network, DialAddress(at))
		},
	}
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return Response{}, err
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = resp.Body.Close() }() // it has been read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBodySize))
	return Response{resp.StatusCode, resp.Header, string(body)}, err
}

// DialAddress returns the address to connect to: a loopback address for a listener
// on all addresses.
func DialAddress(at config.Listen) string {
	host, port, err := net.SplitHostPort(at.Address)
	if err != nil {
		return at.Address // a socket
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "", err == nil && ip.IsUnspecified() && ip.Is4():
		return net.JoinHostPort("127.0.0.1", port)
	case err == nil && ip.IsUnspecified():
		return net.JoinHostPort("::1", port)
	}
	return at.Address
}
