package main

import (
	"context"
	"errors"
	"slices"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/connect"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

// newOperator returns the use cases on connections that need no server of Pleo.
func newOperator(cfg *config.Config, store credstore.Store) *manage.Operator {
	o := &manage.Operator{Store: manage.StoreOf(store), ReturnURLs: cfg.Connect.ReturnURLs, InConfig: inConfig(cfg)}
	if cfg.Connect.PublicURL != nil {
		o.Links = newLinkIssuer(cfg, store)
	}
	return o
}

func newLinkIssuer(cfg *config.Config, store credstore.Store) *connect.LinkIssuer {
	return connect.NewLinkIssuer(connect.LinkIssuerConfig{
		Store:     manage.ConfigLinkStore{LinkStore: store.Links, Store: manage.StoreOf(store), InConfig: inConfig(cfg)},
		PublicURL: cfg.Connect.PublicURL, TTL: cfg.Connect.LinkTTL, ReturnURLs: cfg.Connect.ReturnURLs,
	})
}

// inConfig returns nil if the configuration has no keys of connections.
func inConfig(cfg *config.Config) func(name string) bool {
	if len(cfg.Connections) == 0 {
		return nil
	}
	return func(name string) bool {
		return slices.ContainsFunc(cfg.Connections, func(c config.Connection) bool { return c.Name == name })
	}
}

// withStore calls do with the store, which must exist, and closes it.
func withStore(ctx context.Context, p *program, do func(*config.Config, *openedStore) error) error {
	cfg, v, err := openExisting(ctx, p)
	if err != nil {
		return err
	}
	return errors.Join(do(cfg, v), v.store.Close())
}

// withOperator is withStore for a command that only needs the use cases.
func withOperator(ctx context.Context, p *program, do func(*config.Config, *manage.Operator) error) error {
	return withStore(ctx, p, func(cfg *config.Config, v *openedStore) error { return do(cfg, newOperator(cfg, v.store.Store)) })
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
	o := newOperator(cfg, v.store.Store)
	if !offline {
		o.API, err = openAPI(cfg)
	}
	if err == nil {
		err = do(o)
	}
	return errors.Join(err, v.store.Close())
}
