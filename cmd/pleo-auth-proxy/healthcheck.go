package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/listen"
)

// healthcheckTimeout is shorter than the timeouts of the image's and the pod's
// health checks.
const healthcheckTimeout = 3 * time.Second

func newHealthcheckCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Check whether the running server is ready",
		Long: `Request /readyz from the running server, at health.listen or otherwise
admin.listen, and exit 0 if it is ready. For images without a shell and curl:

  HEALTHCHECK CMD ["/pleo-auth-proxy", "healthcheck"]`,
		Example: `  pleo-auth-proxy healthcheck`,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.loadConfig()
			if err != nil {
				return err
			}
			return healthcheck(cmd.Context(), p, cfg)
		},
	}
}

func healthcheck(ctx context.Context, p *program, cfg *config.Config) error {
	at, err := healthListen(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	response, err := listen.Request(ctx, at, http.MethodGet, "http://localhost/readyz")
	if err != nil {
		return fmt.Errorf("requesting the status of the server at %s: %w", at, err)
	}
	ready, text := response.Status == http.StatusOK, strings.TrimSpace(response.Body)
	if p.asJSON {
		if err := p.printJSON(map[string]any{"ready": ready, "response": text}); err != nil {
			return err
		}
	}
	if !ready {
		return errors.New(text)
	}
	p.notef("%s", text)
	return nil
}

// healthListen returns the address of the listener to send the request to.
func healthListen(cfg *config.Config) (config.Listen, error) {
	at := cfg.Health.Listen
	if at.Off() {
		at = cfg.Admin.Listen
	}
	var problem string
	switch {
	case at == cfg.Admin.Listen && at.Network == "tcp" && !cfg.Admin.TLS.Off():
		problem = "is required for a health check, because admin.listen uses TLS"
	case at.Off() || strings.HasSuffix(at.Address, ":0"):
		problem = "must have a fixed address for a health check, or admin.listen must"
	default:
		return at, nil
	}
	return at, &config.Error{Mistakes: []config.Mistake{{Key: "health.listen", Problem: problem}}}
}
