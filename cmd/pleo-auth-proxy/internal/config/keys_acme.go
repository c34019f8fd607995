package config

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/autocert"
)

// acmeKeys are about certificates for the customer's pages that the program gets
// itself, and about the plain port that helps with it.
func acmeKeys() []key {
	return []key{
		{
			path: "connect.tls.acme.domains",
			doc:  "Get certificates for these names, and renew them; that means agreeing to the authority's terms. It must reach connect.listen at their port 443, or connect.http.listen at port 80. With several replicas, end TLS in front of them instead.",
			form: list,
			set:  many(parseDomain, func(c *Config) *[]string { return &c.Connect.ACME.Domains }),
		},
		{
			path: "connect.tls.acme.email",
			doc:  "Whom the authority writes to when something is wrong.",
			set:  one(parseText, func(c *Config) *string { return &c.Connect.ACME.Email }),
		},
		{
			path:     "connect.tls.acme.ca_url",
			doc:      "The directory of the authority (RFC 8555).",
			fallback: autocert.LetsEncrypt,
			set:      one(parseDirectoryURL, func(c *Config) **url.URL { return &c.Connect.ACME.CAURL }),
		},
		{
			path: "connect.tls.acme.ca_root_file",
			doc:  "Certificates (PEM) to trust in place of the system's when asking the authority.",
			set:  one(parsePath, func(c *Config) *string { return &c.Connect.ACME.CARootFile }),
		},
		{
			path:     "connect.http.listen",
			doc:      "Plain HTTP that leads browsers to public_url and answers the authority: such as :80, or off.",
			fallback: off,
			set:      one(parseListenOrOff, func(c *Config) *Listen { return &c.Connect.HTTP }),
		},
	}
}

// parseDomain reads a name that an authority can prove to be this machine's.
func parseDomain(s string) (string, error) {
	if !hostPattern.MatchString(s) || !strings.ContainsFunc(s, isLetter) {
		return "", errors.New("wants host names such as connect.example.com")
	}
	return strings.ToLower(s), nil
}

func isLetter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

func parseDirectoryURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, errors.New("wants a URL such as https://acme.example.com/directory")
	}
	return u, nil
}

// checkACME reports certificates that could not be got.
func (l *loader) checkACME() {
	const domains = "connect.tls.acme.domains"
	c := l.config.Connect
	if c.ACME.Off() {
		if path := "connect.tls.acme.email"; c.ACME.Email != "" {
			l.mistake(l.places[path], path, "needs %s beside it", domains)
		}
		if path := "connect.tls.acme.ca_root_file"; c.ACME.CARootFile != "" {
			l.mistake(l.places[path], path, "needs %s beside it", domains)
		}
		return
	}
	if !c.TLS.Off() {
		l.mistake(l.places[domains], domains, "cannot be used together with connect.tls.cert_file; keep one of them")
	}
	if c.Listen.Network != "tcp" || strings.HasSuffix(c.Listen.Address, ":0") {
		l.mistake(l.places["connect.listen"], "connect.listen", "needs a port of its own with %s", domains)
	}
	if u := c.PublicURL; u != nil && !slices.Contains(c.ACME.Domains, strings.ToLower(u.Hostname())) {
		l.mistake(l.places["connect.public_url"], "connect.public_url", "is at a host that is not in %s", domains)
	}
}

// checkPagesOverTLS compares the address that browsers are given with what
// answers there.
func (l *loader) checkPagesOverTLS() {
	c := l.config.Connect
	if c.PublicURL != nil {
		if c.PublicURL.Scheme != "https" && (!c.ACME.Off() || !c.TLS.Off()) {
			l.mistake(l.places["connect.public_url"], "connect.public_url", "must begin with https:// where connect.tls is used")
		}
		return
	}
	for _, used := range []struct {
		path string
		off  bool
	}{
		{"connect.tls.acme.domains", c.ACME.Off()}, {"connect.tls.cert_file", c.TLS.Off()}, {"connect.http.listen", c.HTTP.Off()},
	} {
		if !used.off {
			l.mistake(l.places[used.path], used.path, "needs connect.public_url beside it")
		}
	}
}
