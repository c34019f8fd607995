package setup

import (
	"net/http"
	"net/url"
	"slices"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/connect"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// NewOperator returns the use cases on connections that need no server of Pleo.
func NewOperator(cfg *config.Config, store credstore.Store) *manage.Operator {
	o := &manage.Operator{Store: manage.StoreOf(store), ReturnURLs: cfg.Connect.ReturnURLs, InConfig: inConfig(cfg)}
	if cfg.Connect.PublicURL != nil {
		o.Links = NewLinkIssuer(cfg, store)
	}
	return o
}

// NewLinkIssuer returns what issues connect links.
func NewLinkIssuer(cfg *config.Config, store credstore.Store) *connect.LinkIssuer {
	return connect.NewLinkIssuer(connect.LinkIssuerConfig{
		Store:     manage.ConfigLinkStore{LinkStore: store.Links, Store: manage.StoreOf(store), InConfig: inConfig(cfg)},
		PublicURL: cfg.Connect.PublicURL, TTL: cfg.Connect.LinkTTL,
	})
}

// inConfig returns nil if the configuration has no keys of connections.
func inConfig(cfg *config.Config) func(name string) bool {
	if len(cfg.Connections) == 0 {
		return nil
	}
	return func(name string) bool {
		return slices.ContainsFunc(cfg.Connections, func(c config.Connection) bool { return c.Name == name })
	}
}

// OpenChecker returns a checker for a command other than serve.
func OpenChecker(cfg *config.Config, store credstore.Store, log *zap.Logger) (refresh.Checker, error) {
	transport, err := UpstreamTransport(cfg)
	if err != nil {
		return refresh.Checker{}, err
	}
	server, err := NewAuthorizationServer(cfg, transport, log)
	return NewChecker(store, NewAPI(cfg.Upstream.APIURL, transport), server), err
}

// NewChecker returns a checker; server is nil if only API keys are used.
func NewChecker(store credstore.Store, api *pleo.API, server *pleo.AuthorizationServer) refresh.Checker {
	c := refresh.Checker{Connections: store.Connections, Facts: store.Changes, API: api}
	if server != nil { // a nil pointer in the interface would not be nil
		c.Server = server
	}
	return c
}

// OpenAPI returns the API for a command other than serve.
func OpenAPI(cfg *config.Config) (*pleo.API, error) {
	transport, err := UpstreamTransport(cfg)
	if err != nil {
		return nil, err
	}
	return NewAPI(cfg.Upstream.APIURL, transport), nil
}

// NewOtherEnvironmentAPI returns the API of Pleo's other environment, which may know
// keys that this one does not; nil in a custom environment, which has no other.
func NewOtherEnvironmentAPI(cfg *config.Config, transport *http.Transport) refresh.API {
	other := map[string]string{"production": "staging", "staging": "production"}[cfg.Environment]
	endpoints, ok := pleo.EndpointsFor(other)
	if !ok {
		return nil
	}
	return NewAPI(endpoints.API, transport)
}

// NewAPI returns a client of the API at a URL.
func NewAPI(at *url.URL, transport *http.Transport) *pleo.API {
	return pleo.NewAPI(pleo.APIConfig{URL: at, Transport: transport})
}
