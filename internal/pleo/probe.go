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
	"syscall"
	"time"
)

// UnreachableError is a server that gave no HTTP answer.
type UnreachableError struct {
	Err  error  // what happened, in words of our own
	Hint string // what an operator can do about it
}

func (e *UnreachableError) Error() string { return e.Err.Error() }

// Unwrap returns what happened.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Probe asks the server at u for its front page, without any credential, and
// returns what its clock said, zero when it did not say, and the header of its
// answer. Any answer will do. The error is an *[UnreachableError].
func Probe(ctx context.Context, transport http.RoundTripper, u *url.URL) (time.Time, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath("/").String(), nil)
	if err != nil {
		return time.Time{}, nil, &UnreachableError{Err: errInvalidRequest, Hint: "correct the URL in the configuration"}
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return time.Time{}, nil, &UnreachableError{Err: fmt.Errorf("reaching %s: %w", u.Host, networkError(ctx, err)), Hint: probeHint(err)}
	}
	_ = resp.Body.Close() // its head was all that was wanted
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, resp.Header, nil //nolint:nilerr // a server without a clock can be reached all the same
	}
	return date, resp.Header, nil
}

// probeHint knows what an exchange can break on before there is an answer.
func probeHint(err error) string {
	var (
		refused   *forwardProxyError
		dns       *net.DNSError
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		notTLS    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &refused):
		return "let the forward proxy in upstream.proxy_url connect to this host, and check the user and password in it"
	case errors.As(err, &dns):
		return "check the name, and the name servers that this machine asks (/etc/resolv.conf)"
	case errors.As(err, &host):
		return "check the URL: the server that answers there is another one"
	case errors.As(err, &authority):
		return "set upstream.ca_file to the authority's certificate if your network inspects TLS, or install ca-certificates"
	case errors.As(err, &invalid):
		return "check this machine's clock first, then the server's certificate"
	case errors.As(err, &notTLS):
		return "check the port, and whether the URL should begin with http://"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "check host and port: nothing listens there"
	}
	return "let this machine through the firewall, or set upstream.proxy_url if the way out leads over a forward proxy"
}
