package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/autocert"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/listen"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/api"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/connect"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/dashboard"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webhook"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy"
)

// components are the parts of a server.
type components struct {
	manager        *refresh.Manager
	proxy          *proxy.Proxy
	pages          *connect.Pages // nil: there are none
	api            *api.API
	dashboard      *dashboard.Dashboard
	keysetRotation *rotation
	configKeys     *manage.ConfigKeys
	notifier       *webhook.Dispatcher
	tls            setup.ListenerTLS

	certificates *autocert.Certificates // of the pages; nil if they do not come by ACME
	plainPages   http.Handler           // of connect.http.listen; nil without pages
}

// newComponents creates the components. /readyz calls ready.
func newComponents(cfg *config.Config, in *setup.Inputs, v *setup.OpenedStore, log *zap.Logger, ready func() error) (*components, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	pleoAPI := setup.NewAPI(cfg.Upstream.APIURL, in.Transport)
	notifier := newNotifier(cfg, in.Webhooks, v, registry, log)
	manager, err := newManager(cfg, in, v, pleoAPI, notifier.Wake, registry, log)
	if err != nil {
		return nil, err
	}
	pages, err := newPages(cfg, in, v.Store.Store, manager, log)
	if err != nil {
		return nil, err
	}
	certificates, err := newCertificates(cfg, in.ACMERoots, log)
	if err != nil {
		return nil, err
	}
	p, err := newProxy(cfg, in.Proxy, manager, setup.NewLinkIssuer(cfg, v.Store.Store), registry)
	if err != nil {
		return nil, err
	}
	o := setup.NewOperator(cfg, v.Store.Store)
	o.API, o.Keys, o.Checker, o.Logger = pleoAPI, manager, setup.NewChecker(v.Store.Store, pleoAPI, in.Server), log.Named("admin")
	a, d, err := newAdmin(cfg, o, manager, registry, log.Named("admin"), ready, v.Store.Ping)
	if err != nil {
		return nil, err
	}
	configKeys := &manage.ConfigKeys{
		Store: v.Store.Connections, Facts: v.Store.Changes, Keys: manager, API: pleoAPI, Logger: log.Named("connections"),
	}
	for _, c := range in.Connections {
		configKeys.Add(c)
	}
	return &components{
		manager: manager, notifier: notifier, proxy: p, pages: pages, api: a, dashboard: d,
		configKeys:     configKeys,
		keysetRotation: newRotation(cfg, v, log.Named("keyset")),
		tls:            in.TLS, certificates: certificates, plainPages: newPlainPages(cfg, certificates),
	}, nil
}

func newManager(cfg *config.Config, in *setup.Inputs, v *setup.OpenedStore, api *pleo.API, wake func(), registry prometheus.Registerer, log *zap.Logger) (*refresh.Manager, error) {
	c := refresh.Config{
		Store:            refresh.StoreOf(notifyingStore(v.Store.Store, wake)),
		API:              api,
		OtherEnvironment: setup.NewOtherEnvironmentAPI(cfg, in.Transport),
		Owner:            processName(),
		Shared:           cfg.Store.Driver == config.DriverPostgres,
		BeforeExpiry:     cfg.OAuth.RefreshBeforeExpiry,
		Wait:             cfg.Proxy.CredentialWait,
		Logger:           log.Named("refresh"),
		Registerer:       registry,
	}
	if in.Server == nil {
		log.Info("oauth.client_id is not set: only API keys can be used")
		return refresh.New(c)
	}
	if err := checkSpoolKeys(cfg.Store.SpoolDir, v.Keyset); err != nil {
		return nil, err
	}
	records, err := spool.Open(cfg.Store.SpoolDir, v.Keyset)
	if err != nil {
		return nil, err
	}
	c.Server, c.Spool, c.HighWaterMark = in.Server, records, rollback.MarkIn(cfg.Store.SpoolDir)
	return refresh.New(c)
}

// newProxy returns the proxy of c, with what depends on the store.
func newProxy(cfg *config.Config, c proxy.Config, manager *refresh.Manager, links *connect.LinkIssuer, registry prometheus.Registerer) (*proxy.Proxy, error) {
	c.Credentials, c.SingleConnection, c.Registerer = manager, manager.Sole, registry
	if mayShowConnectLinks(cfg) {
		c.ConnectLink = connectLinkFunc(links)
	}
	return proxy.New(c)
}

// connectLinkFunc returns the function that gives clients the link by which a person
// can fix a connection. There is none for a connection whose key is in the
// configuration.
func connectLinkFunc(links *connect.LinkIssuer) func(ctx context.Context, id string, version int64) (string, error) {
	return func(ctx context.Context, id string, version int64) (string, error) {
		link, err := links.Link(ctx, id, version)
		var notPossible *manage.NotPossibleError
		if errors.As(err, &notPossible) {
			return "", nil
		}
		return link, err
	}
}

// processName names this run of the program in leases and intents. No other
// process has the name, nor this one after a restart.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text())
}

// attach sets what the listener serves.
func (c *components) attach(l *listen.Listener, log *zap.Logger) {
	errorLog, err := zap.NewStdLogAt(log.Named("http").With(zap.String("listener", l.Name)), zap.DebugLevel)
	if err != nil {
		errorLog = zap.NewStdLog(log) // only an unknown level fails
	}
	switch l.Role {
	case listen.Proxy:
		var handler http.Handler = c.proxy
		if l.Connection != "" {
			handler = c.proxy.ForConnection(l.Connection)
		}
		l.SetServer(proxy.NewServer(handler, tlsOf(l, c.tls.Proxy), errorLog), proxy.TrackConnections)
	case listen.Connect:
		tlsConfig := tlsOf(l, c.tls.Connect)
		if c.certificates != nil {
			tlsConfig = c.certificates.TLSConfig()
		}
		l.SetServer(connect.NewServer(c.pages, tlsConfig, errorLog), connect.LimitConnections)
	case listen.ConnectHTTP:
		l.SetServer(connect.NewServer(c.plainPages, nil, errorLog), connect.LimitConnections)
	case listen.Admin:
		l.SetServer(api.NewServer(c.api.Handler(c.dashboard.Handler()), tlsOf(l, c.tls.Admin), errorLog), nil)
	case listen.Health:
		l.SetServer(api.NewServer(c.api.HealthHandler(), nil, errorLog), nil)
	}
}

// tlsOf returns nil for a listener with plain HTTP.
func tlsOf(l *listen.Listener, files *setup.TLSFiles) *tls.Config {
	if l.TLS.Off() {
		return nil
	}
	return files.Config()
}
