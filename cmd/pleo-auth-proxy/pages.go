package main

import (
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/connect"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// pageStore is the part of the store that package connect uses.
type pageStore struct {
	credstore.Connections
	credstore.Links
	credstore.History
}

// newPages returns the pages for customers; nil if there is no public URL.
func newPages(cfg *config.Config, in *setup.Inputs, store credstore.Store, manager *refresh.Manager, log *zap.Logger) (*connect.Pages, error) {
	if cfg.Connect.PublicURL == nil {
		return nil, nil //nolint:nilnil // nil means that there are none
	}
	c := connect.Config{
		Store: pageStore{store.Connections, store.Links, store.History}, Grants: manager,
		PublicURL: cfg.Connect.PublicURL, ReturnURLs: cfg.Connect.ReturnURLs,
		AuthURL: cfg.Upstream.AuthURL, Issuer: cfg.OAuth.Issuer, Scopes: cfg.OAuth.Scopes,
		PleoURL: pleo.AppURL(cfg.Environment), Environment: shownEnvironment(cfg),
		Branding: connect.Branding{Name: cfg.Connect.Branding.Name, Logo: in.Logo},
		Logger:   log.Named("connect"),
	}
	if in.Server != nil { // a nil pointer in the interface would not be nil
		c.Server = in.Server
	}
	return connect.New(c)
}

// shownEnvironment returns the name of the environment for customers; "" in
// production.
func shownEnvironment(cfg *config.Config) string {
	if cfg.Environment == "staging" {
		return "test"
	}
	return ""
}

// mayShowConnectLinks reports whether clients of the proxy may get connect links: if
// they authenticate, or are programs on this machine.
func mayShowConnectLinks(cfg *config.Config) bool {
	if cfg.Connect.PublicURL == nil {
		return false
	}
	if len(cfg.Proxy.Clients) > 0 {
		return true
	}
	local := cfg.Proxy.Listen.Local()
	for _, own := range cfg.Proxy.Listeners {
		local = local && own.Listen.Local()
	}
	return local
}
