// Package config reads the configuration of pleo-auth-proxy: a YAML file, the
// environment over it, and defaults under both, with every mistake reported at
// once.
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
	// File is the path of the file that was read; empty when there was none.
	File string

	Environment string // production, staging or custom
	DataDir     string // where everything is kept that has no path of its own
	// DataDirConfigured says that the configuration names DataDir, so that it may be
	// a mistake if its parent is not there.
	DataDirConfigured bool

	Upstream Upstream
	Proxy    Proxy
	Replay   Replay
	OAuth    OAuth
	// Connections are those that the configuration declares.
	Connections []Connection

	Connect  Connect
	Store    Store
	Admin    Admin
	Health   Health
	Webhooks []Webhook
	Shutdown Shutdown
	Log      Log

	places map[string]place // path → where its value stands
}

// MistakeAt is what is wrong with the value of the key at path, with the place
// where it stands. For what is seen only when the value is used, such as a file
// that cannot be read.
func (c *Config) MistakeAt(path string, problem error) Mistake {
	p := c.places[path]
	return Mistake{File: p.file, Line: p.line, Variable: p.variable, Key: path, Problem: problem.Error()}
}

// ErrorAt returns that mistake alone.
func (c *Config) ErrorAt(path string, problem error) *Error {
	return &Error{Mistakes: []Mistake{c.MistakeAt(path, problem)}}
}

// Upstream is the Pleo API, and how it and the authorization server are reached.
type Upstream struct {
	APIURL   *url.URL
	AuthURL  *url.URL
	CAFile   string        // certificates trusted in place of the system's; empty: the system's
	ProxyURL *url.URL      // nil: connect directly. It may hold a password: never log it
	Timeout  time.Duration // until the head of an answer has come
}

// Proxy is the listeners for clients, who may use them, and how they name a
// connection.
type Proxy struct {
	Listen                  Listen
	Listeners               []Listener
	Clients                 []Client       // nil or empty: whoever reaches the proxy
	ClientNetworks          []netip.Prefix // nil or empty: all
	TLS                     TLS
	ConnectionHeader        string
	ConnectionHeaderAliases []string
	DefaultConnection       string // empty: none
	DefaultConnectionShared bool
	AllowedHosts            []string
	DangerouslyAllowAnyone  bool
	CredentialWait          time.Duration
	AccessLog               bool
}

// Listener is a listener that is tied to one connection.
type Listener struct {
	Listen     Listen
	Connection string
}

// TokenHash is the SHA-256 of a client's token.
type TokenHash [sha256.Size]byte

// Client is a program that may use the proxy. It has either a TokenHash or a
// Token.
type Client struct {
	Name        string
	TokenHash   TokenHash
	Token       SecretSource
	Connections []string // patterns; nil: all connections
	Allow       []Rule   // nil: everything
}

// Rule allows requests by method and path.
type Rule struct {
	Methods []string // nil: all
	Paths   []string // patterns; nil: all
}

// TLS names the files that a listener takes its certificate from. Its zero value
// is plain HTTP.
type TLS struct {
	CertFile     string
	KeyFile      string
	ClientCAFile string // empty: no client certificates
}

// Off reports whether there is no TLS.
func (t TLS) Off() bool { return t.CertFile == "" }

// Replay limits what is kept of request bodies, in bytes, to send them again
// after a 401.
type Replay struct {
	Memory      int64  // of one request in memory
	MemoryTotal int64  // of all requests together in memory
	MaxBody     int64  // of one request in memory or a file
	FilesTotal  int64  // of all requests together in files
	Dir         string // of the files; empty: the system's
}

// OAuth is our client at the authorization server.
type OAuth struct {
	ClientID             string // empty: only API keys are used
	ClientSecret         SecretSource
	PreviousClientSecret SecretSource
	ClientAuth           pleo.ClientAuth
	RefreshBeforeExpiry  time.Duration
	Scopes               []string // nil: what the client is registered for
	Issuer               string   // empty: Upstream.AuthURL
}

// Connect is the pages for customers.
type Connect struct {
	Listen     Listen
	PublicURL  *url.URL // nil: there are no pages
	LinkTTL    time.Duration
	ReturnURLs []string
	Branding   Branding
	TLS        TLS
	ACME       ACME
	HTTP       Listen // plain HTTP that leads to PublicURL and answers challenges; off: there is none
}

// ACME says which certificates to get from whom.
type ACME struct {
	Domains    []string // nil or empty: none
	Email      string   // of the account; empty: none
	CAURL      *url.URL // of the authority's directory
	CARootFile string   // whom the authority's own certificate must come from; empty: the system's
}

// Off reports whether no certificates are got.
func (a ACME) Off() bool { return len(a.Domains) == 0 }

// Branding is how the pages name whoever asks for access.
type Branding struct {
	Name     string // empty: they do not
	LogoFile string // empty: no logo
}

// Connection is a connection whose API key is kept in the configuration.
type Connection struct {
	Name           string
	Kind           credstore.Kind // one of an API key
	APIKey         SecretSource
	ExternalTenant string
}

// What Store.Driver may be.
const (
	DriverSQLite   = "sqlite"
	DriverPostgres = "postgres"
	DriverMemory   = "memory" // nothing is kept
)

// Store says where connections and credentials are kept.
type Store struct {
	Driver     string
	Path       string       // of SQLite's database
	DSN        SecretSource // of PostgreSQL's
	KeysetFile string
	SpoolDir   string
}

// Admin is the listener for operators and the back office.
type Admin struct {
	Listen Listen
	TLS    TLS
	// TokenFile holds the token that every change takes, and reading too where
	// others can reach Listen. Empty: there is none, and nothing can be changed.
	TokenFile string
}

// Token is where the admin token comes from.
func (a Admin) Token() SecretSource { return SecretSource{path: a.TokenFile} }

// Health is the listener for probes and metrics.
type Health struct{ Listen Listen }

// Webhook is a receiver of events.
type Webhook struct {
	URL     *url.URL // may hold a secret: never log it
	Secrets SecretSource
	CAFile  string                // certificates trusted in place of the system's; empty: the system's
	Events  []credstore.EventType // nil or empty: all
}

// Shutdown says how the program ends.
type Shutdown struct {
	Drain time.Duration // how long requests under way may take to finish
}

// Log says what is logged and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // json or console
}

// The names of what is kept in the data directory unless it has another path.
const (
	StoreFileName      = "store.db"
	KeysetFileName     = "keyset.json"
	SpoolDirName       = "spool"
	AdminTokenFileName = "admin-token"
)

// InDataDir returns the path of name in the data directory.
func (c *Config) InDataDir(name string) string { return filepath.Join(c.DataDir, name) }

// EndpointsFixed reports whether the environment decides the URLs of the API
// and the authorization server.
func (c *Config) EndpointsFixed() bool { return c.Environment != customEnvironment }

// KeysetBesideStore reports whether a copy of the store's directory holds the
// keyset too, so that sealing protects a copied database file only.
func (c *Config) KeysetBesideStore() bool {
	return c.Store.Driver == DriverSQLite && filepath.Dir(c.Store.KeysetFile) == filepath.Dir(c.Store.Path)
}
