package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
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

// newPages returns the pages for customers, or nil where browsers have no way to
// them.
func newPages(cfg *config.Config, in *inputs, store credstore.Store, manager *refresh.Manager, log *zap.Logger) (*connect.Pages, error) {
	if cfg.Connect.PublicURL == nil {
		return nil, nil //nolint:nilnil // no pages, and that is no error
	}
	c := connect.Config{
		Store: pageStore{store.Connections, store.Links, store.History}, Grants: manager,
		PublicURL: cfg.Connect.PublicURL, ReturnURLs: cfg.Connect.ReturnURLs,
		AuthURL: cfg.Upstream.AuthURL, Issuer: cfg.OAuth.Issuer, Scopes: cfg.OAuth.Scopes,
		PleoURL: pleo.AppURL(cfg.Environment), Environment: shownEnvironment(cfg),
		Branding: connect.Branding{Name: cfg.Connect.Branding.Name, Logo: in.logo},
		Logger:   log.Named("connect"),
	}
	if in.server != nil { // else the interface would hold something
		c.Server = in.server
	}
	return connect.New(c)
}

// shownEnvironment is what customers are told of the environment: nothing, where
// it is the real one.
func shownEnvironment(cfg *config.Config) string {
	if cfg.Environment == "staging" {
		return "test"
	}
	return ""
}

const maxLogoSize = 512 << 10

// readLogo returns nil where there is none to show.
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
	defer func() { _ = f.Close() }() // dash was written to it
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return content, err
}

// mayShowConnectLinks reports whether clients of the proxy may be told connect links:
// where they are known, or programs of this machine.
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

// newOtherEnvironmentAPI returns the API of Pleo's other environment, which may know
// keys that this one does not; nil in a custom environment, which has no other.
func newOtherEnvironmentAPI(cfg *config.Config, transport *http.Transport) refresh.API {
	other := map[string]string{"production": "staging", "staging": "production"}[cfg.Environment]
	endpoints, ok := pleo.EndpointsFor(other)
	if !ok {
		return nil
	}
	return newAPI(endpoints.API, transport)
}

func newAPI(at *url.URL, transport *http.Transport) *pleo.API {
	return pleo.NewAPI(pleo.APIConfig{URL: at, Transport: transport})
}
