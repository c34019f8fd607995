package main

import (
	"errors"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
)

func (p *program) configCommand() *cobra.Command {
	cmd := commandGroup(&cobra.Command{Use: "config", Short: "Check the configuration"})
	cmd.AddCommand(&cobra.Command{
		Use:   "validate",
		Short: "Report every mistake in the configuration",
		Long: `Report every mistake in the configuration file and the environment, and in the
files that they name. What config validate accepts, serve accepts. It creates
nothing, and uses neither the store nor the network.`,
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
		_, err = validInputs(cfg, zap.NewNop())
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
