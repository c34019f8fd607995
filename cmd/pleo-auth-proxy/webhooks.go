package main

import (
	"context"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webhook"
)

func newNotifier(cfg *config.Config, endpoints []webhook.Endpoint, v *setup.OpenedStore, registry prometheus.Registerer, log *zap.Logger) *webhook.Dispatcher {
	return webhook.New(webhook.Config{
		Outbox:      v.Store.Outbox,
		Endpoints:   endpoints,
		Describe:    func(c credstore.Connection) any { return manage.Describe(c) },
		Owner:       processName(),
		EventDriven: cfg.Store.Driver == config.DriverPostgres,
		Logger:      log.Named("webhook"),
		Registerer:  registry,
	})
}

// notifyingStore returns a store that calls wake when a change with pending
// deliveries is reported.
func notifyingStore(s credstore.Store, wake func()) credstore.Store {
	s.Changes = notifyingChanges{s.Changes, wake}
	return s
}

type notifyingChanges struct {
	credstore.Changes
	wake func()
}

func (s notifyingChanges) Watch(ctx context.Context, changed func([]credstore.Change)) error {
	return s.Changes.Watch(ctx, func(found []credstore.Change) {
		if slices.ContainsFunc(found, func(c credstore.Change) bool { return c.DeliveriesPending }) {
			s.wake()
		}
		changed(found)
	})
}
