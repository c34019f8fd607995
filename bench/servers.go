package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// roles are the servers that this program can run as.
var roles = map[string]func(args []string) error{"upstream": serveUpstream, "reverseproxy": serveReverseProxy}

// responseSize is about that of a page of Pleo's lists, in bytes.
const responseSize = 4 << 10

var errArguments = errors.New("wrong arguments for this role")

// serveUpstream serves responses over TLS, with the given certificate and key files, to
// requests with the credential.
func serveUpstream(args []string) error {
	if len(args) != 2 {
		return errArguments
	}
	pair, err := tls.LoadX509KeyPair(args[0], args[1])
	if err != nil {
		return fmt.Errorf("reading the certificate: %w", err)
	}
	response := bytes.Repeat([]byte("x"), responseSize)
	length := []string{strconv.Itoa(responseSize)}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != credential {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header()["Content-Length"] = length
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = w.Write(response) // the client counts its own errors
	})
	return serve(handler, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
}

// serveReverseProxy serves the bare ReverseProxy. Its arguments are the URL of the upstream
// and the file of its CA certificates.
func serveReverseProxy(args []string) error {
	if len(args) != 2 {
		return errArguments
	}
	to, err := url.Parse(args[0])
	if err != nil {
		return fmt.Errorf("reading the upstream's URL: %w", err)
	}
	roots, err := readRoots(args[1])
	if err != nil {
		return err
	}
	return serve(&httputil.ReverseProxy{
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			MaxIdleConnsPerHost: 512,
			DisableCompression:  true,
		},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Header.Set("Authorization", credential)
		},
	}, nil)
}

// serve listens on a free port and prints its address.
func serve(handler http.Handler, secure *tls.Config) error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	if _, err := fmt.Fprintln(os.Stdout, l.Addr()); err != nil {
		return fmt.Errorf("printing the address: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	if secure != nil {
		secure.NextProtos = []string{"http/1.1"}
		l = tls.NewListener(l, secure)
	}
	return server.Serve(l)
}

// writeCertificate writes a self-signed certificate for 127.0.0.1 and its key.
func writeCertificate(dir string) (*x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"127.0.0.1"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("creating a certificate: %w", err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	err = errors.Join(
		writePEM(filepath.Join(dir, "cert.pem"), "CERTIFICATE", cert),
		writePEM(filepath.Join(dir, "key.pem"), "EC PRIVATE KEY", raw),
	)
	if err != nil {
		return nil, err
	}
	return readRoots(filepath.Join(dir, "cert.pem"))
}

func writePEM(path, kind string, content []byte) error {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
		return fmt.Errorf("writing PEM: %w", err)
	}
	return nil
}
