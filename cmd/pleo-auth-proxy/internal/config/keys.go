package config

import (
	"slices"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// customEnvironment is the environment that names its own URLs.
const customEnvironment = "custom"

// key is one key of the configuration: all that the file, the environment, the
// example and the checks need to know about it.
type key struct {
	path string // as in messages: proxy.listen
	doc  string // one sentence for the example
	// fallback is the default, as it would stand in the environment; empty when
	// there is none, or when it follows from other things.
	fallback string
	form     form
	private  bool // the value must not be shown
	// set reads the value into the configuration: one text for a scalar, any
	// number for a list. Its error says what would be right.
	set func(c *Config, texts []string) error
	// items is set in place of set for a list of objects.
	items *items
}

// form is what a key's value looks like.
type form int

const (
	scalar  form = iota // any text or number
	boolean             // true or false
	list                // a list of texts
	objects             // a list of keys and values
)

// variable returns the name of the key's environment variable.
func (k key) variable() string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(k.path, ".", "_"))
}

// section returns the part of the path before the last dot, and the rest.
func (k key) section() (section, name string) {
	if i := strings.LastIndexByte(k.path, '.'); i >= 0 {
		return k.path[:i], k.path[i+1:]
	}
	return "", k.path
}

// one makes the set function of a key with one value.
func one[T any](parse func(string) (T, error), at func(*Config) *T) func(*Config, []string) error {
	return func(c *Config, texts []string) error {
		value, err := parse(texts[0])
		if err != nil {
			return err
		}
		*at(c) = value
		return nil
	}
}

// many makes the set function of a key with a list of values.
func many[T any](parse func(string) (T, error), at func(*Config) *[]T) func(*Config, []string) error {
	return func(c *Config, texts []string) error {
		values := make([]T, 0, len(texts))
		for _, text := range texts {
			value, err := parse(text)
			if err != nil {
				return err
			}
			values = append(values, value)
		}
		*at(c) = values
		return nil
	}
}

// allKeys returns every key in the order of the example. It is the one place
// that knows them.
func allKeys() []key {
	return slices.Concat(
		generalKeys(), upstreamKeys(), listenerKeys(), accessKeys(),
		tlsKeys("proxy.tls", "the proxy's ports", func(c *Config) *TLS { return &c.Proxy.TLS }),
		replayKeys(), oauthKeys(), connectKeys(),
		tlsKeys("connect.tls", "the customer's pages", func(c *Config) *TLS { return &c.Connect.TLS }),
		acmeKeys(), connectionKeys(), storeKeys(), adminKeys(),
		tlsKeys("admin.tls", "the admin listener", func(c *Config) *TLS { return &c.Admin.TLS }),
		webhookKeys(), operationKeys(),
	)
}

func generalKeys() []key {
	return []key{
		{
			path: "environment",
			doc:  "Which Pleo to talk to: production, staging, or custom with upstream URLs of your own. Required.",
			set:  one(oneOf("production", "staging", customEnvironment), func(c *Config) *string { return &c.Environment }),
		},
		{
			path: "data_dir",
			doc:  "Where the store, the keyset and the spool are kept; by default $STATE_DIRECTORY, else /var/lib/pleo-auth-proxy for root, else $XDG_STATE_HOME/pleo-auth-proxy.",
			set:  one(parsePath, func(c *Config) *string { return &c.DataDir }),
		},
	}
}

func oauthKeys() []key {
	return []key{
		{
			path: "oauth.client_id",
			doc:  "The id of your OAuth client at Pleo; empty where only API keys are used.",
			set:  one(parseText, func(c *Config) *string { return &c.OAuth.ClientID }),
		},
		{
			path:    "oauth.client_secret",
			doc:     "The secret of your OAuth client; better kept in a file of its own.",
			private: true,
			set:     one(parseSecret, func(c *Config) *SecretSource { return &c.OAuth.ClientSecret }),
		},
		{
			path: "oauth.client_secret_file",
			doc:  "A file that holds the client secret, read again when it changes.",
			set:  one(parseSecretFile, func(c *Config) *SecretSource { return &c.OAuth.ClientSecret }),
		},
		{
			path:    "oauth.previous_client_secret",
			doc:     "The secret before the present one, tried when Pleo answers invalid_client.",
			private: true,
			set:     one(parseSecret, func(c *Config) *SecretSource { return &c.OAuth.PreviousClientSecret }),
		},
		{
			path: "oauth.previous_client_secret_file",
			doc:  "A file that holds the secret before the present one, read again when it changes.",
			set:  one(parseSecretFile, func(c *Config) *SecretSource { return &c.OAuth.PreviousClientSecret }),
		},
		{
			path:     "oauth.client_auth",
			doc:      "How the client proves itself to the authorization server: basic (form-encoded, RFC 6749 section 2.3.1), post, or basic_plain (not form-encoded).",
			fallback: "basic",
			set:      one(parseClientAuth, func(c *Config) *pleo.ClientAuth { return &c.OAuth.ClientAuth }),
		},
		{
			path:     "oauth.refresh_before_expiry",
			doc:      "How long before its expiry an access token is refreshed, but never more than a fifth of its life.",
			fallback: "2m",
			set:      one(parseDuration, func(c *Config) *time.Duration { return &c.OAuth.RefreshBeforeExpiry }),
		},
		{
			path: "oauth.scopes",
			doc:  "What customers are asked to allow, and what the API keys that they enter must allow; empty: whatever your client is registered for, and any key.",
			form: list,
			set:  many(parseScope, func(c *Config) *[]string { return &c.OAuth.Scopes }),
		},
		{
			path: "oauth.issuer",
			doc:  "What the authorization server calls itself in iss, where it sends that to the callback (RFC 9207); by default upstream.auth_url.",
			set:  one(parseText, func(c *Config) *string { return &c.OAuth.Issuer }),
		},
	}
}

// connectionKeys declare connections with API keys, which are left to whoever
// keeps the configuration. Refresh tokens are not: a restart would bring a spent
// one back.
func connectionKeys() []key {
	declared := func(c *Config) *Connection { return last(c.Connections) }
	return []key{{
		path: "connections",
		doc:  "Connections whose API key is kept here or in a file, for a program without a store of its own.",
		form: objects,
		items: listAt(func(c *Config) *[]Connection { return &c.Connections },
			key{
				path: "connections[].name",
				doc:  "what clients call it",
				set:  one(parseConnectionName, func(c *Config) *string { return &declared(c).Name }),
			},
			key{
				path: "connections[].kind",
				doc:  "standalone_key or integrated_key",
				set:  one(parseKeyKind, func(c *Config) *credstore.Kind { return &declared(c).Kind }),
			},
			key{
				path: "connections[].api_key_file",
				doc:  "a file that holds the key, read again when it changes",
				set:  one(parseSecretFile, func(c *Config) *SecretSource { return &declared(c).APIKey }),
			},
			key{
				path:    "connections[].api_key",
				doc:     "or the key itself",
				private: true,
				set:     one(parseSecret, func(c *Config) *SecretSource { return &declared(c).APIKey }),
			},
			key{
				path: "connections[].external_tenant",
				doc:  "what the other system calls the customer",
				set:  one(parseTenant, func(c *Config) *string { return &declared(c).ExternalTenant }),
			},
		),
	}}
}

func storeKeys() []key {
	return []key{
		{
			path:     "store.driver",
			doc:      "Where connections are kept: sqlite, for one program on one machine; postgres (15 or later), for several that share them; or memory, which keeps nothing and is for connections that are declared here.",
			fallback: DriverSQLite,
			set:      one(oneOf(DriverSQLite, DriverPostgres, DriverMemory), func(c *Config) *string { return &c.Store.Driver }),
		},
		{
			path: "store.path",
			doc:  "The SQLite database, on a local disk that survives restarts; by default store.db in data_dir.",
			set:  one(parsePath, func(c *Config) *string { return &c.Store.Path }),
		},
		{
			path:    "store.dsn",
			doc:     "The connection string of the PostgreSQL database, such as postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full; better kept in a file of its own.",
			private: true,
			set:     one(parseSecret, func(c *Config) *SecretSource { return &c.Store.DSN }),
		},
		{
			path: "store.dsn_file",
			doc:  "A file that holds the connection string, read again for each new connection.",
			set:  one(parseSecretFile, func(c *Config) *SecretSource { return &c.Store.DSN }),
		},
		{
			path: "store.keyset_file",
			doc:  "The keys that seal the store, made on first use: back it up apart from the store; by default keyset.json in data_dir.",
			set:  one(parsePath, func(c *Config) *string { return &c.Store.KeysetFile }),
		},
		{
			path: "store.spool_dir",
			doc:  "Where new tokens wait, sealed, while the store cannot take them; by default spool in data_dir.",
			set:  one(parsePath, func(c *Config) *string { return &c.Store.SpoolDir }),
		},
	}
}

func adminKeys() []key {
	return []key{
		{
			path:     "admin.listen",
			doc:      "Where operators have their dashboard and the back office its API: host:port or unix:/path, or off. Where other machines can reach it, reading takes the admin token too.",
			fallback: "127.0.0.1:8485",
			set:      one(parseListenOrOff, func(c *Config) *Listen { return &c.Admin.Listen }),
		},
		{
			path: "admin.token_file",
			doc:  "A file that holds the admin token, made on first use and read again when it changes; by default admin-token in data_dir, and none with store.driver memory, so that nothing can be changed.",
			set:  one(parsePath, func(c *Config) *string { return &c.Admin.TokenFile }),
		},
	}
}

func operationKeys() []key {
	return []key{
		{
			path:     "health.listen",
			doc:      "Where /livez, /readyz and /metrics answer without any check, for Kubernetes and Prometheus: such as :8487, or off.",
			fallback: off,
			set:      one(parseListenOrOff, func(c *Config) *Listen { return &c.Health.Listen }),
		},
		{
			path:     "shutdown.drain",
			doc:      "How long requests under way may take to finish once the program is told to stop; refreshes finish in any case.",
			fallback: "20s",
			set:      one(parseDuration, func(c *Config) *time.Duration { return &c.Shutdown.Drain }),
		},
		{
			path:     "log.level",
			doc:      "What is logged: debug, info, warn or error.",
			fallback: "info",
			set:      one(oneOf("debug", "info", "warn", "error"), func(c *Config) *string { return &c.Log.Level }),
		},
		{
			path:     "log.format",
			doc:      "How it is logged, on standard error: json or console.",
			fallback: "json",
			set:      one(oneOf("json", "console"), func(c *Config) *string { return &c.Log.Format }),
		},
	}
}
