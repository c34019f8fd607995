package main

import (
	"crypto/x509"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webhook"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy/upstream"
)

// inputs is everything that serve reads besides the configuration and the store:
// each file that the configuration names, read and checked once. `config validate`
// opens the same inputs, so it accepts what serve accepts.
type inputs struct {
	transport   *http.Transport           // for Pleo's servers
	server      *pleo.AuthorizationServer // nil if only API keys are used
	proxy       proxy.Config              // without what depends on the store
	connections []manage.ConfigConnection
	webhooks    []webhook.Endpoint
	tls         listenerTLS
	logo        []byte         // nil: none
	acmeRoots   *x509.CertPool // nil: the system's
}

// validInputs is openInputs for serve and for config validate, which must not accept
// what serve rejects after that.
func validInputs(cfg *config.Config, log *zap.Logger) (*inputs, error) {
	var wrong config.Error
	in, err := openInputs(cfg, log)
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

// openInputs reads the inputs. It creates nothing. Its error is a *config.Error with
// every mistake, or something that is not a mistake in the configuration.
func openInputs(cfg *config.Config, log *zap.Logger) (*inputs, error) {
	var (
		in    inputs
		wrong config.Error
	)
	for _, open := range []func() error{
		func() (err error) { in.transport, err = upstreamTransport(cfg); return err },
		func() (err error) { in.server, err = newAuthorizationServer(cfg, in.transport, log); return err },
		func() error { _, err := openDSN(cfg); return err },
		func() (err error) { in.proxy, err = proxyConfig(cfg, in.transport, log); return err },
		func() (err error) {
			in.connections, err = openConfigConnections(cfg, log.Named("connections"))
			return err
		},
		func() (err error) { in.tls, err = openListenerTLS(cfg, log.Named("tls")); return err },
		func() (err error) { in.webhooks, err = openWebhooks(cfg, log.Named("webhook")); return err },
		func() (err error) { in.logo, err = readLogo(cfg); return err },
		func() (err error) { in.acmeRoots, err = readACMERoots(cfg); return err },
		func() error { return checkAdminToken(cfg) },
		func() error { return checkSocketGroups(cfg) },
	} {
		if err := wrong.Add(open()); err != nil {
			return nil, err
		}
	}
	return &in, wrong.AsError()
}

// upstreamTransport returns the transport for Pleo's servers.
func upstreamTransport(cfg *config.Config) (*http.Transport, error) {
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

// newAuthorizationServer returns nil if only API keys are used.
func newAuthorizationServer(cfg *config.Config, transport *http.Transport, log *zap.Logger) (*pleo.AuthorizationServer, error) {
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
