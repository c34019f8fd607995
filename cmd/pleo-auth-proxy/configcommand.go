package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
)

func newConfigCommand(p *program) *cobra.Command {
	cmd := newCommandGroup(&cobra.Command{
		Use:     "config",
		Short:   "Validate the configuration",
		Example: `  pleo-auth-proxy config validate`,
	})
	cmd.AddCommand(&cobra.Command{
		Use:   "validate",
		Short: "Report every mistake in the configuration",
		Long: `Report every mistake in the configuration file and the environment, and in the
files that they name. What config validate accepts, serve accepts. It creates
nothing, and uses neither the store nor the network.`,
		Example: `  pleo-auth-proxy config validate
  pleo-auth-proxy config validate --config staging.yaml`,
		Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error { return validateConfig(p) },
	})
	return cmd
}

// validation is what config validate prints with --json.
type validation struct {
	Valid    bool             `json:"valid"`
	Mistakes []config.Mistake `json:"mistakes"`

	// UnknownVariables are the environment variables of which there is a warning.
	UnknownVariables []string `json:"unknown_variables"`
}

func validateConfig(p *program) error {
	cfg, err := p.loadConfig()
	if err == nil {
		_, err = setup.ValidInputs(cfg, zap.NewNop())
	}
	if p.asJSON {
		v := validation{Valid: err == nil, Mistakes: []config.Mistake{}, UnknownVariables: []string{}}
		if err == nil {
			v.UnknownVariables = append(v.UnknownVariables, cfg.UnknownVariables...)
		}
		var mistakes *config.Error
		if errors.As(err, &mistakes) {
			v.Mistakes = mistakes.Mistakes
		}
		if err := p.printJSON(v); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if len(cfg.UnknownVariables) > 0 {
		names := strings.Join(cfg.UnknownVariables, ", ")
		p.notef("warning: %s: %s", config.UnknownVariablesNotice, terminalText(&names))
	}
	if cfg.File == "" {
		p.notef("the configuration is valid; there is no file")
		return nil
	}
	p.notef("the configuration is valid: %s", cfg.File)
	return nil
}
