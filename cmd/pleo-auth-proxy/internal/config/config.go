// Package config reads the configuration and reports every mistake.
//
// The structs below declare the keys. A field's tags give its name (key), its
// default as it is written in the environment (default), and how its text is
// written where the Go type does not say so (as, oneof). Its comment is what
// config.example.yaml and docs/configuration.md say about the key: a test
// writes both.
package config

import (
	"crypto/sha256"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// Config is a complete and checked configuration, as [Load] returns it.
type Config struct {
	// File is the path of the file that was read; empty if there was none.
	File string
	// DataDirConfigured reports whether the configuration names DataDir. Its
	// parent must then exist.
	DataDirConfigured bool
	// UnknownVariables are the names of the environment variables that begin with
	// PLEO_ and that no known program reads, in alphabetical order. They are ignored.
	UnknownVariables []string

	// The Pleo environment: production, staging, or custom, which requires upstream.api_url and
	// upstream.auth_url. This is the only required key.
	Environment string `key:"environment" oneof:"production,staging,custom"`
	// The directory for the store, the keyset, the spool, the admin token and certificates. Defaults to
	// $STATE_DIRECTORY, else /var/lib/pleo-auth-proxy for root, else $XDG_STATE_HOME/pleo-auth-proxy.
	DataDir string `key:"data_dir" as:"path"`

	Upstream Upstream `key:"upstream"`
	Proxy    Proxy    `key:"proxy"`
	Replay   Replay   `key:"replay"`
	OAuth    OAuth    `key:"oauth"`
	Connect  Connect  `key:"connect"`
	// Connections whose API keys are kept in the configuration, for deployments without a
	// persistent store.
	Connections []Connection `key:"connections"`
	Store       Store        `key:"store"`
	Admin       Admin        `key:"admin"`
	// Receivers of events, such as connection.reauthorization_required. Events are sent as HTTP POST
	// requests that follow the Standard Webhooks specification.
	Webhooks []Webhook `key:"webhooks"`
	Health   Health    `key:"health"`
	Shutdown Shutdown  `key:"shutdown"`
	Log      Log       `key:"log"`

	places map[string]place // path → where its value was read
}

// Upstream is the Pleo API, and how it and the authorization server are reached.
// After [Load] both URLs are set in every environment.
type Upstream struct {
	// The URL of the Pleo API, for environment custom only. Plain http is accepted for loopback
	// addresses only.
	APIURL *url.URL `key:"api_url" as:"origin"`
	// The URL of the authorization server, for environment custom only. Plain http is accepted for
	// loopback addresses only.
	AuthURL *url.URL `key:"auth_url" as:"origin"`
	// CA certificates (PEM) to trust instead of the system's, for the API and the authorization server.
	CAFile string `key:"ca_file" as:"path"`
	// The forward proxy for requests to the API and the authorization server. HTTP_PROXY and HTTPS_PROXY
	// are ignored.
	ProxyURL *url.URL `key:"proxy_url" as:"proxy_url"` // may hold a password: never log it
	// How long to wait for response headers of the API. Bodies may take longer, as long as data flows.
	Timeout time.Duration `key:"timeout" default:"60s"`
}

// Proxy is the listeners for clients, which clients may use them, and how they
// name a connection.
type Proxy struct {
	// The address for requests from clients: host:port, unix:/path, or
	// unix:/path?mode=0660&group=NAME.
	Listen Listen `key:"listen" default:"127.0.0.1:8484"`
	// The header in which clients name the connection.
	ConnectionHeader string `key:"connection_header" as:"connection_header" default:"Pleo-Connection"`
	// Other headers in which clients may name the connection.
	ConnectionHeaderAliases []string `key:"connection_header_aliases" as:"connection_header" default:"Connection-Id"`
	// The connection for requests that name none. Such requests are rejected while the store holds more
	// than one connection.
	DefaultConnection string `key:"default_connection" as:"connection"`
	// Use the default connection even if the store holds more than one.
	DefaultConnectionShared bool `key:"default_connection_shared" default:"false"`
	// Host names that clients may use, in addition to IP addresses, localhost, single labels,
	// *.internal, *.svc and *.cluster.local.
	AllowedHosts []string `key:"allowed_hosts" as:"host"`
	// Accept listeners that other machines can reach without proxy.clients or proxy.client_networks.
	// Every program that can reach them then has access to every connection.
	DangerouslyAllowAnyone bool `key:"dangerously_allow_anyone" default:"false"`
	// How long a request waits for a token refresh.
	CredentialWait time.Duration `key:"credential_wait" default:"20s"`
	// Log one line per request, without query string and body.
	AccessLog bool `key:"access_log" default:"true"`
	// Additional listeners, each bound to one connection.
	Listeners []Listener `key:"listeners"`
	// The only programs that may use the proxy, authenticated by Authorization: Bearer TOKEN or Basic
	// NAME:TOKEN. Empty means no client authentication.
	Clients []Client `key:"clients"`
	// Networks that clients may connect from, such as 10.0.0.0/8. Unix sockets are always allowed. Empty
	// means every network.
	ClientNetworks []netip.Prefix `key:"client_networks"`
	TLS            TLS            `key:"tls"`
}

// Listener is a listener for one connection.
type Listener struct {
	// host:port or unix:/path.
	Listen Listen `key:"listen"`
	// The connection of all requests to this listener.
	Connection string `key:"connection" as:"connection"`
}

// TokenHash is the SHA-256 of a client's token.
type TokenHash [sha256.Size]byte

// Client is a program that may use the proxy. It has either a TokenHash or a
// Token. An empty list that is not nil allows nothing.
type Client struct {
	// The name of the client, for Basic authentication and for the access log.
	Name string `key:"name" as:"client_name"`
	// The SHA-256 of its token, in hexadecimal.
	TokenHash TokenHash `key:"token_hash"`
	// Or a file that holds its token, read again when it changes.
	Token SecretSource `key:"token_file" as:"secret_file"`
	// Patterns for the connections that it may use, such as [acme, shop-*]. Leave out to allow all.
	Connections []string `key:"connections" as:"connection_pattern"`
	// The requests that it may send. Leave out to allow all.
	Allow []Rule `key:"allow"`
}

// Rule allows requests by method and path. A nil list allows all.
type Rule struct {
	// Methods such as [GET, HEAD]. Leave out to allow all.
	Methods []string `key:"methods" as:"method"`
	// Patterns for paths, such as [/v1/expenses/*, /v2/exports/**]. Leave out to allow all.
	Paths []string `key:"paths" as:"path_pattern"`
}

// TLS names the certificate files of a listener. Its zero value means plain HTTP.
type TLS struct {
	// The certificate chain (PEM), read again when it changes. Empty means plain HTTP. Does not apply to
	// unix sockets.
	CertFile string `key:"cert_file" as:"path"`
	// The private key (PEM) of the certificate.
	KeyFile string `key:"key_file" as:"path"`
	// CA certificates (PEM) for client certificates, which are then required. All clients are rejected
	// while this file cannot be read.
	ClientCAFile string `key:"client_ca_file" as:"path"`
}

// Off reports whether the listener speaks plain HTTP.
func (t TLS) Off() bool { return t.CertFile == "" }

// Replay limits the request bodies that are buffered so that they can be sent
// again after a 401, in bytes. 0 means none.
type Replay struct {
	// How much of one request body is buffered in memory. Longer bodies go to a file.
	Memory int64 `key:"memory" default:"1MiB"`
	// How much memory the bodies of all requests may use.
	MemoryTotal int64 `key:"memory_total" default:"32MiB"`
	// The largest body that is buffered at all. A larger one is sent once, and a 401 to it is returned
	// to the client.
	MaxBody int64 `key:"max_body" default:"64MiB"`
	// How much disk space the bodies of all requests may use.
	FilesTotal int64 `key:"files_total" default:"1GiB"`
	// The directory for these files, which have no name. Defaults to the system's directory for
	// temporary files. If no file can be created there, bodies larger than replay.memory are sent once.
	Dir string `key:"dir" as:"path"`
}

// OAuth is our client at the authorization server.
type OAuth struct {
	// The id of your OAuth client at Pleo. Empty if you use API keys only.
	ClientID string `key:"client_id"`
	// The secret of your OAuth client.
	ClientSecret SecretSource `key:"client_secret"`
	// The previous client secret, tried when Pleo responds with invalid_client.
	PreviousClientSecret SecretSource `key:"previous_client_secret"`
	// How the client authenticates to the authorization server: basic (form-encoded, RFC 6749 section
	// 2.3.1), post, or basic_plain (not form-encoded).
	ClientAuth pleo.ClientAuth `key:"client_auth" default:"basic"`
	// How long before its expiry an access token is refreshed; at most a fifth of its lifetime.
	RefreshBeforeExpiry time.Duration `key:"refresh_before_expiry" default:"2m"`
	// The scopes that customers are asked for, and that an API key entered by a customer must have.
	// Empty means the scopes that your client is registered for, and any key.
	Scopes []string `key:"scopes" as:"scope"`
	// The issuer that the authorization server sends to the callback in iss (RFC 9207). Defaults to
	// upstream.auth_url.
	Issuer string `key:"issuer"`
}

// Connect is the pages for customers.
type Connect struct {
	// The address of the pages on which customers give consent or enter an API key: host:port,
	// unix:/path, or off. It is used once connect.public_url is set.
	Listen Listen `key:"listen" as:"listen_or_off" default:"127.0.0.1:8486"`
	// The URL at which browsers reach the pages, such as https://connect.example.com. Without it there
	// are no pages and no connect links. Register it at Pleo with /oauth/callback appended.
	PublicURL *url.URL `key:"public_url" as:"public_url"`
	// How long a connect link is valid; at most 2160h (90 days).
	LinkTTL time.Duration `key:"link_ttl" as:"link_ttl" default:"168h"`
	// URLs that connect links may return the customer to, compared exactly. The parameters connection,
	// status and error are added.
	ReturnURLs []string `key:"return_urls" as:"return_url"`
	Branding   Branding `key:"branding"`
	TLS        TLS      `key:"tls"`
	ACME       ACME     `key:"tls.acme"`
	// Plain HTTP that redirects browsers to connect.public_url and responds to ACME challenges: an
	// address such as :80, or off.
	HTTP Listen `key:"http.listen" as:"listen_or_off" default:"off"`
}

// ACME configures certificates from a certificate authority.
type ACME struct {
	// Domains to obtain and renew certificates for; this implies agreement to the terms of the
	// certificate authority. It must reach connect.listen on port 443 of each domain, or
	// connect.http.listen on port 80. With several replicas, terminate TLS in front of them instead.
	Domains []string `key:"domains" as:"domain"`
	// The contact address for the certificate authority.
	Email string `key:"email"`
	// The directory URL of the certificate authority (RFC 8555).
	CAURL *url.URL `key:"ca_url" as:"directory_url" default:"https://acme-v02.api.letsencrypt.org/directory"`
	// CA certificates (PEM) to trust instead of the system's, for requests to the certificate authority.
	CARootFile string `key:"ca_root_file" as:"path"`
}

// Off reports whether no certificates are obtained.
func (a ACME) Off() bool { return len(a.Domains) == 0 }

// Branding is how the pages present the integration.
type Branding struct {
	// The name of your company or product, shown on every page.
	Name string `key:"name"`
	// Your logo: PNG, JPEG, GIF, WebP or SVG, at most 512KiB.
	LogoFile string `key:"logo_file" as:"path"`
}

// Connection is a connection with an API key in the configuration. Refresh tokens
// cannot be configured: a restart would restore one that was already used.
type Connection struct {
	// The name of the connection.
	Name string `key:"name" as:"connection"`
	// standalone_key or integrated_key.
	Kind credstore.Kind `key:"kind"`
	// The API key.
	APIKey SecretSource `key:"api_key"`
	// The name of the customer in the external system.
	ExternalTenant string `key:"external_tenant" as:"tenant"`
}

// The values of Store.Driver.
const (
	DriverSQLite   = "sqlite"
	DriverPostgres = "postgres"
	DriverMemory   = "memory"
)

// Store configures where connections and credentials are stored. Except for
// DriverMemory, every path is set after [Load].
type Store struct {
	// The database: sqlite for one replica on a local disk; postgres (version 15 or later) for several
	// replicas; memory for connections from the configuration only, which stores nothing.
	Driver string `key:"driver" oneof:"sqlite,postgres,memory" default:"sqlite"`
	// The SQLite database, on a local disk that survives restarts. Defaults to store.db in data_dir.
	Path string `key:"path" as:"path"`
	// The connection string of the PostgreSQL database, such as
	// postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full.
	DSN SecretSource `key:"dsn"`
	// The keyset that the store is encrypted with, created on first use. Back it up separately from the
	// store. Defaults to keyset.json in data_dir.
	KeysetFile string `key:"keyset_file" as:"path"`
	// The directory for encrypted copies of new tokens that the store has not saved yet. Defaults to
	// spool in data_dir.
	SpoolDir string `key:"spool_dir" as:"path"`
}

// Admin is the listener for operators and the back office.
type Admin struct {
	// The address of the dashboard and the JSON API: host:port, unix:/path, or off. If other machines
	// can reach it, read access requires the admin token too.
	Listen Listen `key:"listen" as:"listen_or_off" default:"127.0.0.1:8485"`
	// The file that holds the admin token, created on first use and read again when it changes. Defaults
	// to admin-token in data_dir. With store.driver memory there is no default, and without a token
	// nothing can be changed.
	TokenFile string `key:"token_file" as:"path"`
	TLS       TLS    `key:"tls"`
}

// Token returns the source of the admin token.
func (a Admin) Token() SecretSource { return SecretSource{path: a.TokenFile} }

// Webhook is a receiver of events.
type Webhook struct {
	// The URL of the receiver. Plain http is accepted for loopback addresses only.
	URL *url.URL `key:"url" as:"webhook_url"` // may hold a secret: never log it
	// A file with the secrets that deliveries are signed with, one per line, as openssl rand -base64 32
	// prints them. Read again when it changes.
	Secrets SecretSource `key:"secret_file" as:"secrets_file"`
	// CA certificates (PEM) to trust instead of the system's.
	CAFile string `key:"ca_file" as:"path"`
	// The events to send, such as [connection.reauthorization_required, connection.recovered]. Leave out
	// to send all.
	Events []credstore.EventType `key:"events"`
}

// Health is the listener for probes and metrics.
type Health struct {
	// The address of /livez, /readyz and /metrics, which require no authentication there: an address
	// such as :8487, or off.
	Listen Listen `key:"listen" as:"listen_or_off" default:"off"`
}

// Shutdown configures how the program stops.
type Shutdown struct {
	// How long requests in progress may take to complete on shutdown. Token refreshes always complete.
	Drain time.Duration `key:"drain" default:"20s"`
}

// Log configures the log, which goes to standard error.
type Log struct {
	// The lowest level that is logged: debug, info, warn or error.
	Level string `key:"level" oneof:"debug,info,warn,error" default:"info"`
	// The format of the log: json or console.
	Format string `key:"format" oneof:"json,console" default:"json"`
}

// The names of files and directories in the data directory.
const (
	StoreFileName      = "store.db"
	KeysetFileName     = "keyset.json"
	SpoolDirName       = "spool"
	AdminTokenFileName = "admin-token"
)

// InDataDir returns the path of name in the data directory.
func (c *Config) InDataDir(name string) string { return filepath.Join(c.DataDir, name) }

// EndpointsFixed reports whether the environment determines the URLs of the API
// and the authorization server.
func (c *Config) EndpointsFixed() bool { return c.Environment != "custom" }

// KeysetBesideStore reports whether the keyset is in the directory of the
// database, so that a copy of that directory can be decrypted.
func (c *Config) KeysetBesideStore() bool {
	return c.Store.Driver == DriverSQLite && filepath.Dir(c.Store.KeysetFile) == filepath.Dir(c.Store.Path)
}

// MistakeAt returns a mistake in the value of the key at path, with the place
// where the value was read. It is for mistakes that show only when a value is
// used, such as a file that cannot be read.
func (c *Config) MistakeAt(path string, problem error) Mistake {
	return c.places[path].mistake(path, problem.Error())
}

// ErrorAt returns the mistake of [Config.MistakeAt] as an error.
func (c *Config) ErrorAt(path string, problem error) *Error {
	return &Error{Mistakes: []Mistake{c.MistakeAt(path, problem)}}
}
