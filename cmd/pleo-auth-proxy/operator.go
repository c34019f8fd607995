package main

import (
	"context"
	"errors"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/setup"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// withStore calls do with the store, which must exist, and closes it.
func withStore(ctx context.Context, p *program, do func(*config.Config, *setup.OpenedStore) error) error {
	cfg, v, err := openExisting(ctx, p)
	if err != nil {
		return err
	}
	return errors.Join(do(cfg, v), v.Store.Close())
}

// withOperator is withStore for a command that only needs the use cases.
func withOperator(ctx context.Context, p *program, do func(*config.Config, *manage.Operator) error) error {
	return withStore(ctx, p, func(cfg *config.Config, v *setup.OpenedStore) error {
		return do(cfg, setup.NewOperator(cfg, v.Store.Store))
	})
}

// withConnection is withOperator for a command on the connection with the name.
func withConnection(ctx context.Context, p *program, name string, do func(*manage.Operator, credstore.Connection) error) error {
	return withOperator(ctx, p, func(_ *config.Config, o *manage.Operator) error {
		c, err := o.Find(ctx, name)
		if err != nil {
			return err
		}
		return do(o, c)
	})
}

// withNewConnections calls do with the use cases that add connections to the
// store, which it creates if need be, and closes the store.
func withNewConnections(ctx context.Context, p *program, offline bool, do func(*manage.Operator) error) error {
	cfg, v, err := openOrCreateStore(ctx, p)
	if err != nil {
		return err
	}
	o := setup.NewOperator(cfg, v.Store.Store)
	if !offline {
		o.API, err = setup.OpenAPI(cfg)
	}
	if err == nil {
		err = do(o)
	}
	return errors.Join(err, v.Store.Close())
}

// openExisting opens the store, which must exist, with its keyset, for a command
// that may work beside a running server. A store that does not exist is more likely
// somewhere else than empty.
func openExisting(ctx context.Context, p *program) (*config.Config, *setup.OpenedStore, error) {
	cfg, err := loadStoreConfig(p)
	if err != nil {
		return nil, nil, err
	}
	if err := setup.CheckStoreExists(ctx, cfg); err != nil {
		return nil, nil, err
	}
	v, err := setup.OpenOrCreate(ctx, cfg, p.logger())
	return cfg, v, err
}

// openOrCreateStore opens or creates the store for a command that adds connections.
func openOrCreateStore(ctx context.Context, p *program) (*config.Config, *setup.OpenedStore, error) {
	cfg, err := loadStoreConfig(p)
	if err != nil {
		return nil, nil, err
	}
	v, err := setup.OpenOrCreate(ctx, cfg, p.logger())
	if err != nil {
		return nil, nil, err
	}
	if v.CreatedKeyset {
		p.notef("%s: %s", setup.KeysetBackupNotice, cfg.Store.KeysetFile)
	}
	return cfg, v, nil
}

// loadStoreConfig loads the configuration for a command that uses the store itself.
func loadStoreConfig(p *program) (*config.Config, error) {
	cfg, err := p.loadConfig()
	if err == nil && cfg.Store.Driver == config.DriverMemory {
		return nil, &credstore.SetupError{
			Err:  errors.New("with store.driver memory, only the server can use the store"),
			Hint: "use the server's API: GET /api/v1/connections on its admin listener",
		}
	}
	return cfg, err
}
