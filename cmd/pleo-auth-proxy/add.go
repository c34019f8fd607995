package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// addFlags are the flags of connections add.
type addFlags struct {
	kind    string
	tenant  string
	keyFile string
	expires string
	shared  bool
	offline bool
}

func (p *program) addCommand() *cobra.Command {
	var f addFlags
	cmd := &cobra.Command{
		Use:   "add NAME --kind KIND",
		Short: "Adds a connection",
		Long: `Adds a connection. With an API key it can be used at once; without one, and for
kind oauth, it is pending until somebody gives consent or a key.

The company that a key belongs to is asked of the API. A key that the API does
not accept is stored all the same, with a warning.`,
		Example: `  pleo-auth-proxy connections add acme --kind standalone_key --key-file acme.key
  pass show pleo/acme | pleo-auth-proxy connections add acme --kind integrated_key --key-file -
  pleo-auth-proxy connections add acme --kind oauth --external-tenant 4711`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := p.newConnection(args[0], f)
			if err != nil {
				return &usageError{command: cmd.CommandPath(), err: err}
			}
			return p.add(cmd.Context(), n, f.offline)
		},
	}
	cmd.Flags().StringVar(&f.kind, "kind", "", "the `KIND` of credential: oauth, integrated_key or standalone_key (required)")
	cmd.Flags().StringVar(&f.tenant, "external-tenant", "", "what the other system calls the customer")
	cmd.Flags().StringVar(&f.keyFile, "key-file", "", "a `FILE` that holds the API key; - for standard input")
	cmd.Flags().StringVar(&f.expires, "expires", "", expiresUsage)
	cmd.Flags().BoolVar(&f.shared, "allow-shared-company", false, sharedUsage)
	cmd.Flags().BoolVar(&f.offline, "offline", false, "do not ask the API for the company")
	return cmd
}

const sharedUsage = "take the company although another connection of the kind is bound to it; noted in the history"

// newConnection returns what the flags ask for. Its errors are wrong usage.
func (p *program) newConnection(name string, f addFlags) (credstore.NewConnection, error) {
	if f.kind == "" {
		return credstore.NewConnection{}, errors.New("--kind is missing: oauth, integrated_key or standalone_key")
	}
	kind, err := credstore.ParseKind(f.kind)
	if err != nil {
		return credstore.NewConnection{}, err
	}
	n := credstore.NewConnection{Name: name, Kind: kind, ExternalTenant: f.tenant, SharedCompany: f.shared}
	ends, err := parseDate(f.expires)
	if err != nil {
		return n, err
	}
	if f.keyFile == "" && f.expires != "" {
		return n, errors.New("--expires is for a key, which --key-file names")
	}
	if f.keyFile != "" {
		if !kind.IsKey() {
			return n, errors.New("--key-file is for connections that have a key; kind oauth starts pending, or comes by connections import")
		}
		key, err := p.readKey(f.keyFile)
		if err != nil {
			return n, err
		}
		n.Credential = &credstore.NewCredential{APIKey: key, ExpiresAt: ends}
	}
	return n, checkNewConnection(n)
}

// readKey reads a key from a file, or from standard input for "-".
func (p *program) readKey(path string) (credstore.Secret, error) {
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

// openInput opens a file, or standard input for "-".
func (p *program) openInput(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(p.stdin), nil
	}
	return os.Open(path)
}

func (p *program) add(ctx context.Context, n credstore.NewConnection, offline bool) error {
	return p.withImporter(ctx, offline, func(in *importer) error {
		c, warning, err := in.create(ctx, n)
		if err != nil {
			return err
		}
		p.notef("added connection %q: %s", c.Name, c.Status)
		if warning != "" {
			p.notef("warning: %s", warning)
		}
		if p.asJSON {
			return p.printJSON(manage.Describe(c))
		}
		return nil
	})
}

// withImporter runs work with an intake on the store, and closes the store.
func (p *program) withImporter(ctx context.Context, offline bool, work func(*importer) error) error {
	cfg, store, err := p.openOrCreateStore(ctx)
	if err != nil {
		return err
	}
	in := &importer{store: store.Store, now: time.Now}
	if !offline {
		api, err := openAPI(cfg)
		if err != nil {
			return errors.Join(err, store.Close())
		}
		in.api = api
	}
	return errors.Join(work(in), store.Close())
}
