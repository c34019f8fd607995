package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

func newSetKeyCommand(p *program) *cobra.Command {
	var (
		k                manage.NewKey
		keyFile, expires string
	)
	cmd := &cobra.Command{
		Use:   "set-key NAME",
		Short: "Set the API key of a connection",
		Long: `Set the API key of a connection, from a file or standard input. The key is checked
with Pleo first. A key that Pleo does not accept, or that belongs to another company
than the connection's, is not stored, and the connection keeps its current key.

With --next the key is staged: it replaces the current one once Pleo rejects it,
so the customer can delete the old key at any time.`,
		Example: `  pass show pleo/acme | pleo-auth-proxy connections set-key acme
  pleo-auth-proxy connections set-key acme --next --key-file new.key --expires 2031-01-31`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			k.ExpiresAt, err = parseExpiry(expires)
			if err == nil {
				k.Key, err = readKey(p, keyFile)
			}
			if err != nil {
				return &usageError{command: cmd.CommandPath(), err: err}
			}
			return withStore(cmd.Context(), p, func(cfg *config.Config, v *setup.OpenedStore) error {
				o := setup.NewOperator(cfg, v.Store.Store)
				if o.Keys, err = newKeySetter(cfg, p, v.Store.Store); err != nil {
					return err
				}
				c, err := o.Find(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				c, err = o.SetKey(cmd.Context(), c, k)
				return reportKey(p, c, k.Next, err)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&keyFile, "key-file", "-", "read the API key from `FILE`; - for standard input")
	flags.StringVar(&expires, "expires", "", expiresUsage)
	flags.BoolVar(&k.Next, "next", false, "use the key once Pleo rejects the current one")
	flags.BoolVar(&k.AllowOtherCompany, "allow-other-company", false, allowOtherUsage)
	flags.BoolVar(&k.AllowSharedCompany, "allow-shared-company", false, allowSharedUsage)
	return cmd
}

// newKeySetter returns a manager that only sets keys: it refreshes nothing.
func newKeySetter(cfg *config.Config, p *program, store credstore.Store) (manage.KeySetter, error) {
	transport, err := setup.UpstreamTransport(cfg)
	if err != nil {
		return nil, err
	}
	return refresh.New(refresh.Config{
		Store: refresh.StoreOf(store), API: setup.NewAPI(cfg.Upstream.APIURL, transport), OtherEnvironment: setup.NewOtherEnvironmentAPI(cfg, transport),
		Owner: processName(), Logger: p.logger(),
	})
}

func reportKey(p *program, c credstore.Connection, next bool, err error) error {
	switch {
	case err != nil:
		return keyError(c.Name, next, err)
	case next:
		p.notef("staged the next key of connection %q: it replaces the current one once Pleo rejects it", c.Name)
	default:
		p.notef("connection %q has a new key and is %s", c.Name, statusOf(c))
	}
	return printChanged(p, c)
}

// keyError adds to the error about a key what to do about it.
func keyError(name string, next bool, err error) error {
	var (
		invalid     *manage.InvalidError
		notPossible *manage.NotPossibleError
		other       *credstore.OtherCompanyError
		taken       *refresh.CompanyTakenError
	)
	switch {
	case errors.As(err, &invalid), errors.As(err, &notPossible):
		return err
	case errors.Is(err, pleo.ErrUnauthorized):
		err = fmt.Errorf("%w; copy the key from Pleo again, without quotes or spaces", err)
	case errors.As(err, &other) && next:
		err = fmt.Errorf("%w; the next key must belong to the same company", err)
	case errors.As(err, &other):
		err = fmt.Errorf("%w; use --allow-other-company to move the connection", err)
	case errors.As(err, &taken):
		err = fmt.Errorf("%w; use --allow-shared-company to allow both", err)
	}
	return fmt.Errorf("setting the key of connection %q: %w", name, err)
}
