package config

import (
	"net/netip"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy"
)

// accessKeys say who may use the proxy, and how it is reached.
func accessKeys() []key {
	return []key{
		{
			path: "proxy.listeners",
			doc:  "More places for clients to send their requests, each tied to one connection.",
			form: objects,
			items: listAt(func(c *Config) *[]Listener { return &c.Proxy.Listeners },
				key{
					path: "proxy.listeners[].listen",
					doc:  "host:port or unix:/path",
					set:  one(parseListen, func(c *Config) *Listen { return &last(c.Proxy.Listeners).Listen }),
				},
				key{
					path: "proxy.listeners[].connection",
					doc:  "the connection of all its requests",
					set:  one(parseConnectionName, func(c *Config) *string { return &last(c.Proxy.Listeners).Connection }),
				},
			),
		},
		clientsKey(),
		{
			path: "proxy.client_networks",
			doc:  "Networks that clients may connect from, such as 10.0.0.0/8, besides unix sockets; empty for all.",
			form: list,
			set:  many(parseNetwork, func(c *Config) *[]netip.Prefix { return &c.Proxy.ClientNetworks }),
		},
	}
}

// tlsKeys are the keys of a section that holds the TLS of a listener, which is
// called what in sentences.
func tlsKeys(section, what string, at func(*Config) *TLS) []key {
	return []key{
		{
			path: section + ".cert_file",
			doc:  "The certificate chain (PEM) of " + what + ", read again when it changes; empty for plain HTTP. Unix sockets have no TLS.",
			set:  one(parsePath, func(c *Config) *string { return &at(c).CertFile }),
		},
		{
			path: section + ".key_file",
			doc:  "The key (PEM) of the certificate.",
			set:  one(parsePath, func(c *Config) *string { return &at(c).KeyFile }),
		},
		{
			path: section + ".client_ca_file",
			doc:  "Authorities (PEM) of client certificates, which are then required; while it cannot be read, nobody is let in.",
			set:  one(parsePath, func(c *Config) *string { return &at(c).ClientCAFile }),
		},
	}
}

func clientsKey() key {
	clients := func(c *Config) *Client { return last(c.Proxy.Clients) }
	return key{
		path: "proxy.clients",
		doc:  "The only programs that may use the proxy, by Authorization: Bearer TOKEN or Basic NAME:TOKEN; empty for whoever reaches it.",
		form: objects,
		items: listAt(func(c *Config) *[]Client { return &c.Proxy.Clients },
			key{
				path: "proxy.clients[].name",
				doc:  "its name, for Basic and for the access log",
				set:  one(parseText, func(c *Config) *string { return &clients(c).Name }),
			},
			key{
				path:    "proxy.clients[].token_hash",
				doc:     "the SHA-256 of its token, in hex",
				private: true,
				set:     one(parseHash, func(c *Config) *TokenHash { return &clients(c).TokenHash }),
			},
			key{
				path: "proxy.clients[].token_file",
				doc:  "or a file that holds its token, read again when it changes",
				set:  one(parseSecretFile, func(c *Config) *SecretSource { return &clients(c).Token }),
			},
			key{
				path: "proxy.clients[].connections",
				doc:  "patterns of the connections that it may use, such as [acme, shop-*]; left out, all",
				form: list,
				set:  many(checked(proxy.CheckConnectionPattern), func(c *Config) *[]string { return &clients(c).Connections }),
			},
			allowKey(clients),
		),
	}
}

func allowKey(clients func(*Config) *Client) key {
	rule := func(c *Config) *Rule { return last(clients(c).Allow) }
	return key{
		path: "proxy.clients[].allow",
		doc:  "what it may ask for; left out, everything",
		form: objects,
		items: listAt(func(c *Config) *[]Rule { return &clients(c).Allow },
			key{
				path: "proxy.clients[].allow[].methods",
				doc:  "such as [GET, HEAD]; left out, all of them",
				form: list,
				set:  many(checked(proxy.CheckMethod), func(c *Config) *[]string { return &rule(c).Methods }),
			},
			key{
				path: "proxy.clients[].allow[].paths",
				doc:  "patterns by segments, such as [/v1/expenses/*, /v2/exports/**]; left out, all",
				form: list,
				set:  many(checked(proxy.CheckPathPattern), func(c *Config) *[]string { return &rule(c).Paths }),
			},
		),
	}
}

// checked makes a parser of what says what is wrong with a text.
func checked(check func(string) error) func(string) (string, error) {
	return func(s string) (string, error) { return s, check(s) }
}
