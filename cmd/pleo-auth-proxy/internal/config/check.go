package config

import (
	"slices"
	"strings"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// check reports mistakes between several keys, and sets the URLs that the
// environment determines.
func check(c *Config, r *report) {
	checkEnvironment(c, r)
	checkOAuth(c.OAuth, r)
	checkAddresses(c, r)
	checkExposed(c, r)
	checkProxy(c.Proxy, r)
	checkTLS("proxy.tls", r)
	checkTLS("admin.tls", r)
	checkConnect(c.Connect, r)
	checkTLS("connect.tls", r)
	checkACME(c.Connect, r)
	checkWebhooks(c.Webhooks, r)
	checkConnections(c.Connections, r)
	checkStore(c.Store, r)
	checkPaths(c, r)
	checkMemory(c, r)
}

// fileHint returns where a configuration file was looked for, if there is none: then
// a required key is missing because the program runs in another directory.
func fileHint(c *Config) string {
	if c.File != "" {
		return ""
	}
	return "; found no configuration file, neither " + strings.Join(DefaultFiles(), " nor ")
}

func checkEnvironment(c *Config, r *report) {
	urls := []string{"upstream.api_url", "upstream.auth_url"}
	switch {
	case r.invalid("environment"):
	case c.Environment == "":
		r.wrong("environment", "is required: production, staging, or custom with upstream.api_url and upstream.auth_url%s", fileHint(c))
	case !c.EndpointsFixed():
		for _, path := range urls {
			if !r.given(path) {
				r.wrong(path, "is required with environment custom")
			}
		}
	default:
		for _, path := range urls {
			if r.given(path) {
				r.wrong(path, "is determined by environment %s; remove it, or use environment custom", c.Environment)
			}
		}
		endpoints, ok := pleo.EndpointsFor(c.Environment)
		if !ok {
			r.wrong("environment", "has no known URLs")
			return
		}
		c.Upstream.APIURL, c.Upstream.AuthURL = endpoints.API, endpoints.Auth
	}
}

func checkOAuth(c OAuth, r *report) {
	r.oneSecret("oauth.client_secret")
	r.oneSecret("oauth.previous_client_secret")
	const id = "oauth.client_id"
	secret := r.hasSecret("oauth.client_secret")
	switch {
	case r.given(id) && !secret:
		r.wrong(id, "requires oauth.client_secret_file or oauth.client_secret")
	case secret && !r.given(id):
		r.wrong(id, "is required with a client secret")
	}
	if err := c.ClientAuth.CheckClientID(c.ClientID); err != nil {
		r.wrong(id, "%v", err)
	}
	if r.hasSecret("oauth.previous_client_secret") && !secret {
		r.wrong("oauth.client_secret_file", "is required with a previous client secret")
	}
}

// hasSecret reports whether the secret at path is set, itself or by a file.
func (r *report) hasSecret(path string) bool { return r.given(path) || r.given(path+fileSuffix) }

// oneSecret reports a secret that is set both itself and by a file.
func (r *report) oneSecret(path string) {
	if r.given(path) && r.given(path+fileSuffix) {
		r.wrong(path+fileSuffix, "cannot be combined with %s; remove one of them", path)
	}
}

func checkStore(c Store, r *report) {
	if c.Driver != DriverPostgres {
		for _, path := range []string{"store.dsn", "store.dsn_file"} {
			if r.given(path) {
				r.wrong(path, "applies to store.driver postgres only; set that too, or remove this key")
			}
		}
		return
	}
	r.oneSecret("store.dsn")
	if !r.hasSecret("store.dsn") && !r.invalid("store.dsn") && !r.invalid("store.dsn_file") {
		r.wrong("store.driver", "is postgres, which requires store.dsn_file or store.dsn")
	}
	if r.given("store.path") {
		r.wrong("store.path", "does not apply to store.driver postgres; remove it")
	}
}

// checkMemory rejects the memory store where something must be stored.
func checkMemory(c *Config, r *report) {
	if c.Store.Driver != DriverMemory {
		return
	}
	if len(c.Connections) == 0 && !r.invalid("connections") {
		r.wrong("store.driver", "is memory, which is for connections in the configuration; add one under connections, or use sqlite")
	}
	if r.given("oauth.client_id") {
		r.wrong("oauth.client_id", "cannot be combined with store.driver memory, which would lose refresh tokens on exit; use sqlite")
	}
	for _, path := range []string{"store.path", "store.keyset_file", "store.spool_dir"} {
		if r.given(path) {
			r.wrong(path, "does not apply to store.driver memory; remove it")
		}
	}
}

// checkPaths reports files that would overwrite each other.
func checkPaths(c *Config, r *report) {
	seen := map[string]string{} // path of a file → path of its key
	for _, of := range []struct{ key, path string }{
		{"data_dir", c.DataDir}, {"store.path", c.Store.Path}, {"store.keyset_file", c.Store.KeysetFile},
		{"store.spool_dir", c.Store.SpoolDir}, {"admin.token_file", c.Admin.TokenFile},
	} {
		r.unique(seen, of.path, of.key, "path", of.key)
	}
}

func checkConnections(connections []Connection, r *report) {
	names := map[string]string{} // lower case → path of the connection
	for i, c := range connections {
		path := itemPath("connections", i)
		r.require(path, "name")
		r.require(path, "kind")
		r.unique(names, strings.ToLower(c.Name), path+".name", "name, apart from case,", path)
		r.oneSecret(path + ".api_key")
		if !r.hasSecret(path + ".api_key") {
			r.wrong(path, "requires api_key_file or api_key")
		}
	}
}

// checkWebhooks reports webhooks without URL or secret, and those with the same
// URL: a delivery is known by its URL.
func checkWebhooks(webhooks []Webhook, r *report) {
	urls := map[string]string{} // URL → path of the webhook
	for i, w := range webhooks {
		path := itemPath("webhooks", i)
		r.require(path, "url")
		r.require(path, "secret_file")
		if w.URL != nil {
			r.unique(urls, w.URL.String(), path+".url", "URL", path)
		}
	}
}

// address is the address of a listener, with the path of its key.
type address struct {
	path   string
	listen Listen
}

// proxyAddresses returns the addresses of the proxy's listeners.
func (c *Config) proxyAddresses() []address {
	all := []address{{"proxy.listen", c.Proxy.Listen}}
	for i, l := range c.Proxy.Listeners {
		all = append(all, address{itemPath("proxy.listeners", i) + ".listen", l.Listen})
	}
	return all
}

// checkAddresses reports listeners that cannot be open at the same time.
func checkAddresses(c *Config, r *report) {
	all := append(c.proxyAddresses(), address{"admin.listen", c.Admin.Listen}, address{"health.listen", c.Health.Listen})
	if c.Connect.PublicURL != nil {
		all = append(all, address{"connect.listen", c.Connect.Listen}, address{"connect.http.listen", c.Connect.HTTP})
	}
	all = slices.DeleteFunc(all, func(a address) bool { return a.listen.Off() || strings.HasSuffix(a.listen.Address, ":0") })
	for i, a := range all {
		for _, other := range all[:i] {
			if a.listen == other.listen {
				r.wrong(a.path, "is already the address of %s", other.path)
			} else if a.listen.overlaps(other.listen) {
				r.wrong(a.path, "(%s) overlaps with %s (%s)", a.listen, other.path, other.listen)
			}
		}
	}
}

// checkExposed rejects listeners that other machines can reach without
// authentication.
func checkExposed(c *Config, r *report) {
	admin, p := c.Admin, c.Proxy
	if !admin.Listen.Local() && admin.TLS.Off() && !r.given("admin.token_file") {
		r.wrong("admin.listen",
			"can be reached from other machines; set admin.tls, or admin.token_file if a reverse proxy terminates TLS; or use a loopback address or unix:/path, and health.listen for probes and metrics")
	}
	if p.DangerouslyAllowAnyone || len(p.Clients) > 0 || len(p.ClientNetworks) > 0 {
		return
	}
	for _, a := range c.proxyAddresses() {
		if !a.listen.Local() {
			r.wrong(a.path,
				"can be reached from other machines, which would have access to every connection; set proxy.clients or proxy.client_networks, use a loopback address or unix:/path, or set proxy.dangerously_allow_anyone: true")
		}
	}
}

// checkTLS reports a certificate without its key, and the like, in the TLS section
// of a listener.
func checkTLS(section string, r *report) {
	cert, key, ca := section+".cert_file", section+".key_file", section+".client_ca_file"
	switch {
	case r.given(cert) && !r.given(key):
		r.wrong(cert, "requires %s", key)
	case r.given(key) && !r.given(cert):
		r.wrong(key, "requires %s", cert)
	case r.given(ca) && !r.given(cert):
		r.wrong(ca, "requires %s and %s", cert, key)
	}
}

// checkProxy reports listeners and clients that are incomplete, and clients that
// cannot be distinguished.
func checkProxy(c Proxy, r *report) {
	for i := range c.Listeners {
		path := itemPath("proxy.listeners", i)
		r.require(path, "listen")
		r.require(path, "connection")
	}
	names, hashes := map[string]string{}, map[string]string{} // → path of the client
	for i, client := range c.Clients {
		path := itemPath("proxy.clients", i)
		r.require(path, "name")
		r.unique(names, client.Name, path+".name", "name", path)
		hash, file := r.given(path+".token_hash"), r.given(path+".token_file")
		switch {
		case hash && file:
			r.wrong(path+".token_file", "cannot be combined with token_hash; remove one of them")
		case !hash && !file:
			r.wrong(path, "requires token_file or token_hash")
		}
		if client.TokenHash != (TokenHash{}) {
			r.unique(hashes, string(client.TokenHash[:]), path+".token_hash", "token", path)
		}
	}
}

func checkConnect(c Connect, r *report) {
	if c.PublicURL == nil {
		for _, used := range []struct {
			path string
			off  bool
		}{{"connect.tls.acme.domains", c.ACME.Off()}, {"connect.tls.cert_file", c.TLS.Off()}, {"connect.http.listen", c.HTTP.Off()}} {
			if !used.off {
				r.wrong(used.path, "requires connect.public_url")
			}
		}
		return
	}
	if c.Listen.Off() {
		r.wrong("connect.public_url", "requires connect.listen, which is off")
	}
	if c.PublicURL.Scheme != "https" && (!c.ACME.Off() || !c.TLS.Off()) {
		r.wrong("connect.public_url", "must begin with https:// if connect.tls is set")
	}
}

// checkACME reports certificates that could not be obtained.
func checkACME(c Connect, r *report) {
	const domains = "connect.tls.acme.domains"
	if c.ACME.Off() {
		for _, path := range []string{"connect.tls.acme.email", "connect.tls.acme.ca_root_file"} {
			if r.given(path) {
				r.wrong(path, "requires %s", domains)
			}
		}
		return
	}
	if !c.TLS.Off() {
		r.wrong(domains, "cannot be combined with connect.tls.cert_file; remove one of them")
	}
	if c.Listen.Network != "tcp" || strings.HasSuffix(c.Listen.Address, ":0") {
		r.wrong("connect.listen", "must be host:port with a fixed port if %s is set", domains)
	}
	if u := c.PublicURL; u != nil && !slices.Contains(c.ACME.Domains, strings.ToLower(u.Hostname())) {
		r.wrong("connect.public_url", "must have a host that is in %s", domains)
	}
}
