package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/admin"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

func (p *program) removeCommand() *cobra.Command {
	var uninstall bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Forgets a connection and its credential",
		Long: `Forgets a connection and everything secret about it. Pleo has no endpoint that
revokes a grant or a key: until the customer removes the integration or the key
there, the credential stays valid for whoever has a copy.

With --uninstall the integration is uninstalled at the customer's company first
(DELETE /v1/installations/me), which ends all tokens that your client has there; a
key may outlive it. The connection is forgotten even if that fails; then the exit code is 1.`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, store, err := p.openStore(cmd.Context())
			if err != nil {
				return err
			}
			r := removal{program: p, store: store}
			if uninstall {
				r.api, err = newAPI(cfg)
			}
			if err == nil {
				err = r.remove(cmd.Context(), args[0])
			}
			return errors.Join(err, store.Close())
		},
	}
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "uninstall the integration at Pleo first")
	return cmd
}

// removal is one run of connections remove.
type removal struct {
	program *program
	store   credstore.Store
	api     *pleo.API // to uninstall with; nil: Pleo is not told
}

func (r removal) remove(ctx context.Context, name string) error {
	c, err := find(ctx, r.store, name)
	if err != nil {
		return err
	}
	var untold error
	if r.api != nil {
		untold = r.uninstall(ctx, c)
	}
	if err := r.store.Remove(ctx, c.ID); err != nil {
		return errors.Join(fmt.Errorf("removing connection %q: %w", name, err), untold)
	}
	r.report(name, untold)
	if r.program.asJSON {
		err = r.program.printJSON(admin.Describe(c))
	}
	if untold != nil {
		untold = fmt.Errorf("the connection is removed here, but not at Pleo: %w", untold)
	}
	return errors.Join(err, untold)
}

func (r removal) report(name string, untold error) {
	switch {
	case r.api == nil:
		r.program.say("removed connection %q; Pleo has no revocation endpoint, so what it granted lives on there: the customer should remove the integration or key in Pleo, or use --uninstall next time", name)
	case untold != nil:
		r.program.say("removed connection %q; the customer should remove the integration or key in Pleo", name)
	default:
		r.program.say("uninstalled the integration at Pleo and removed connection %q", name)
	}
}

// uninstall uninstalls the integration with whatever the connection has. A token
// that was refreshed meanwhile is no reason to fail.
func (r removal) uninstall(ctx context.Context, c credstore.Connection) error {
	if c.Version == 0 {
		r.program.say("the connection has never had a credential, so there is nothing to uninstall")
		return nil
	}
	state, err := r.usable(ctx, c)
	if err != nil {
		return err
	}
	for {
		err = r.api.Uninstall(ctx, pleo.AuthorizationValue(c.Kind, state.Credential))
		if !errors.Is(err, pleo.ErrUnauthorized) {
			break
		}
		now, readErr := r.store.Read(ctx, c.ID)
		if readErr != nil || now.Credential.Version == state.Credential.Version {
			break
		}
		state = now
	}
	var answered *pleo.StatusError
	if errors.As(err, &answered) && answered.Status == http.StatusNotFound {
		r.program.say("the integration is not installed at Pleo")
		return nil
	}
	return err
}

// usable returns the state of the connection with a credential that can be sent
// now: a running server is asked to refresh one that has expired.
func (r removal) usable(ctx context.Context, c credstore.Connection) (credstore.State, error) {
	state, err := r.store.Read(ctx, c.ID)
	if err != nil {
		return state, err
	}
	cred := state.Credential
	expired := !cred.ExpiresAt.IsZero() && !time.Now().Before(cred.ExpiresAt)
	if c.Kind.IsKey() || !expired && !cred.AccessToken.IsZero() {
		return state, nil
	}
	if err := checkRefreshable(state.Connection); err != nil {
		return state, fmt.Errorf("the access token has expired and cannot be refreshed: %w", err)
	}
	if err := r.store.RequestRefresh(ctx, c.ID, time.Now()); err != nil {
		return state, err
	}
	if _, err := awaitRefresh(ctx, r.store, state, takenWithin); err != nil {
		return state, fmt.Errorf("the access token has expired: %w", err)
	}
	return r.store.Read(ctx, c.ID)
}
