package pleo

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"
)

func TestNetworkError(t *testing.T) {
	address := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443}
	tests := []struct {
		name string
		err  error
		want string
		is   error // what remains to be matched; may be nil
	}{
		{"refused", &net.OpError{Op: "dial", Addr: address, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, "dial 10.0.0.1:443: connection refused", syscall.ECONNREFUSED},
		{"bare number", syscall.EPIPE, "broken pipe", syscall.EPIPE},
		{"no such host", &net.DNSError{Name: "host", IsNotFound: true, Err: "canary"}, `looking up "host": no such host`, nil},
		{"no name server", &net.DNSError{Name: "host", IsTimeout: true, Err: "canary"}, `looking up "host": the name server did not answer`, nil},
		{"other host", x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"canary"}}, Host: "host"}, `verifying the certificate: it is not for "host"`, nil},
		{"unknown authority", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, "verifying the certificate: signed by an unknown authority", nil},
		{"expired", x509.CertificateInvalidError{Reason: x509.Expired, Detail: "canary"}, "verifying the certificate: expired or not yet valid", nil},
		{"not a CA", x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign, Detail: "canary"}, "verifying the certificate: it is not valid", nil},
		{"verification", &tls.CertificateVerificationError{Err: errors.New("canary")}, "verifying the certificate: it is not valid", nil},
		{"not TLS", tls.RecordHeaderError{Msg: "canary"}, "setting up TLS: the server does not speak it", nil},
		{"alert", &net.OpError{Op: "remote error", Err: tls.AlertError(40)}, "ended by TLS: remote error: tls: handshake failure", nil},
		{"timeout", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "timed out", nil},
		{"end", fmt.Errorf("canary: %w", io.EOF), "the server closed the connection", nil},
		{"cut", fmt.Errorf("canary: %w", io.ErrUnexpectedEOF), "the server closed the connection: unexpected EOF", io.ErrUnexpectedEOF},
		{"proxy", &net.OpError{Op: "proxyconnect", Err: &forwardProxyError{status: 407}}, "the proxy on the way answered 407", nil},
		{"anything else", &url.Error{Op: "Post", URL: "https://u:canary@host", Err: errors.New("canary")}, "no readable HTTP answer", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := networkError(t.Context(), fmt.Errorf("canary: %w", tt.err))
			if got.Error() != tt.want || tt.is != nil && !errors.Is(got, tt.is) {
				t.Errorf("causeOf = %q, want %q that is %v", got, tt.want, tt.is)
			}
			assertNoSecret(t, got)
		})
	}
}
