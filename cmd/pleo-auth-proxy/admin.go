package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/api"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/dashboard"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// newAdmin returns the JSON API and the pages of the admin listener.
func newAdmin(cfg *config.Config, operator *manage.Operator, manager *refresh.Manager, registry prometheus.Gatherer, log *zap.Logger, ready func() error, ping func(context.Context) error) (*api.API, *dashboard.Dashboard, error) {
	var token func() credstore.Secret
	if !cfg.Admin.Listen.Off() {
		var err error
		if token, err = setup.OpenAdminToken(cfg, log); err != nil {
			return nil, nil, err
		}
	}
	a, err := api.New(api.Config{
		Operator: operator,
		Gatherer: registry,
		Ready:    ready,
		Checks: []api.Check{
			{Name: "store", Probe: ping},
			{Name: "authorization server", Probe: manager.CheckServer},
			{Name: "credentials", Probe: manager.CheckCredentials},
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
