package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// program is one run of pleo-auth-proxy: what it uses of the system, and the flags
// that every command has. Commands are functions that take it.
type program struct {
	stdin   io.Reader
	stdout  io.Writer // with --json: one JSON document; else results for people
	stderr  io.Writer // messages and logs
	environ []string  // as os.Environ returns it
	root    bool      // runs as root

	configPath string // --config
	asJSON     bool   // --json
}

// The exit codes. Scripts depend on them.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2 // wrong usage, configuration, keyset or schema
	exitNotFound = 3 // the named thing does not exist
)

// usageError is a command line that is not valid.
type usageError struct {
	command string // path of the command, for the hint
	err     error
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%v; see %s --help", e.err, e.command)
}

func (e *usageError) Unwrap() error { return e.err }

// Run runs the command that args name and returns the exit code. A command that
// ctx interrupts ends as after a signal.
func (p *program) Run(ctx context.Context, args []string) int {
	root := newRootCommand(p)
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
		usage    *usageError
		mistakes *config.Error
		setup    *credstore.SetupError
		invalid  *manage.InvalidError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage), errors.As(err, &mistakes), errors.As(err, &setup), errors.As(err, &invalid),
		errors.Is(err, manage.ErrReturnURL), errors.Is(err, manage.ErrNoLinks), errors.Is(err, credstore.ErrBadQuery):
		return exitUsage
	case errors.Is(err, credstore.ErrNotFound), errors.Is(err, keyset.ErrKeyNotFound):
		return exitNotFound
	}
	return exitFailed
}

// loadConfig reads the configuration that the flags and the environment name.
func (p *program) loadConfig() (*config.Config, error) {
	return config.Load(config.Source{Path: p.configPath, Environ: p.environ, Root: p.root})
}

// logger returns a logger for commands other than serve: it writes what is worth a
// warning.
func (p *program) logger() *zap.Logger {
	return newLogger(p.stderr, config.Log{Level: "warn", Format: "console"})
}

// openInput opens a file, or standard input for "-".
func (p *program) openInput(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(p.stdin), nil
	}
	return os.Open(path)
}

// The groups of commands in the help of the program.
const (
	groupUse     = "use"
	groupOperate = "operate"
)

func newRootCommand(p *program) *cobra.Command {
	root := newCommandGroup(&cobra.Command{
		Use:   "pleo-auth-proxy",
		Short: "Authenticate plain HTTP requests to the Pleo API",
		Long: `pleo-auth-proxy authenticates plain HTTP requests to the Pleo API. Your program
names a connection in a header; the proxy adds the connection's credential, keeps
it fresh, and forwards the request to Pleo over TLS.

Exit codes: 0 done; 1 failed; 2 wrong usage, configuration, keyset or schema;
3 the named thing does not exist.`,
		Example: `  pleo-auth-proxy connections add acme --kind standalone_key --key-file acme.key
  pleo-auth-proxy serve
  curl -H 'Pleo-Connection: acme' 'http://127.0.0.1:8484/v2/employees?limit=2'`,
		Version:       readBuild().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{command: cmd.CommandPath(), err: err}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&p.configPath, "config", "", "read the configuration from `FILE` (default $PLEO_CONFIG, ./pleo-auth-proxy.yaml or /etc/pleo-auth-proxy/config.yaml)")
	flags.BoolVar(&p.asJSON, "json", false, "print one JSON document on standard output")
	flags.BoolP("help", "h", false, "show help")
	root.Flags().BoolP("version", "v", false, "print the version")
	root.AddGroup(&cobra.Group{ID: groupUse, Title: "Commands:"}, &cobra.Group{ID: groupOperate, Title: "Commands for operation:"})
	root.SetHelpCommandGroupID(groupOperate)
	root.SetCompletionCommandGroupID(groupOperate)
	for id, commands := range map[string][]*cobra.Command{
		groupUse:     {newServeCommand(p), newConnectionsCommand(p), newConnectCommand(p), newDoctorCommand(p)},
		groupOperate: {newConfigCommand(p), newKeysetCommand(p), newStoreCommand(p), newHealthcheckCommand(p), newVersionCommand(p)},
	} {
		for _, cmd := range commands {
			cmd.GroupID = id
			root.AddCommand(cmd)
		}
	}
	return root
}

// newCommandGroup makes cmd a command that only has subcommands. Alone, it prints
// its help.
func newCommandGroup(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		err := fmt.Errorf("there is no command %q", args[0])
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
		}
		return &usageError{command: cmd.CommandPath(), err: err}
	}
	return cmd
}

// exactArgs makes another number of arguments than the named ones a usage error,
// which does not show them: one may be a secret.
func exactArgs(names ...string) cobra.PositionalArgs {
	return argsBetween(len(names), len(names), strings.Join(names, " and "))
}

// optionalArg is exactArgs for commands that take one argument or none.
func optionalArg(name string) cobra.PositionalArgs {
	return argsBetween(0, 1, name+" or no argument")
}

func argsBetween(least, most int, expected string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if least <= len(given) && len(given) <= most {
			return nil
		}
		err := fmt.Errorf("expected %s, got %s", cmp.Or(expected, "no arguments"), plural(len(given), "argument"))
		if len(given) < least {
			err = fmt.Errorf("%s is missing", expected)
		}
		return &usageError{command: cmd.CommandPath(), err: err}
	}
}
