package main

import (
	"errors"
	"net/http"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

func (p *program) configCommand() *cobra.Command {
	cmd := commandGroup(&cobra.Command{Use: "config", Short: "Checks the configuration"})
	cmd.AddCommand(&cobra.Command{
		Use:   "validate",
		Short: "Reports every mistake in the configuration",
		Long: `Reports every mistake in the configuration file and the environment; where there
is none, files named there that cannot be used. It does not touch the store or
the network.`,
		Args: args(),
		RunE: func(*cobra.Command, []string) error { return p.validate() },
	})
	return cmd
}

// validation is what --json prints.
type validation struct {
	Valid    bool             `json:"valid"`
	Mistakes []config.Mistake `json:"mistakes"`
}

func (p *program) validate() error {
	cfg, err := p.loadConfig()
	if err == nil {
		err = checkFiles(cfg)
	}
	if p.asJSON {
		v := validation{Valid: err == nil, Mistakes: []config.Mistake{}}
		var wrong *config.Error
		if errors.As(err, &wrong) {
			v.Mistakes = wrong.Mistakes
		}
		if err := p.printJSON(v); err != nil {
			return err
		}
	}
	if err == nil {
		p.notef("the configuration is valid%s", fromFile(cfg))
	}
	return err
}

func fromFile(cfg *config.Config) string {
	if cfg.File == "" {
		return "; there is no file"
	}
	return ": " + cfg.File
}

// checkFiles reports the files that the configuration names and that cannot be
// used.
func checkFiles(cfg *config.Config) error {
	var wrong config.Error
	for _, open := range []func() error{
		func() error { _, err := openSecrets(cfg); return err },
		func() error { _, err := openDSN(cfg); return err },
		func() error { _, err := clientsOf(cfg, zap.NewNop()); return err },
		func() error { _, err := openConfigConnections(cfg, zap.NewNop()); return err },
		func() error { _, err := openListenerTLS(cfg, zap.NewNop()); return err },
		func() error { _, err := openWebhooks(cfg, zap.NewNop()); return err },
		func() error { return checkAdminToken(cfg) },
		func() error { _, err := readLogo(cfg); return err },
		func() error { _, err := acmeRoots(cfg); return err },
		func() error { _, err := upstreamTransport(cfg); return err },
	} {
		var e *config.Error
		if errors.As(open(), &e) {
			wrong.Mistakes = append(wrong.Mistakes, e.Mistakes...)
		}
	}
	if len(wrong.Mistakes) > 0 {
		return &wrong
	}
	return nil
}

// secrets are the client secrets, ready to be read at each use.
type secrets struct{ current, previous *config.SecretReader }

// openSecrets reads the client secrets for the first time.
func openSecrets(cfg *config.Config) (secrets, error) {
	var (
		s     secrets
		wrong config.Error
		err   error
	)
	if s.current, err = cfg.OAuth.ClientSecret.Open(); err != nil {
		wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt("oauth.client_secret_file", err))
	}
	if s.previous, err = cfg.OAuth.PreviousClientSecret.Open(); err != nil {
		wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt("oauth.previous_client_secret_file", err))
	}
	if len(wrong.Mistakes) > 0 {
		return secrets{}, &wrong
	}
	return s, nil
}

// upstreamTransport returns the transport for Pleo's servers.
func upstreamTransport(cfg *config.Config) (*http.Transport, error) {
	roots, err := outbound.ReadRoots(cfg.Upstream.CAFile)
	if err != nil {
		return nil, cfg.ErrorAt("upstream.ca_file", err)
	}
	transport, err := outbound.NewTransport(outbound.Config{Roots: roots, ForwardProxy: cfg.Upstream.ProxyURL})
	if err != nil {
		return nil, cfg.ErrorAt("upstream.proxy_url", err)
	}
	return transport, nil
}
