package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webhook"
)

func newNotifier(cfg *config.Config, endpoints []webhook.Endpoint, v *openedStore, registry prometheus.Registerer, log *zap.Logger) *webhook.Dispatcher {
	return webhook.New(webhook.Config{
		Outbox:      v.store.Outbox,
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

// openWebhooks returns the receivers that the configuration names. Its error
// holds every file that cannot be used.
func openWebhooks(cfg *config.Config, log *zap.Logger) ([]webhook.Endpoint, error) {
	var (
		webhooks []webhook.Endpoint
		wrong    config.Error
	)
	for i, w := range cfg.Webhooks {
		key := fmt.Sprintf("webhooks[%d].secret_file", i)
		secrets, err := w.Secrets.OpenChecked(webhook.CheckSecrets)
		if err != nil {
			wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(key, err))
		}
		// Receivers are our user's own: upstream.proxy_url is not on the way.
		roots, err := outbound.ReadRoots(w.CAFile)
		if err != nil {
			wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(fmt.Sprintf("webhooks[%d].ca_file", i), err))
		}
		transport, err := outbound.NewTransport(outbound.Config{Roots: roots})
		if err != nil || len(wrong.Mistakes) > 0 {
			continue // the transport fails for a forward proxy only
		}
		webhooks = append(webhooks, webhook.Endpoint{URL: w.URL, Types: w.Events, Secrets: secretFile(key, secrets, log), Transport: transport})
	}
	if len(wrong.Mistakes) > 0 {
		return nil, &wrong
	}
	return webhooks, nil
}
