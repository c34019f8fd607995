// Package autocert obtains certificates by ACME and renews them.
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

// Config configures [Certificates].
type Config struct {
	Domains []string       // the domains to obtain certificates for; at least one
	Email   string         // the contact address of the account; empty: none
	CAURL   string         // the directory of the certificate authority; required
	RootCAs *x509.CertPool // for requests to the certificate authority; nil: the system's
	// Proxy returns the forward proxy for requests to the certificate authority.
	// Nil means none, regardless of the environment.
	Proxy func(*http.Request) (*url.URL, error)

	// Dir is the directory for certificates and the account, so that a restart
	// requests no new ones. Required.
	Dir string

	// Host and Port are those of the listener, which the certificate authority must
	// reach on port 443 of each domain for TLS-ALPN challenges (RFC 8737). Required.
	Host string
	Port int
	// HTTPPort is the port, on Host, of [Certificates.ChallengeHandler], which the
	// certificate authority must reach on port 80 of each domain. 0 means that there
	// is none.
	HTTPPort int

	// CheckInterval is how often to check whether a certificate is due for renewal:
	// in the last third of its lifetime, or when the certificate authority says so
	// (RFC 9773). 0 means 10 minutes.
	CheckInterval time.Duration

	Logger *zap.Logger // required
}

// Certificates are obtained and renewed while [Certificates.Run] runs. Its methods
// may be called by several goroutines at once.
type Certificates struct {
	domains []string
	log     *zap.Logger
	cache   *certmagic.Cache
	config  *certmagic.Config
	issuer  *certmagic.ACMEIssuer
}

// New returns the Certificates of c. It sends no request: Run does.
func New(c Config) *Certificates {
	certs := &Certificates{domains: c.Domains, log: c.Logger}
	certs.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return certs.config, nil },
		RenewCheckInterval: c.CheckInterval,
		Logger:             c.Logger,
	})
	// The issuer needs the configuration, and the configuration its issuers.
	certs.config = certmagic.New(certs.cache, certmagic.Config{
		DefaultServerName: c.Domains[0], // for clients that send no server name
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

// proxy never returns nil: certmagic would then use the environment.
func (c Config) proxy() func(*http.Request) (*url.URL, error) {
	if c.Proxy != nil {
		return c.Proxy
	}
	return func(*http.Request) (*url.URL, error) { return nil, nil }
}

// LetsEncrypt is the directory of Let's Encrypt.
const LetsEncrypt = certmagic.LetsEncryptProductionCA

// testCA returns the directory that is tried first after a failure: Let's Encrypt
// allows only five failures per hour.
func (c Config) testCA() string {
	if c.CAURL == LetsEncrypt {
		return certmagic.LetsEncryptStagingCA
	}
	return ""
}

// TLSConfig returns the configuration of the listener. Handshakes fail until the
// first certificate has been obtained.
func (c *Certificates) TLSConfig() *tls.Config {
	t := c.config.TLSConfig() // includes the protocol of the challenges
	t.MinVersion = tls.VersionTLS12
	t.NextProtos = append([]string{"h2", "http/1.1"}, t.NextProtos...)
	return t
}

// ChallengeHandler responds to HTTP challenges (RFC 8555 section 8.3), and passes
// other requests to next.
func (c *Certificates) ChallengeHandler(next http.Handler) http.Handler {
	return c.issuer.HTTPChallengeHandler(next)
}

// Run obtains and renews certificates until ctx ends. After a failure it retries
// after a minute, then after longer and longer intervals.
func (c *Certificates) Run(ctx context.Context) {
	defer c.cache.Stop()
	if err := c.config.ManageAsync(ctx, c.domains); err != nil {
		c.log.Error("cannot obtain certificates", zap.Error(err))
	}
	<-ctx.Done()
}
