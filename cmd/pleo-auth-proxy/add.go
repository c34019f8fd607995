package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// addFlags are the flags of connections add.
type addFlags struct {
	kind        string
	tenant      string
	keyFile     string
	expires     string
	allowShared bool
	offline     bool
}

func newAddCommand(p *program) *cobra.Command {
	var f addFlags
	cmd := &cobra.Command{
		Use:   "add NAME --kind KIND",
		Short: "Add a connection",
		Long: `Add a connection. With an API key it is ready for requests; without one, and for
kind oauth, it stays pending until the customer gives consent or enters a key.

Pleo is asked which company the key belongs to. A key that Pleo does not accept is
stored as well, with a warning.`,
		Example: `  pleo-auth-proxy connections add acme --kind standalone_key --key-file acme.key
  pass show pleo/acme | pleo-auth-proxy connections add acme --kind integrated_key --key-file -
  pleo-auth-proxy connections add acme --kind oauth --external-tenant 4711`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := newConnection(p, args[0], f)
			if err != nil {
				return &usageError{command: cmd.CommandPath(), err: err}
			}
			return withNewConnections(cmd.Context(), p, f.offline, func(o *manage.Operator) error {
				c, warning, err := o.Add(cmd.Context(), n, f.offline)
				if err != nil {
					return err
				}
				p.notef("added connection %q: %s", c.Name, c.Status)
				if warning != "" {
					p.notef("warning: %s", warning)
				}
				return printChanged(p, c)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.kind, "kind", "", "`KIND` of credential: oauth, integrated_key or standalone_key (required)")
	flags.StringVar(&f.tenant, "external-tenant", "", "the customer's `ID` in the external system")
	flags.StringVar(&f.keyFile, "key-file", "", "read the API key from `FILE`; - for standard input")
	flags.StringVar(&f.expires, "expires", "", expiresUsage)
	flags.BoolVar(&f.allowShared, "allow-shared-company", false, allowSharedUsage)
	flags.BoolVar(&f.offline, "offline", false, "do not ask Pleo for the company")
	return cmd
}

// The descriptions of flags that several commands have.
const (
	allowSharedUsage = "allow a company that another connection of the same kind already has"
	allowOtherUsage  = "allow the connection to move to another Pleo company"
	expiresUsage     = "`DATE` on which the key expires, such as 2031-01-31 or 2031-01-31T15:04:05Z; you get a reminder before"
)

// newConnection returns what the flags describe. Its errors are wrong usage.
func newConnection(p *program, name string, f addFlags) (n credstore.NewConnection, err error) {
	if f.kind == "" {
		return n, errors.New("--kind is missing: oauth, integrated_key or standalone_key")
	}
	n = credstore.NewConnection{Name: name, Kind: credstore.Kind(f.kind), ExternalTenant: f.tenant, SharedCompany: f.allowShared}
	expires, err := parseExpiry(f.expires)
	switch {
	case err != nil:
		return n, err
	case f.keyFile == "" && f.expires != "":
		return n, errors.New("--expires needs --key-file")
	case f.keyFile != "" && n.Kind == credstore.OAuth:
		return n, errors.New("--key-file is for connections with an API key; one of kind oauth starts pending, or is imported")
	case f.keyFile != "":
		key, err := readKey(p, f.keyFile)
		if err != nil {
			return n, err
		}
		n.Credential = &credstore.NewCredential{APIKey: key, ExpiresAt: expires}
	}
	return n, manage.Validate(n)
}

// parseExpiry parses the time at which a key expires, or the last day of the key.
// It returns the zero time for "".
func parseExpiry(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	at, err := apikey.Expiry(s)
	if err != nil {
		at, err = time.Parse(time.RFC3339, s)
	}
	switch {
	case err != nil:
		return time.Time{}, errors.New("--expires must be a date such as 2031-01-31 or 2031-01-31T15:04:05Z")
	case at.Before(time.Now()):
		return time.Time{}, errors.New("--expires is in the past")
	}
	return at.UTC(), nil
}

// readKey reads a key from a file, or from standard input for "-".
func readKey(p *program, path string) (credstore.Secret, error) {
	in, err := p.openInput(path)
	if err != nil {
		return credstore.Secret{}, fmt.Errorf("reading the API key: %w", err)
	}
	key, err := config.ReadSecret(in)
	if err = errors.Join(err, in.Close()); err != nil {
		return credstore.Secret{}, fmt.Errorf("reading the API key: %w", err)
	}
	return key, nil
}
