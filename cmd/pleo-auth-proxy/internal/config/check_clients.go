package config

import "strings"

// checkClients reports clients that could not prove themselves, or could not be
// told apart.
func (l *loader) checkClients() {
	names, hashes := map[string]string{}, map[TokenHash]string{} // → path of the client
	for i, client := range l.config.Proxy.Clients {
		path := itemPath("proxy.clients", i)
		at := l.places[path]
		l.needs(path, "name")
		if other, taken := names[client.Name]; taken && client.Name != "" {
			l.mistake(l.places[path+".name"], path+".name", "is the name of %s too", other)
		}
		if strings.ContainsFunc(client.Name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == ':' }) {
			l.mistake(l.places[path+".name"], path+".name", "has a colon, a space or a control character, with which no client could prove itself")
		}
		names[client.Name] = path
		hash, file := l.given(path+".token_hash"), l.given(path+".token_file")
		switch {
		case hash && file:
			l.mistake(l.places[path+".token_file"], path+".token_file", "cannot be used together with token_hash; keep one of them")
		case !hash && !file:
			l.mistake(at, path, "needs token_file or token_hash")
		}
		if other, taken := hashes[client.TokenHash]; taken && hash && client.TokenHash != (TokenHash{}) {
			l.mistake(l.places[path+".token_hash"], path+".token_hash", "is the token of %s too, so that the two could not be told apart", other)
		}
		if hash {
			hashes[client.TokenHash] = path
		}
	}
}

// needs reports that an item lacks a key.
func (l *loader) needs(path, name string) {
	if !l.given(path+"."+name) && !l.hasMistake(path+"."+name) {
		l.mistake(l.places[path], path+"."+name, "is needed")
	}
}

// proxyListens returns every listener of the proxy with the path of its key.
func (c *Config) proxyListens() []keyedListen {
	all := []keyedListen{{"proxy.listen", c.Proxy.Listen}}
	for i, listener := range c.Proxy.Listeners {
		all = append(all, keyedListen{itemPath("proxy.listeners", i) + ".listen", listener.Listen})
	}
	return all
}

type keyedListen struct {
	path   string
	listen Listen
}

// checkExposed refuses to let anyone act with every connection, unless the
// configuration says so.
func (l *loader) checkExposed() {
	c := l.config.Proxy
	if c.DangerouslyAllowAnyone || len(c.Clients) > 0 || len(c.ClientNetworks) > 0 {
		return
	}
	for _, at := range l.config.proxyListens() {
		if !at.listen.Local() {
			l.mistake(l.places[at.path], at.path,
				"can be reached from other machines, and whoever reaches it acts with every connection; name who may in proxy.clients or proxy.client_networks, use a loopback address or unix:/path, or say proxy.dangerously_allow_anyone: true")
		}
	}
}

func (l *loader) checkOwnListeners() {
	for i := range l.config.Proxy.Listeners {
		path := itemPath("proxy.listeners", i)
		l.needs(path, "listen")
		l.needs(path, "connection")
	}
}

// checkTLS reports a certificate without its key, and the like, in the section of
// a listener.
func (l *loader) checkTLS(section string) {
	cert, key, ca := section+".cert_file", section+".key_file", section+".client_ca_file"
	switch {
	case l.given(cert) && !l.given(key):
		l.mistake(l.places[cert], cert, "needs %s beside it", key)
	case l.given(key) && !l.given(cert):
		l.mistake(l.places[key], key, "needs %s beside it", cert)
	case l.given(ca) && !l.given(cert):
		l.mistake(l.places[ca], ca, "needs %s and %s beside it", cert, key)
	}
}
