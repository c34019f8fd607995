package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

var (
	errTimedOut   = errors.New("timed out")
	errClosed     = errors.New("the server closed the connection")
	errNoResponse = errors.New("no readable HTTP response")
)

// Hints for operators.
const (
	hintForwardProxy = "allow the forward proxy in upstream.proxy_url to connect to this host, and check the user and password in the URL"
	hintDNS          = "check the host name and the name servers of this machine (/etc/resolv.conf)"
	hintWrongHost    = "check the URL: another server responds there"
	hintAuthority    = "set upstream.ca_file to the authority's certificate if your network inspects TLS, or install ca-certificates"
	hintCertificate  = "check this machine's clock first, then the server's certificate"
	hintNotTLS       = "check the port, and whether the URL should begin with http://"
	hintRefused      = "check the host and port: no program listens there"
	hintFirewall     = "allow this machine through the firewall, or set upstream.proxy_url if connections have to use a forward proxy"
)

// DescribeError describes why a request, its response or its connection failed. It
// repeats nothing that the server sent and no URL: net/http quotes both in its
// errors, and they may hold secrets. Only context errors, error numbers and
// [io.ErrUnexpectedEOF] can be matched in the result.
func DescribeError(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	return diagnose(err).err
}

// diagnosis is a description of an error and a hint for the operator.
type diagnosis struct {
	err  error
	hint string
}

func diagnose(err error) diagnosis {
	for _, known := range []func(error) (diagnosis, bool){diagnoseProxy, diagnoseTLS, diagnoseSocket} {
		if d, ok := known(err); ok {
			return d
		}
	}
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return diagnosis{errTimedOut, hintFirewall}
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return diagnosis{errClosed, hintFirewall}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return diagnosis{fmt.Errorf("%w: %w", errClosed, io.ErrUnexpectedEOF), hintFirewall}
	}
	return diagnosis{errNoResponse, hintFirewall}
}

func diagnoseProxy(err error) (diagnosis, bool) {
	var (
		rejected *forwardProxyError
		dns      *net.DNSError
	)
	switch {
	case errors.As(err, &rejected):
		return diagnosis{rejected, hintForwardProxy}, true
	case errors.As(err, &dns) && dns.IsNotFound:
		return diagnosis{fmt.Errorf("looking up %q: no such host", dns.Name), hintDNS}, true
	case errors.As(err, &dns):
		return diagnosis{fmt.Errorf("looking up %q: no response from the name server", dns.Name), hintDNS}, true
	}
	return diagnosis{}, false
}

func diagnoseTLS(err error) (diagnosis, bool) {
	var (
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		other     *tls.CertificateVerificationError
		notTLS    tls.RecordHeaderError
		alert     *net.OpError
	)
	switch {
	case errors.As(err, &host):
		return diagnosis{fmt.Errorf("verifying the certificate: it is not valid for %q", host.Host), hintWrongHost}, true
	case errors.As(err, &authority):
		return diagnosis{errors.New("verifying the certificate: signed by an unknown authority"), hintAuthority}, true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return diagnosis{errors.New("verifying the certificate: expired or not yet valid"), hintCertificate}, true
	case errors.As(err, &invalid), errors.As(err, &other):
		return diagnosis{errors.New("verifying the certificate: it is not valid"), hintCertificate}, true
	case errors.As(err, &notTLS):
		return diagnosis{errors.New("starting TLS: the server does not use TLS"), hintNotTLS}, true
	case errors.As(err, &alert) && (alert.Op == "remote error" || alert.Op == "local error"):
		// The text comes from a table in crypto/tls, by a number that the server sent.
		return diagnosis{fmt.Errorf("TLS: %s: %w", alert.Op, alert.Err), hintFirewall}, true
	}
	return diagnosis{}, false
}

// diagnoseSocket describes an error number with its operation and address, such as
// "dial 127.0.0.1:443: connection refused".
func diagnoseSocket(err error) (diagnosis, bool) {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return diagnosis{}, false
	}
	d := diagnosis{errno, hintFirewall}
	if errno == syscall.ECONNREFUSED {
		d.hint = hintRefused
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		d.err = fmt.Errorf("%s %s: %w", op.Op, op.Addr, errno)
	}
	return d, true
}
