package outbound

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestDescribeError(t *testing.T) {
	address := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443}
	tests := []struct {
		name string
		err  error
		want string
		is   error // what the description matches; nil: nothing
	}{
		{"connection refused", &net.OpError{Op: "dial", Addr: address, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, "dial 10.0.0.1:443: connection refused", syscall.ECONNREFUSED},
		{"error number alone", syscall.EPIPE, "broken pipe", syscall.EPIPE},
		{"no such host", &net.DNSError{Name: "host", IsNotFound: true, Err: "canary"}, `looking up "host": no such host`, nil},
		{"no name server", &net.DNSError{Name: "host", IsTimeout: true, Err: "canary"}, `looking up "host": no response from the name server`, nil},
		{"certificate for another host", x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"canary"}}, Host: "host"}, `verifying the certificate: it is not valid for "host"`, nil},
		{"unknown authority", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, "verifying the certificate: signed by an unknown authority", nil},
		{"expired", x509.CertificateInvalidError{Reason: x509.Expired, Detail: "canary"}, "verifying the certificate: expired or not yet valid", nil},
		{"not a CA", x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign, Detail: "canary"}, "verifying the certificate: it is not valid", nil},
		{"verification", &tls.CertificateVerificationError{Err: errors.New("canary")}, "verifying the certificate: it is not valid", nil},
		{"plain text", tls.RecordHeaderError{Msg: "canary"}, "starting TLS: the server does not use TLS", nil},
		{"alert", &net.OpError{Op: "remote error", Err: tls.AlertError(40)}, "TLS: remote error: tls: handshake failure", nil},
		{"timeout", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "timed out", nil},
		{"end of file", fmt.Errorf("canary: %w", io.EOF), "the server closed the connection", nil},
		{"truncated", fmt.Errorf("canary: %w", io.ErrUnexpectedEOF), "the server closed the connection: unexpected EOF", io.ErrUnexpectedEOF},
		{"forward proxy", &net.OpError{Op: "proxyconnect", Err: &forwardProxyError{status: 407}}, "the forward proxy returned status 407", nil},
		{"anything else", &url.Error{Op: "Post", URL: "https://u:canary@host", Err: errors.New("canary")}, "no readable HTTP response", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := DescribeError(t.Context(), fmt.Errorf("canary: %w", tt.err))
			if got.Error() != tt.want || tt.is != nil && !errors.Is(got, tt.is) {
				t.Errorf("DescribeError = %q, want %q that is %v", got, tt.want, tt.is)
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", got, got, got), "canary") {
				t.Errorf("the description repeats the error: %#v", got)
			}
		})
	}
}
