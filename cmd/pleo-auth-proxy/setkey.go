package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// setKeyFlags are the flags of connections set-key.
type setKeyFlags struct {
	keyFile string
	expires string
	next    bool
	other   bool
	shared  bool
}

func (p *program) setKeyCommand() *cobra.Command {
	var f setKeyFlags
	cmd := &cobra.Command{
		Use:   "set-key NAME",
		Short: "Gives a connection another API key",
		Long: `Gives a connection another API key, from a file or from standard input. The API is
asked about it first: a key that it does not accept, or of another company than the
connection's, is not taken, and the connection keeps what it has.

With --next the key takes the place of the present one once the API refuses that,
so that the customer can end the old key at any time.`,
		Example: `  pass show pleo/acme | pleo-auth-proxy connections set-key acme
  pleo-auth-proxy connections set-key acme --next --key-file new.key --expires 2031-01-31`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := p.newKey(f)
			if err != nil {
				return &usageError{command: cmd.CommandPath(), err: err}
			}
			return p.setKey(cmd.Context(), args[0], g)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.keyFile, "key-file", "-", "a `FILE` that holds the API key; - for standard input")
	flags.StringVar(&f.expires, "expires", "", expiresUsage)
	flags.BoolVar(&f.next, "next", false, "use the key once the present one is refused")
	flags.BoolVar(&f.other, "allow-other-company", false, "let the connection move to another Pleo company")
	flags.BoolVar(&f.shared, "allow-shared-company", false, sharedUsage)
	return cmd
}

const expiresUsage = "when the key ends, as a `DATE` such as 2031-01-31 or 2031-01-31T15:04:05Z; you are reminded before"

// newKey returns what the flags ask for. Its errors are wrong usage.
func (p *program) newKey(f setKeyFlags) (apikey.Change, error) {
	g := apikey.Change{Stage: f.next, AllowOtherCompany: f.other, AllowSharedCompany: f.shared}
	if f.next && (f.other || f.shared) {
		return g, errors.New("--next is for another key of the same company")
	}
	var err error
	if g.ExpiresAt, err = parseDate(f.expires); err != nil {
		return g, err
	}
	g.Key, err = p.readKey(f.keyFile)
	return g, err
}

// parseDate reads a time, or a day, at whose end in UTC the key ends; zero for "".
func parseDate(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	at, err := apikey.Expiry(s)
	if err != nil {
		at, err = time.Parse(time.RFC3339, s)
	}
	switch {
	case err != nil:
		return time.Time{}, errors.New("--expires wants a date such as 2031-01-31 or 2031-01-31T15:04:05Z")
	case at.Before(time.Now()):
		return time.Time{}, errors.New("--expires lies in the past")
	}
	return at.UTC(), nil
}

func (p *program) setKey(ctx context.Context, name string, g apikey.Change) error {
	cfg, store, err := p.openStore(ctx)
	if err != nil {
		return err
	}
	m, err := p.keyManager(cfg, store.Store)
	if err == nil {
		err = checkNotInConfig(cfg, name)
	}
	if err == nil {
		err = p.setKeyBy(ctx, store.Store, m, name, g)
	}
	return errors.Join(err, store.Close())
}

// keyManager returns a manager that only takes keys: it refreshes nothing.
func (p *program) keyManager(cfg *config.Config, store credstore.Store) (*refresh.Manager, error) {
	transport, err := upstreamTransport(cfg)
	if err != nil {
		return nil, err
	}
	return refresh.New(refresh.Config{
		Store: refresh.StoreOf(store), API: newAPI(cfg.Upstream.APIURL, transport), OtherEnvironment: newOtherEnvironmentAPI(cfg, transport), Owner: processName(),
		Logger: newLogger(p.stderr, config.Log{Level: "warn", Format: "console"}),
	})
}

func (p *program) setKeyBy(ctx context.Context, store credstore.Store, m *refresh.Manager, name string, g apikey.Change) error {
	c, err := find(ctx, store, name)
	if err != nil {
		return err
	}
	if err := checkCredential(c.Kind, &credstore.NewCredential{APIKey: g.Key}); err != nil {
		return err
	}
	if g.Stage && c.Version == 0 {
		return fmt.Errorf("connection %q has no key yet that another could follow; leave --next out", name)
	}
	g.ConnectionID = c.ID
	if c, err = m.SetKey(ctx, g); err != nil {
		return fmt.Errorf("setting the key of connection %q: %w", name, explainKey(err, g.Stage))
	}
	if g.Stage {
		p.notef("connection %q has another key for when the present one is refused", name)
	} else {
		p.notef("connection %q has a new key and is %s", name, statusOf(c))
	}
	if p.asJSON {
		return p.printJSON(manage.Describe(c))
	}
	return nil
}

// explainKey adds to the error of a key what to do about it.
func explainKey(err error, next bool) error {
	var (
		other *credstore.OtherCompanyError
		taken *refresh.CompanyTakenError
	)
	switch {
	case errors.Is(err, pleo.ErrUnauthorized):
		return fmt.Errorf("%w; copy the key from Pleo once more, without anything around it", err)
	case errors.As(err, &other) && next:
		return fmt.Errorf("%w; the next key has to be of the same company", err)
	case errors.As(err, &other):
		return fmt.Errorf("%w; --allow-other-company moves it", err)
	case errors.As(err, &taken):
		return fmt.Errorf("%w; --allow-shared-company lets both have it", err)
	}
	return err
}
