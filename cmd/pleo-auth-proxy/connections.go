package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

func (p *program) connectionsCommand() *cobra.Command {
	cmd := commandGroup(&cobra.Command{
		Use:   "connections",
		Short: "Adds, shows and removes connections",
		Long: `These commands work on the store itself. A server that runs beside them sees
what they change within a second.`,
	})
	cmd.AddCommand(p.addCommand(), p.listCommand(), p.showCommand(), p.removeCommand(), p.importCommand(),
		p.checkCommand(), p.historyCommand(), p.disableCommand(), p.enableCommand(), p.setKeyCommand(), p.exportCommand(), p.refreshCommand(), p.retryCommand())
	return cmd
}

func (p *program) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists all connections",
		Args:  args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withStore(cmd.Context(), p.list)
		},
	}
}

// withStore runs work on the store and closes it.
func (p *program) withStore(ctx context.Context, work func(context.Context, credstore.Store) error) error {
	_, store, err := p.openStore(ctx)
	if err != nil {
		return err
	}
	return errors.Join(work(ctx, store.Store), store.Close())
}

// pageSize is the largest page that a store gives.
const pageSize = 200

func (p *program) list(ctx context.Context, store credstore.Store) error {
	connections, err := listAll(ctx, store, "")
	if err != nil {
		return err
	}
	all := manage.DescribePage(credstore.Page{Connections: connections})
	if p.asJSON {
		return p.printJSON(all)
	}
	t := newTable(p.stdout)
	for _, c := range all.Connections {
		t.add(c)
	}
	return flush(t.w)
}

func (p *program) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Shows one connection",
		Args:  args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), func(ctx context.Context, store credstore.Store) error {
				c, err := find(ctx, store, args[0])
				if err != nil {
					return err
				}
				return p.printConnection(manage.Describe(c))
			})
		},
	}
}

// report returns the connection called name. Its errors name it only if it can be
// a name at all.
func find(ctx context.Context, store credstore.Store, name string) (credstore.Connection, error) {
	if !credstore.ValidName(name) {
		return credstore.Connection{}, fmt.Errorf("what was given cannot be the name of a connection: %w", credstore.ErrNotFound)
	}
	return store.Connections.Find(ctx, name)
}
