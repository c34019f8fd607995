package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
)

func (p *program) exportCommand() *cobra.Command {
	var secrets bool
	cmd := &cobra.Command{
		Use:   "export [NAME...]",
		Short: "Writes connections as JSON lines, as connections import reads them",
		Long: `Writes connections as JSON lines, all of them or those that are named.

With --with-secrets the lines hold the tokens and keys, for another program or
another store to go on with. Each connection is disabled in the same transaction,
since of two owners of one refresh token one kills it for both; connections enable
takes that back where the export was not used. One with a refresh under way, of
unknown outcome or with a refused token is left out. Keep the output as you would
keep the keys.

Without it the lines make connections that wait for their customers, each for the
company that it has now.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), func(ctx context.Context, store credstore.Store) error {
				return p.export(ctx, store, args, secrets)
			})
		},
	}
	cmd.Flags().BoolVar(&secrets, "with-secrets", false, "with tokens and keys; disables the connections here")
	return cmd
}

func (p *program) export(ctx context.Context, store credstore.Store, names []string, secrets bool) error {
	chosen, err := selectConnections(ctx, store, names)
	if err != nil {
		return err
	}
	left := 0
	for _, c := range chosen {
		line := manage.NewConnectionLine(c)
		if secrets {
			line, err = p.withSecrets(ctx, store, c)
		}
		if err != nil {
			left++
			p.notef("%s: left out: %v", c.Name, err)
			continue
		}
		if err := line.Write(p.stdout); err != nil {
			return fmt.Errorf("writing connection %q: %w", c.Name, err)
		}
	}
	p.notef("exported %d connections", len(chosen)-left)
	if secrets && len(chosen) > left {
		p.notef("they are disabled here (exported): of two owners of one refresh token, one kills it for both")
	}
	if left > 0 {
		return fmt.Errorf("%d connections were left out", left)
	}
	return nil
}

// selectConnections returns the connections that are named, or all of them.
func selectConnections(ctx context.Context, store credstore.Store, names []string) (chosen []credstore.Connection, err error) {
	if len(names) == 0 {
		return listAll(ctx, store, "")
	}
	for _, name := range names {
		c, err := find(ctx, store, name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, c)
	}
	return chosen, nil
}

// Why a connection is not exported.
var (
	errOutcomeUnknown = errors.New("the outcome of a refresh is not known yet, so its refresh token may be spent; see connections show")
	errTokenRejected  = errors.New("its refresh token was refused")
)

// withSecrets takes a connection out of use here and returns all that another
// owner needs. On an error it is as it was before.
func (p *program) withSecrets(ctx context.Context, store credstore.Store, c credstore.Connection) (manage.ConnectionLine, error) {
	state, err := store.Connections.Read(ctx, c.ID)
	if err == nil {
		err = checkExportable(state)
	}
	if err != nil {
		return manage.ConnectionLine{}, err
	}
	before := state.Connection.Status
	if state, err = exportConnection(ctx, store, c.ID); err != nil {
		return manage.ConnectionLine{}, err
	}
	// Between the two looks a refresh may have begun and not been answered.
	if err := checkExportable(state); err != nil {
		if before != credstore.Disabled {
			err = errors.Join(err, store.Connections.Enable(ctx, c.ID))
		}
		return manage.ConnectionLine{}, err
	}
	if !state.Credential.NextKey.IsZero() {
		p.notef("%s: warning: the staged key is not exported", c.Name)
	}
	return exportLine(state), nil
}

func checkExportable(s credstore.State) error {
	switch {
	case s.Intent != nil:
		return errOutcomeUnknown
	case !s.Credential.RejectedAt.IsZero():
		return errTokenRejected
	}
	return nil
}

// exportTimeout is how long to wait for a refresh under way to end.
const exportTimeout = 5 * time.Second

func exportConnection(ctx context.Context, store credstore.Store, id string) (credstore.State, error) {
	for deadline := time.Now().Add(exportTimeout); ; {
		state, err := store.Connections.Export(ctx, id)
		if !errors.Is(err, credstore.ErrBusy) || time.Now().After(deadline) {
			return state, err
		}
		select {
		case <-time.After(minPollInterval):
		case <-ctx.Done():
			return state, ctx.Err()
		}
	}
}

func exportLine(s credstore.State) manage.ConnectionLine {
	line, cred := manage.NewConnectionLine(s.Connection), s.Credential
	line.RefreshToken, line.AccessToken, line.APIKey = cred.RefreshToken.Reveal(), cred.AccessToken.Reveal(), cred.APIKey.Reveal()
	expires := cred.ExpiresAt
	if s.Connection.Kind.IsKey() {
		expires = s.Connection.ExpiresAt
	}
	if !expires.IsZero() {
		expires = expires.UTC()
		line.ExpiresAt = &expires
	}
	return line
}
