// Package autocert gets the certificates of a listener from a certificate authority
// that speaks ACME (RFC 8555), and renews them.
package autocert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// Config says which certificates to get, from whom, and how the authority can
// reach this machine.
type Config struct {
	Domains []string       // what the certificates are for; at least one
	Email   string         // of the account; empty: none
	CAURL   string         // of the authority's directory; required
	RootCAs *x509.CertPool // whom the authority's own certificate must come from; nil: the machine's
	// Proxy returns the forward proxy on the way to the authority. Nil: none,
	// whatever the environment says.
	Proxy func(*http.Request) (*url.URL, error)

	// Dir is where certificates and the account are kept, so that a restart asks
	// for no new ones. Required.
	Dir string

	// Host and Port are those of the listener, which the authority reaches at
	// port 443 of each domain: challenges are answered there (RFC 8737). Required.
	Host string
	Port int
	// HTTPPort is the port, of the same host, at which [Certificates.ChallengeHandler]
	// is served, and which the authority reaches at port 80 of each domain. 0:
	// there is none.
	HTTPPort int

	// CheckInterval is how often to see whether a certificate should be renewed,
	// which is the case in the last third of its life or when the authority says
	// so (RFC 9773). 0 means 10 minutes.
	CheckInterval time.Duration

	Logger *zap.Logger // required
}

// Certificates are kept fresh while [Certificates.Run] runs. Its methods may be
// called by several goroutines at once.
type Certificates struct {
	domains []string
	log     *zap.Logger
	cache   *certmagic.Cache
	config  *certmagic.Config
	issuer  *certmagic.ACMEIssuer
}

// New returns the certificates of c. Nothing is asked for before Run.
func New(c Config) *Certificates {
	certs := &Certificates{domains: c.Domains, log: c.Logger}
	certs.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return certs.config, nil },
		RenewCheckInterval: c.CheckInterval,
		Logger:             c.Logger,
	})
	// An issuer needs its configuration and a configuration its issuers.
	certs.config = certmagic.New(certs.cache, certmagic.Config{
		DefaultServerName: c.Domains[0], // for clients that do not say whom they want
		Storage:           &certmagic.FileStorage{Path: c.Dir},
		Issuers:           []certmagic.Issuer{},
		Logger:            c.Logger,
	})
	certs.issuer = certmagic.NewACMEIssuer(certs.config, certmagic.ACMEIssuer{
		CA:                   c.CAURL,
		TestCA:               c.testCA(),
		Email:                c.Email,
		Agreed:               true,
		TrustedRoots:         c.RootCAs,
		ListenHost:           c.Host,
		AltTLSALPNPort:       c.Port,
		AltHTTPPort:          c.HTTPPort,
		DisableHTTPChallenge: c.HTTPPort == 0,
		HTTPProxy:            c.proxy(),
		Logger:               c.Logger,
	})
	certs.config.Issuers = []certmagic.Issuer{certs.issuer}
	return certs
}

// proxy keeps certmagic from asking the environment.
func (c Config) proxy() func(*http.Request) (*url.URL, error) {
	if c.Proxy != nil {
		return c.Proxy
	}
	return func(*http.Request) (*url.URL, error) { return nil, nil }
}

// LetsEncrypt is the directory of Let's Encrypt.
const LetsEncrypt = certmagic.LetsEncryptProductionCA

// testCA is where it is tried, after a failure, whether a certificate can be had
// now: Let's Encrypt allows five failures an hour only.
func (c Config) testCA() string {
	if c.CAURL == LetsEncrypt {
		return certmagic.LetsEncryptStagingCA
	}
	return ""
}

// TLSConfig returns the configuration of the listener. Until the first certificate has
// come, handshakes fail.
func (c *Certificates) TLSConfig() *tls.Config {
	t := c.config.TLSConfig() // which knows the challenges' protocol
	t.MinVersion = tls.VersionTLS12
	t.NextProtos = append([]string{"h2", "http/1.1"}, t.NextProtos...)
	return t
}

// ChallengeHandler answers the authority's questions over plain HTTP (RFC 8555 section
// 8.3), and hands other requests on.
func (c *Certificates) ChallengeHandler(other http.Handler) http.Handler {
	return c.issuer.HTTPChallengeHandler(other)
}

// Run gets what is missing and renews what ends, until ctx does. An authority
// that does not answer, or refuses, is asked again: after a minute, then less
// and less often.
func (c *Certificates) Run(ctx context.Context) {
	defer c.cache.Stop()
	if err := c.config.ManageAsync(ctx, c.domains); err != nil {
		c.log.Error("no certificate is got", zap.Error(err))
	}
	<-ctx.Done()
}
