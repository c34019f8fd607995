package config

import (
	"net/url"
	"time"
)

func upstreamKeys() []key {
	return []key{
		{
			path: "upstream.api_url",
			doc:  "The Pleo API, for environment custom only; plain http for this machine only.",
			set:  one(parseUpstreamURL, func(c *Config) **url.URL { return &c.Upstream.APIURL }),
		},
		{
			path: "upstream.auth_url",
			doc:  "The authorization server, for environment custom only; plain http for this machine only.",
			set:  one(parseUpstreamURL, func(c *Config) **url.URL { return &c.Upstream.AuthURL }),
		},
		{
			path: "upstream.ca_file",
			doc:  "Certificates (PEM) to trust in place of the system's, for API and authorization server.",
			set:  one(parsePath, func(c *Config) *string { return &c.Upstream.CAFile }),
		},
		{
			path:    "upstream.proxy_url",
			doc:     "A forward proxy for API and authorization server; HTTP_PROXY and HTTPS_PROXY are ignored.",
			private: true,
			set:     one(parseProxyURL, func(c *Config) **url.URL { return &c.Upstream.ProxyURL }),
		},
		{
			path:     "upstream.timeout",
			doc:      "How long to wait for the head of the API's answer; bodies may take as long as they move.",
			fallback: "60s",
			set:      one(parseDuration, func(c *Config) *time.Duration { return &c.Upstream.Timeout }),
		},
	}
}

func listenerKeys() []key {
	return []key{
		{
			path:     "proxy.listen",
			doc:      "Where clients send their requests: host:port or unix:/path, or unix:/path?mode=0660&group=NAME.",
			fallback: "127.0.0.1:8484",
			set:      one(parseListen, func(c *Config) *Listen { return &c.Proxy.Listen }),
		},
		{
			path:     "proxy.connection_header",
			doc:      "The header field in which clients name the connection.",
			fallback: "Pleo-Connection",
			set:      one(parseFieldName, func(c *Config) *string { return &c.Proxy.ConnectionHeader }),
		},
		{
			path:     "proxy.connection_header_aliases",
			doc:      "Other header fields in which clients may name it.",
			fallback: "Connection-Id",
			form:     list,
			set:      many(parseFieldName, func(c *Config) *[]string { return &c.Proxy.ConnectionHeaderAliases }),
		},
		{
			path: "proxy.default_connection",
			doc:  "The connection of requests that name none; refused while the store holds more than one.",
			set:  one(parseConnectionName, func(c *Config) *string { return &c.Proxy.DefaultConnection }),
		},
		{
			path:     "proxy.default_connection_shared",
			doc:      "Use the default connection although the store holds more than one.",
			fallback: "false",
			form:     boolean,
			set:      one(parseBool, func(c *Config) *bool { return &c.Proxy.DefaultConnectionShared }),
		},
		{
			path: "proxy.allowed_hosts",
			doc:  "Host names that clients may use beside IP addresses, localhost, single labels, *.internal, *.svc and *.cluster.local.",
			form: list,
			set:  many(parseHost, func(c *Config) *[]string { return &c.Proxy.AllowedHosts }),
		},
		{
			path:     "proxy.dangerously_allow_anyone",
			doc:      "Accept listeners that other machines can reach without clients or client_networks, so that whoever reaches them acts with every connection.",
			fallback: "false",
			form:     boolean,
			set:      one(parseBool, func(c *Config) *bool { return &c.Proxy.DangerouslyAllowAnyone }),
		},
		{
			path:     "proxy.credential_wait",
			doc:      "How long a request waits for a refresh.",
			fallback: "20s",
			set:      one(parseDuration, func(c *Config) *time.Duration { return &c.Proxy.CredentialWait }),
		},
		{
			path:     "proxy.access_log",
			doc:      "Log one line for each request, without query and bodies.",
			fallback: "true",
			form:     boolean,
			set:      one(parseBool, func(c *Config) *bool { return &c.Proxy.AccessLog }),
		},
	}
}

func replayKeys() []key {
	return []key{
		{
			path:     "replay.memory",
			doc:      "How much of a request's body is kept in memory to send it again after a 401.",
			fallback: "1MiB",
			set:      one(parseSize, func(c *Config) *int64 { return &c.Replay.Memory }),
		},
		{
			path:     "replay.memory_total",
			doc:      "How much memory the bodies of all requests together may take.",
			fallback: "32MiB",
			set:      one(parseSize, func(c *Config) *int64 { return &c.Replay.MemoryTotal }),
		},
		{
			path:     "replay.max_body",
			doc:      "Up to which size a body that does not fit into memory is kept in a file; larger ones are sent once.",
			fallback: "64MiB",
			set:      one(parseSize, func(c *Config) *int64 { return &c.Replay.MaxBody }),
		},
		{
			path:     "replay.files_total",
			doc:      "How much the files of all requests together may take.",
			fallback: "1GiB",
			set:      one(parseSize, func(c *Config) *int64 { return &c.Replay.FilesTotal }),
		},
		{
			path: "replay.dir",
			doc:  "Where these files are made, without names; by default the system's directory for temporary files. Where none can be made, larger bodies are sent once.",
			set:  one(parsePath, func(c *Config) *string { return &c.Replay.Dir }),
		},
	}
}
