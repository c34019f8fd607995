package main

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/autocert"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
)

// certificatesDirName is the name, in the data directory, of the directory for
// certificates from a certificate authority.
const certificatesDirName = "certificates"

// newCertificates returns the ACME certificates of the connect listener; nil if none
// are configured.
func newCertificates(cfg *config.Config, roots *x509.CertPool, log *zap.Logger) (*autocert.Certificates, error) {
	c := cfg.Connect
	if c.ACME.Off() {
		return nil, nil //nolint:nilnil // nil means that there are none
	}
	host, port, err := hostAndPort(c.Listen)
	if err != nil {
		return nil, err
	}
	a := autocert.Config{
		Domains: c.ACME.Domains, Email: c.ACME.Email, CAURL: c.ACME.CAURL.String(), RootCAs: roots,
		Dir: cfg.InDataDir(certificatesDirName), Host: host, Port: port, Logger: log.Named("acme"),
	}
	if cfg.Upstream.ProxyURL != nil {
		a.Proxy = http.ProxyURL(cfg.Upstream.ProxyURL)
	}
	if c.HTTP.Network == "tcp" {
		if _, a.HTTPPort, err = hostAndPort(c.HTTP); err != nil {
			return nil, err
		}
	}
	return autocert.New(a), nil
}

func hostAndPort(at config.Listen) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(at.Address)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil {
		return "", 0, fmt.Errorf("parsing the port of %s: %w", at, err)
	}
	return host, port, nil
}

// newPlainPages returns the handler of connect.http.listen; nil without pages.
func newPlainPages(cfg *config.Config, certificates *autocert.Certificates) http.Handler {
	if cfg.Connect.PublicURL == nil {
		return nil
	}
	if certificates == nil {
		return redirectTo(cfg.Connect.PublicURL)
	}
	return certificates.ChallengeHandler(redirectTo(cfg.Connect.PublicURL))
}

// redirectTo redirects every request to the same path at the origin of public,
// regardless of its Host field.
func redirectTo(public *url.URL) http.Handler {
	origin := public.Scheme + "://" + public.Host
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target := r.URL.RequestURI()
		if !strings.HasPrefix(target, "/") { // OPTIONS *
			http.Error(w, http.StatusText(http.StatusBadRequest), http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, origin+target, http.StatusPermanentRedirect) //nolint:gosec // G710: the host comes from the configuration
	})
}
