package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
)

// program is one run of pleo-auth-proxy with all that it touches of the system.
type program struct {
	stdin   io.Reader
	stdout  io.Writer // with --json: one JSON document; else results for people
	stderr  io.Writer // everything else that is said
	environ []string  // as os.Environ returns it
	root    bool      // runs as root

	configPath string // of --config
	asJSON     bool   // --json
}

// The exit codes. They are a promise to scripts.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2 // loggedError usage, configuration, keyset or schema
	exitNotFound = 3 // the thing named does not exist
)

// usageError is a command line that means nothing.
type usageError struct {
	command string // the path of the command that was run, for the hint
	err     error
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%v; see %s --help", e.err, e.command)
}

func (e *usageError) Unwrap() error { return e.err }

// Run runs the command that args name and returns the exit code. Ending ctx
// stops it in the same way as a signal does.
func (p *program) Run(ctx context.Context, args []string) int {
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	err := root.ExecuteContext(credstore.WithActor(ctx, credstore.ActorCommandLine))
	if err != nil {
		p.notef("error: %v", err)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var (
		usage *usageError
		wrong *config.Error
		setup *credstore.SetupError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage), errors.As(err, &wrong), errors.As(err, &setup):
		return exitUsage
	case errors.Is(err, credstore.ErrNotFound), errors.Is(err, keyset.ErrKeyNotFound):
		return exitNotFound
	}
	return exitFailed
}

func (p *program) rootCommand() *cobra.Command {
	root := commandGroup(&cobra.Command{
		Use:   "pleo-auth-proxy",
		Short: "Puts fresh credentials on plain HTTP requests to the Pleo API",
		Long: `pleo-auth-proxy puts the fresh credential of a connection on plain HTTP requests
and forwards them to the Pleo API.

Exit codes: 0 done; 1 failed; 2 wrong usage, configuration, keyset or schema;
3 the thing named does not exist.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{command: cmd.CommandPath(), err: err}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&p.configPath, "config", "", "the configuration `FILE`; by default $PLEO_CONFIG, ./pleo-auth-proxy.yaml or /etc/pleo-auth-proxy/config.yaml")
	flags.BoolVar(&p.asJSON, "json", false, "print one JSON document on standard output")
	root.AddCommand(p.serveCommand(), p.connectionsCommand(), p.connectCommand(), p.keysetCommand(), p.storeCommand(), p.configCommand(), p.doctorCommand(), p.healthcheckCommand(), p.versionCommand())
	return root
}

// commandGroup makes cmd one that only holds other commands.
func commandGroup(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return &usageError{command: cmd.CommandPath(), err: errors.New("a command is missing")}
		}
		err := fmt.Errorf("there is no command %q", args[0])
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
		}
		return &usageError{command: cmd.CommandPath(), err: err}
	}
	return cmd
}

// args makes wrong numbers of arguments usage errors. Arguments are not shown:
// somebody may have put a secret there.
func args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if len(given) == len(names) {
			return nil
		}
		wants := "no argument"
		if len(names) > 0 {
			wants = strings.Join(names, " and ")
		}
		return &usageError{command: cmd.CommandPath(), err: fmt.Errorf("it takes %s, not %d arguments", wants, len(given))}
	}
}

// optionalArg is args for commands that take one argument or none.
func optionalArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if len(given) <= 1 {
			return nil
		}
		return &usageError{command: cmd.CommandPath(), err: fmt.Errorf("it takes %s or nothing, not %d arguments", name, len(given))}
	}
}

// loadConfig reads the configuration that the flags and the environment name.
func (p *program) loadConfig() (*config.Config, error) {
	return config.Load(config.Source{Path: p.configPath, Environ: p.environ, Root: p.root})
}
