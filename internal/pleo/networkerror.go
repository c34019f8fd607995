package pleo

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

// What an exchange can break on when nothing more precise is known.
var (
	errTimedOut   = errors.New("timed out")
	errClosed     = errors.New("the server closed the connection")
	errNoResponse = errors.New("no readable HTTP answer")
)

// networkError says in words of our own why an exchange broke off. net/http quotes
// the server in its errors, and a server may quote the secrets it was sent; and
// it quotes URLs, which may hold a user and a password. Of err only context
// errors, error numbers and [io.ErrUnexpectedEOF] remain to be matched.
func networkError(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	for _, known := range []func(error) error{proxyCause, dnsCause, tlsCause, socketCause} {
		if cause := known(err); cause != nil {
			return cause
		}
	}
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return errTimedOut
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return errClosed
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: %w", errClosed, io.ErrUnexpectedEOF)
	}
	return errNoResponse
}

func proxyCause(err error) error {
	var refused *forwardProxyError
	if errors.As(err, &refused) {
		return refused
	}
	return nil
}

func dnsCause(err error) error {
	var dns *net.DNSError
	if !errors.As(err, &dns) {
		return nil
	}
	reason := "the name server did not answer"
	if dns.IsNotFound {
		reason = "no such host"
	}
	return fmt.Errorf("looking up %q: %s", dns.Name, reason)
}

func tlsCause(err error) error {
	var (
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		notTLS    tls.RecordHeaderError
		other     *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &host):
		return fmt.Errorf("verifying the certificate: it is not for %q", host.Host)
	case errors.As(err, &authority):
		return errors.New("verifying the certificate: signed by an unknown authority")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return errors.New("verifying the certificate: expired or not yet valid")
	case errors.As(err, &invalid), errors.As(err, &other):
		return errors.New("verifying the certificate: it is not valid")
	case errors.As(err, &notTLS):
		return errors.New("setting up TLS: the server does not speak it")
	}
	return alertCause(err)
}

// alertCause recognises an alert that ended a TLS connection. Its text comes
// from a table in crypto/tls, by a number that the server sent.
func alertCause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error") {
		return fmt.Errorf("ended by TLS: %s: %w", op.Op, op.Err)
	}
	return nil
}

// socketCause keeps the operation and the address of an error that the kernel
// gave a number: "dial 127.0.0.1:443: connection refused".
func socketCause(err error) error {
	var number syscall.Errno
	if !errors.As(err, &number) {
		return nil
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		return fmt.Errorf("%s %s: %w", op.Op, op.Addr, number)
	}
	return number
}
