package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
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
			r := remover{cfg: cfg, store: store.Store}
			if uninstall {
				r.api, err = openAPI(cfg)
			}
			if err == nil {
				err = p.remove(cmd.Context(), r, args[0])
			}
			return errors.Join(err, store.Close())
		},
	}
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "uninstall the integration at Pleo first")
	return cmd
}

func (p *program) remove(ctx context.Context, r remover, name string) error {
	c, err := find(ctx, r.store, name)
	if err != nil {
		return err
	}
	done, err := r.remove(ctx, c)
	if err != nil {
		return errors.Join(fmt.Errorf("removing connection %q: %w", name, err), done.uninstallError)
	}
	p.reportRemoval(name, done)
	if p.asJSON {
		err = p.printJSON(manage.Describe(c))
	}
	if done.uninstallError != nil {
		done.uninstallError = fmt.Errorf("the connection is removed here, but not at Pleo: %w", done.uninstallError)
	}
	return errors.Join(err, done.uninstallError)
}

func (p *program) reportRemoval(name string, done removal) {
	if done.nothingToUninstall != "" {
		p.notef("%s", done.nothingToUninstall)
	}
	switch {
	case !done.uninstallRequested:
		p.notef("removed connection %q; Pleo has no revocation endpoint, so what it granted lives on there: the customer should remove the integration or key in Pleo, or use --uninstall next time", name)
	case done.uninstallError != nil:
		p.notef("removed connection %q; the customer should remove the integration or key in Pleo", name)
	default:
		p.notef("uninstalled the integration at Pleo and removed connection %q", name)
	}
	if done.inConfig {
		p.notef("the configuration declares connection %q (connections), so the next start brings it back unless you delete it there", name)
	}
}

// remover forgets connections.
type remover struct {
	cfg   *config.Config
	store credstore.Store
	api   *pleo.API // to uninstall with first; nil: Pleo is not told
}

// removal is what became of a connection at Pleo when it was forgotten here.
type removal struct {
	uninstallRequested bool   // to uninstall the integration
	nothingToUninstall string // why there was nothing to uninstall; empty: there was
	uninstallError     error  // why Pleo could not be told
	inConfig           bool   // the configuration has it still
}

// remove forgets the connection, whatever Pleo says.
func (r remover) remove(ctx context.Context, c credstore.Connection) (removal, error) {
	done := removal{uninstallRequested: r.api != nil, inConfig: checkNotInConfig(r.cfg, c.Name) != nil}
	if done.uninstallRequested {
		done.nothingToUninstall, done.uninstallError = r.uninstall(ctx, c)
	}
	return done, r.store.Connections.Remove(ctx, c.ID)
}

// uninstall uninstalls the integration with whatever the connection has, or says
// why there is nothing to uninstall. A token that was refreshed meanwhile is no
// reason to fail.
func (r remover) uninstall(ctx context.Context, c credstore.Connection) (needless string, err error) {
	if c.Version == 0 {
		return "the connection has never had a credential, so there is nothing to uninstall", nil
	}
	state, err := r.usable(ctx, c)
	if err != nil {
		return "", err
	}
	for {
		err = r.api.Uninstall(ctx, pleo.AuthorizationHeader(c.Kind, state.Credential))
		if !errors.Is(err, pleo.ErrUnauthorized) {
			break
		}
		now, readErr := r.store.Connections.Read(ctx, c.ID)
		if readErr != nil || now.Credential.Version == state.Credential.Version {
			break
		}
		state = now
	}
	var answered *pleo.StatusError
	if errors.As(err, &answered) && answered.Status == http.StatusNotFound {
		return "the integration is not installed at Pleo", nil
	}
	return "", err
}

// usable returns the state of the connection with a credential that can be sent
// now: a running server is asked to refresh one that has expired.
func (r remover) usable(ctx context.Context, c credstore.Connection) (credstore.State, error) {
	state, err := r.store.Connections.Read(ctx, c.ID)
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
	if err := r.store.Credentials.RequestRefresh(ctx, c.ID, time.Now()); err != nil {
		return state, err
	}
	if _, err := awaitRefresh(ctx, r.store, state, refreshStartTimeout); err != nil {
		return state, fmt.Errorf("the access token has expired: %w", err)
	}
	return r.store.Connections.Read(ctx, c.ID)
}
