package config

import (
	"slices"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// check reports what is wrong between keys.
func (l *loader) check() {
	l.checkEnvironment()
	l.checkSecrets()
	l.checkListeners()
	l.checkOwnListeners()
	l.checkExposed()
	l.checkClients()
	l.checkTLS("proxy.tls")
	l.checkTLS("admin.tls")
	l.checkConnect()
	l.checkTLS("connect.tls")
	l.checkACME()
	l.checkPagesOverTLS()
	l.checkWebhooks()
	l.checkHeaders()
	l.checkDeclared()
	l.checkStore()
	l.checkPaths()
	l.checkMemory()
}

// checkEnvironment settles the URLs, which production and staging fix and
// custom needs.
func (l *loader) checkEnvironment() {
	if l.config.Environment == "" {
		if !l.hasMistake("environment") {
			l.mistake(place{}, "environment", "is needed: production, staging, or custom with upstream.api_url and upstream.auth_url")
		}
		return
	}
	if l.config.EndpointsFixed() {
		l.fixEndpoints()
		return
	}
	for _, path := range []string{"upstream.api_url", "upstream.auth_url"} {
		if !l.given(path) {
			l.mistake(place{}, path, "is needed with environment custom")
		}
	}
}

func (l *loader) fixEndpoints() {
	for _, path := range []string{"upstream.api_url", "upstream.auth_url"} {
		if l.given(path) {
			l.mistake(l.places[path], path, "is fixed by environment %s; leave it out, or use environment custom", l.config.Environment)
		}
	}
	endpoints, ok := pleo.EndpointsFor(l.config.Environment)
	if !ok {
		l.mistake(l.places["environment"], "environment", "has no known URLs")
		return
	}
	l.config.Upstream.APIURL, l.config.Upstream.AuthURL = endpoints.API, endpoints.Auth
}

func (l *loader) hasMistake(path string) bool {
	return slices.ContainsFunc(l.mistakes, func(m Mistake) bool { return m.Key == path })
}

func (l *loader) given(path string) bool { return l.places[path] != (place{}) }

func (l *loader) checkSecrets() {
	for _, path := range []string{"oauth.client_secret", "oauth.previous_client_secret"} {
		if l.given(path) && l.given(path+"_file") {
			l.mistake(l.places[path+"_file"], path+"_file", "cannot be used together with %s; keep one of them", path)
		}
	}
	secret := l.given("oauth.client_secret") || l.given("oauth.client_secret_file")
	previous := l.given("oauth.previous_client_secret") || l.given("oauth.previous_client_secret_file")
	id := l.places["oauth.client_id"]
	if l.given("oauth.client_id") && !secret {
		l.mistake(id, "oauth.client_id", "needs oauth.client_secret_file or oauth.client_secret beside it")
	}
	if l.config.OAuth.ClientAuth == pleo.BasicPlain && strings.Contains(l.config.OAuth.ClientID, ":") {
		l.mistake(id, "oauth.client_id", "must not hold a colon with oauth.client_auth basic_plain, which would end it there; use basic")
	}
	if secret && !l.given("oauth.client_id") {
		l.mistake(place{}, "oauth.client_id", "is needed where a client secret is given")
	}
	if previous && !secret {
		l.mistake(place{}, "oauth.client_secret_file", "is needed where a previous client secret is given")
	}
}

// checkStore reports what the driver needs and what has no meaning with it.
func (l *loader) checkStore() {
	driver := l.config.Store.Driver
	if driver != DriverPostgres {
		for _, path := range []string{"store.dsn", "store.dsn_file"} {
			if l.given(path) {
				l.mistake(l.places[path], path, "is for store.driver postgres; set that too, or leave this out")
			}
		}
		return
	}
	dsn, file := l.given("store.dsn"), l.given("store.dsn_file")
	switch {
	case dsn && file:
		l.mistake(l.places["store.dsn_file"], "store.dsn_file", "cannot be used together with store.dsn; keep one of them")
	case !dsn && !file && !l.hasMistake("store.dsn") && !l.hasMistake("store.dsn_file"):
		l.mistake(l.places["store.driver"], "store.driver", "is postgres, which needs store.dsn_file or store.dsn")
	}
	if l.given("store.path") {
		l.mistake(l.places["store.path"], "store.path", "has no meaning with store.driver postgres; leave it out")
	}
}

// checkPaths finds files of our own that would overwrite each other.
func (l *loader) checkPaths() {
	c := l.config
	seen := map[string]string{} // path of a file → path of its key
	for _, of := range []struct{ key, path string }{
		{"data_dir", c.DataDir}, {"store.path", c.Store.Path}, {"store.keyset_file", c.Store.KeysetFile},
		{"store.spool_dir", c.Store.SpoolDir}, {"admin.token_file", c.Admin.TokenFile},
	} {
		if of.path == "" {
			continue
		}
		if other, taken := seen[of.path]; taken {
			l.mistake(l.places[of.key], of.key, "is the path of %s too", other)
		}
		seen[of.path] = of.key
	}
}

func (l *loader) checkListeners() {
	admin := l.config.Admin
	if !admin.Listen.Local() && admin.TLS.Off() && !l.given("admin.token_file") {
		l.mistake(l.places["admin.listen"], "admin.listen",
			"can be reached from other machines; give it admin.tls, or admin.token_file if something in front of it does TLS; or use a loopback address or unix:/path, and health.listen for probes and metrics")
	}
	l.checkDistinct()
}

// checkDistinct finds listeners that would fight for one address.
func (l *loader) checkDistinct() {
	c := l.config
	var seen []keyedListen
	all := append(c.proxyListens(), keyedListen{"admin.listen", c.Admin.Listen}, keyedListen{"health.listen", c.Health.Listen})
	if c.Connect.PublicURL != nil {
		all = append(all, keyedListen{"connect.listen", c.Connect.Listen}, keyedListen{"connect.http.listen", c.Connect.HTTP})
	}
	for _, at := range all {
		if at.listen.Off() || strings.HasSuffix(at.listen.Address, ":0") {
			continue
		}
		for _, other := range seen {
			if at.listen == other.listen {
				l.mistake(l.places[at.path], at.path, "is the address of %s too", other.path)
			} else if at.listen.overlaps(other.listen) {
				l.mistake(l.places[at.path], at.path, "(%s) takes an address that %s (%s) takes too", at.listen, other.path, other.listen)
			}
		}
		seen = append(seen, at)
	}
}

// checkHeaders refuses to name the connection in a field that means something
// else to HTTP or to Pleo.
func (l *loader) checkHeaders() {
	c := l.config.Proxy
	if isReservedField(c.ConnectionHeader) {
		l.mistake(l.places["proxy.connection_header"], "proxy.connection_header", "cannot be %s, which has a meaning of its own", c.ConnectionHeader)
	}
	for _, alias := range c.ConnectionHeaderAliases {
		if isReservedField(alias) {
			l.mistake(l.places["proxy.connection_header_aliases"], "proxy.connection_header_aliases", "cannot hold %s, which has a meaning of its own", alias)
		}
	}
}

func isReservedField(name string) bool {
	reserved := []string{
		"authorization", "host", "connection", "content-length", "content-type", "transfer-encoding",
		"cookie", "te", "trailer", "upgrade", "origin", "forwarded", "accept", "expect", "idempotency-key",
	}
	return slices.Contains(reserved, strings.ToLower(name))
}
