package setup

import (
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/listen"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/connect"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webhook"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy/upstream"
)

// Inputs is everything that serve reads besides the configuration and the store:
// each file that the configuration names, read and checked once. `config validate`
// opens the same inputs, so it accepts what serve accepts.
type Inputs struct {
	Transport   *http.Transport           // for Pleo's servers
	Server      *pleo.AuthorizationServer // nil if only API keys are used
	Proxy       proxy.Config              // without what depends on the store
	Connections []manage.ConfigConnection
	Webhooks    []webhook.Endpoint
	TLS         ListenerTLS
	Logo        []byte         // nil: none
	ACMERoots   *x509.CertPool // nil: the system's
}

// ValidInputs is OpenInputs for serve and for config validate, which must not accept
// what serve rejects after that.
func ValidInputs(cfg *config.Config, log *zap.Logger) (*Inputs, error) {
	var wrong config.Error
	in, err := OpenInputs(cfg, log)
	if err := wrong.Add(err); err != nil {
		return nil, err
	}
	for _, check := range []func(*config.Config) error{checkDataDir, checkCreatable} {
		if err := wrong.Add(check(cfg)); err != nil {
			return nil, err
		}
	}
	return in, wrong.AsError()
}

// OpenInputs reads the inputs. It creates nothing. Its error is a *config.Error with
// every mistake, or something that is not a mistake in the configuration.
func OpenInputs(cfg *config.Config, log *zap.Logger) (*Inputs, error) {
	var (
		in    Inputs
		wrong config.Error
	)
	for _, open := range []func() error{
		func() (err error) { in.Transport, err = UpstreamTransport(cfg); return err },
		func() (err error) { in.Server, err = NewAuthorizationServer(cfg, in.Transport, log); return err },
		func() error { _, err := openDSN(cfg); return err },
		func() (err error) { in.Proxy, err = proxyConfig(cfg, in.Transport, log); return err },
		func() (err error) {
			in.Connections, err = openConfigConnections(cfg, log.Named("connections"))
			return err
		},
		func() (err error) { in.TLS, err = openListenerTLS(cfg, log.Named("tls")); return err },
		func() (err error) { in.Webhooks, err = openWebhooks(cfg, log.Named("webhook")); return err },
		func() (err error) { in.Logo, err = readLogo(cfg); return err },
		func() (err error) { in.ACMERoots, err = readACMERoots(cfg); return err },
		func() error { return checkAdminToken(cfg) },
		func() error { return listen.CheckSocketGroups(cfg) },
	} {
		if err := wrong.Add(open()); err != nil {
			return nil, err
		}
	}
	return &in, wrong.AsError()
}

// UpstreamTransport returns the transport for Pleo's servers.
func UpstreamTransport(cfg *config.Config) (*http.Transport, error) {
	roots, err := outbound.ReadRoots(cfg.Upstream.CAFile)
	if err != nil {
		return nil, cfg.ErrorAt("upstream.ca_file", err)
	}
	transport, err := outbound.NewTransport(outbound.Config{Roots: roots, ForwardProxy: cfg.Upstream.ProxyURL})
	if err != nil {
		return nil, cfg.ErrorAt("upstream.proxy_url", err)
	}
	return transport, nil
}

// NewAuthorizationServer returns nil if only API keys are used.
func NewAuthorizationServer(cfg *config.Config, transport *http.Transport, log *zap.Logger) (*pleo.AuthorizationServer, error) {
	if cfg.OAuth.ClientID == "" || transport == nil { // without a transport there is an error already
		return nil, nil //nolint:nilnil // nil means that there is none
	}
	var wrong config.Error
	current, err := openSecret(cfg, "oauth.client_secret", cfg.OAuth.ClientSecret, log)
	_ = wrong.Add(err) // all are mistakes
	previous, err := openSecret(cfg, "oauth.previous_client_secret", cfg.OAuth.PreviousClientSecret, log)
	_ = wrong.Add(err)
	if len(wrong.Mistakes) > 0 {
		return nil, &wrong
	}
	server, err := pleo.NewAuthorizationServer(pleo.ServerConfig{
		URL:                  cfg.Upstream.AuthURL,
		ClientID:             cfg.OAuth.ClientID,
		ClientSecret:         current,
		PreviousClientSecret: previous,
		Auth:                 cfg.OAuth.ClientAuth,
		Transport:            transport,
		Logger:               log.Named("pleo"),
	})
	if err != nil {
		return nil, cfg.ErrorAt("oauth", err)
	}
	return server, nil
}

// openSecret reads the secret at key for the first time, and returns a function
// that follows its file. The error is a *config.Error.
func openSecret(cfg *config.Config, key string, source config.SecretSource, log *zap.Logger) (func() credstore.Secret, error) {
	key = source.Key(key)
	r, err := source.Open()
	if err != nil {
		return nil, cfg.ErrorAt(key, err)
	}
	return secretFile(key, r, log), nil
}

// proxyConfig returns the configuration of the proxy, without what depends on the
// store.
func proxyConfig(cfg *config.Config, transport *http.Transport, log *zap.Logger) (proxy.Config, error) {
	clients, err := openClients(cfg, log)
	if err != nil {
		return proxy.Config{}, err
	}
	c := proxy.Config{
		ConnectionHeaders:       append([]string{cfg.Proxy.ConnectionHeader}, cfg.Proxy.ConnectionHeaderAliases...),
		DefaultConnection:       cfg.Proxy.DefaultConnection,
		DefaultConnectionShared: cfg.Proxy.DefaultConnectionShared,
		AllowedHosts:            cfg.Proxy.AllowedHosts,
		Replay:                  proxy.ReplayConfig(cfg.Replay),
		Clients:                 clients,
		ClientNetworks:          cfg.Proxy.ClientNetworks,
		Logger:                  log.Named("proxy"),
	}
	if cfg.Proxy.AccessLog {
		c.AccessLog = log.Named("access")
	}
	if err := c.Check(); err != nil {
		return c, cfg.ErrorAt("proxy", err)
	}
	if transport == nil { // there is an error already
		return c, nil
	}
	c.Upstream, err = upstream.New(upstream.Config{
		URL:             cfg.Upstream.APIURL,
		RootCAs:         transport.TLSClientConfig.RootCAs,
		ProxyURL:        cfg.Upstream.ProxyURL,
		ResponseTimeout: cfg.Upstream.Timeout,
	})
	if err != nil {
		return c, cfg.ErrorAt("upstream", err)
	}
	return c, nil
}

// openConfigConnections reads the keys of the connections in the configuration. Its
// error is a *config.Error with every one that cannot be used.
func openConfigConnections(cfg *config.Config, log *zap.Logger) ([]manage.ConfigConnection, error) {
	var (
		connections []manage.ConfigConnection
		wrong       config.Error
	)
	for i, c := range cfg.Connections {
		key := c.APIKey.Key(fmt.Sprintf("connections[%d].api_key", i))
		reader, err := c.APIKey.Open()
		if err == nil && !reader.Secret().Sendable() {
			err = manage.ErrNotSendable
		}
		if err != nil {
			wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(key, err))
			continue
		}
		connections = append(connections, manage.ConfigConnection{
			Name: c.Name, Kind: c.Kind, ExternalTenant: c.ExternalTenant, Key: secretFile(key, reader, log),
		})
	}
	return connections, wrong.AsError()
}

// readACMERoots returns the CA certificates for requests to the certificate
// authority; nil stands for the system's.
func readACMERoots(cfg *config.Config) (*x509.CertPool, error) {
	roots, err := outbound.ReadRoots(cfg.Connect.ACME.CARootFile)
	if err != nil {
		return nil, cfg.ErrorAt("connect.tls.acme.ca_root_file", err)
	}
	return roots, nil
}

const maxLogoSize = 512 << 10

// readLogo returns nil if there is none.
func readLogo(cfg *config.Config) ([]byte, error) {
	path := cfg.Connect.Branding.LogoFile
	if path == "" {
		return nil, nil
	}
	logo, err := readLimited(path, maxLogoSize)
	if err == nil {
		err = connect.CheckLogo(logo)
	}
	if err != nil {
		return nil, cfg.ErrorAt("connect.branding.logo_file", err)
	}
	return logo, nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return content, err
}

// secretFile returns a function that returns the secret of r. It logs each new reason
// why the file cannot be used.
func secretFile(key string, r *config.SecretReader, log *zap.Logger) func() credstore.Secret {
	var logged atomic.Pointer[string] // the last error; nil: none
	return func() credstore.Secret {
		secret, err := r.Secret(), r.Err()
		if err == nil {
			logged.Store(nil)
			return secret
		}
		why := err.Error()
		if before := logged.Swap(&why); before == nil || *before != why {
			log.Warn("cannot read a secret file; using its previous content", zap.String("key", key), zap.Error(err))
		}
		return secret
	}
}

// IgnoredProxyVariables returns the variables of environ from which other programs
// take a forward proxy.
func IgnoredProxyVariables(environ []string) []string {
	var ignored []string
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		switch strings.ToUpper(name) {
		case "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY":
			if value != "" {
				ignored = append(ignored, name)
			}
		}
	}
	return ignored
}
