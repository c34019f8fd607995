package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/api"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/dashboard"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// newAdmin returns the JSON API and the pages of the admin listener.
func newAdmin(cfg *config.Config, act *actions, registry prometheus.Gatherer, log *zap.Logger, ready func() error, ping func(context.Context) error) (*api.API, *dashboard.Dashboard, error) {
	var token func() credstore.Secret
	if !cfg.Admin.Listen.Off() {
		var err error
		if token, err = openAdminToken(cfg, log); err != nil {
			return nil, nil, err
		}
	}
	operator := &manage.Operator{
		Store: manage.StoreOf(act.store), Actions: act, ConnectLinks: cfg.Connect.PublicURL != nil, ReturnURLs: cfg.Connect.ReturnURLs,
		Logger: log, Now: time.Now,
	}
	a, err := api.New(api.Config{
		Operator: operator,
		Gatherer: registry,
		Ready:    ready,
		Checks: []api.Check{
			{Name: "store", Probe: ping},
			{Name: "authorization server", Probe: act.manager.CheckServer},
			{Name: "credentials", Probe: act.manager.CheckCredentials},
		},
		AllowedHosts: cfg.Proxy.AllowedHosts,
		Token:        token,
		Exposed:      !cfg.Admin.Listen.Local(),
	})
	if err != nil {
		return nil, nil, err
	}
	d, err := dashboard.New(dashboard.Config{
		Operator:    operator,
		Gatherer:    registry,
		Health:      func(ctx context.Context) []dashboard.Check { return dashboardChecks(a.Health(ctx)) },
		Environment: cfg.Environment,
		Token:       token,
		TokenFile:   cfg.Admin.TokenFile,
		Exposed:     !cfg.Admin.Listen.Local(),
		Logger:      log,
	})
	return a, d, err
}

func dashboardChecks(results []api.CheckResult) []dashboard.Check {
	var checks []dashboard.Check
	for _, r := range results {
		c := dashboard.Check{Name: r.Name}
		if r.Err != nil {
			c.Error = r.Err.Error()
		}
		checks = append(checks, c)
	}
	return checks
}
