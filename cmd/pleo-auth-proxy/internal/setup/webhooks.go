package setup

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webhook"
)

// openWebhooks returns the webhooks in the configuration. Its error is a *config.Error
// with every file that cannot be used.
func openWebhooks(cfg *config.Config, log *zap.Logger) ([]webhook.Endpoint, error) {
	var (
		endpoints []webhook.Endpoint
		wrong     config.Error
	)
	for i, w := range cfg.Webhooks {
		key := fmt.Sprintf("webhooks[%d].secret_file", i)
		secrets, err := w.Secrets.OpenChecked(webhook.CheckSecrets)
		if err != nil {
			wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(key, err))
		}
		// The operator's own servers are not reached through upstream.proxy_url.
		roots, err := outbound.ReadRoots(w.CAFile)
		if err != nil {
			wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(fmt.Sprintf("webhooks[%d].ca_file", i), err))
		}
		transport, err := outbound.NewTransport(outbound.Config{Roots: roots})
		if err != nil || len(wrong.Mistakes) > 0 {
			continue // the transport only fails for a forward proxy
		}
		endpoints = append(endpoints, webhook.Endpoint{URL: w.URL, Types: w.Events, Secrets: secretFile(key, secrets, log), Transport: transport})
	}
	return endpoints, wrong.AsError()
}
