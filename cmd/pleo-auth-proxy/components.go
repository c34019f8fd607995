package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/autocert"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
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

// components are what a server is assembled of, in the order in which each needs
// the one before.
type components struct {
	manager        *refresh.Manager
	proxy          *proxy.Proxy
	pages          *connect.Pages // nil: there are none
	api            *api.API
	dashboard      *dashboard.Dashboard
	keysetRotation *rotation
	configKeys     *manage.ConfigKeys
	notifier       *webhook.Dispatcher
	tls            listenerTLS

	certificates *autocert.Certificates // of the pages; nil where nothing gets any
	plainPages   http.Handler           // beside the pages; nil where there are none
}

// assemble makes the parts. ready is what /readyz asks.
func assemble(cfg *config.Config, in *inputs, v *openedStore, log *zap.Logger, ready func() error) (*components, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	pleoAPI := newAPI(cfg.Upstream.APIURL, in.transport)
	notifier := newNotifier(cfg, in.webhooks, v, registry, log)
	manager, err := newManager(cfg, in, v, pleoAPI, notifier.Wake, registry, log)
	if err != nil {
		return nil, err
	}
	pages, err := newPages(cfg, in, v.store.Store, manager, log)
	if err != nil {
		return nil, err
	}
	certificates, err := newCertificates(cfg, in.acmeRoots, log)
	if err != nil {
		return nil, err
	}
	p, err := newProxy(cfg, in.proxy, manager, newLinkIssuer(cfg, v.store.Store), registry)
	if err != nil {
		return nil, err
	}
	o := newOperator(cfg, v.store.Store)
	o.API, o.Keys, o.Checker, o.Logger = pleoAPI, manager, newChecker(v.store.Store, pleoAPI, in.server), log.Named("admin")
	a, d, err := newAdmin(cfg, o, manager, registry, log.Named("admin"), ready, v.store.Ping)
	if err != nil {
		return nil, err
	}
	configKeys := &manage.ConfigKeys{
		Store: v.store.Connections, Facts: v.store.Changes, Keys: manager, API: pleoAPI, Logger: log.Named("connections"),
	}
	for _, c := range in.connections {
		configKeys.Add(c)
	}
	return &components{
		manager: manager, notifier: notifier, proxy: p, pages: pages, api: a, dashboard: d,
		configKeys:     configKeys,
		keysetRotation: newRotation(cfg, v, log.Named("keyset")),
		tls:            in.tls, certificates: certificates, plainPages: newPlainPages(cfg, certificates),
	}, nil
}

func newManager(cfg *config.Config, in *inputs, v *openedStore, api *pleo.API, wake func(), registry prometheus.Registerer, log *zap.Logger) (*refresh.Manager, error) {
	c := refresh.Config{
		Store:            refresh.StoreOf(notifyingStore(v.store.Store, wake)),
		API:              api,
		OtherEnvironment: newOtherEnvironmentAPI(cfg, in.transport),
		Owner:            processName(),
		Shared:           cfg.Store.Driver == config.DriverPostgres,
		BeforeExpiry:     cfg.OAuth.RefreshBeforeExpiry,
		Wait:             cfg.Proxy.CredentialWait,
		Logger:           log.Named("refresh"),
		Registerer:       registry,
	}
	if in.server == nil {
		log.Info("oauth.client_id is not set: only API keys can be used")
		return refresh.New(c)
	}
	if err := checkSpoolKeys(cfg, v.keyset); err != nil {
		return nil, err
	}
	records, err := spool.Open(cfg.Store.SpoolDir, v.keyset)
	if err != nil {
		return nil, err
	}
	c.Server, c.Spool, c.HighWaterMark = in.server, records, rollback.MarkIn(cfg.Store.SpoolDir)
	return refresh.New(c)
}

// secretFile returns a function that gives the secret of r and logs when its
// file cannot be used, once for each reason until it can be.
func secretFile(key string, r *config.SecretReader, log *zap.Logger) func() credstore.Secret {
	var logged atomic.Pointer[string] // why the file could not be used the last time; nil: it could
	return func() credstore.Secret {
		secret, err := r.Secret(), r.Err()
		if err == nil {
			logged.Store(nil)
			return secret
		}
		why := err.Error()
		if before := logged.Swap(&why); before == nil || *before != why {
			log.Warn("a secret file cannot be used; going on with what it held before", zap.String("key", key), zap.Error(err))
		}
		return secret
	}
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
