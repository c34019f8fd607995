package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/connect"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// actions is what the admin listener has done by the running server.
type actions struct {
	store   credstore.Store
	manager *refresh.Manager
	links   *connect.LinkIssuer
	checker refresh.Checker
	api     *pleo.API
	cfg     *config.Config
}

var _ manage.Actions = (*actions)(nil)

// newActions makes actions; server is nil where there is none.
func newActions(cfg *config.Config, store credstore.Store, manager *refresh.Manager, links *connect.LinkIssuer, api *pleo.API, server *pleo.AuthorizationServer) *actions {
	a := &actions{cfg: cfg, store: store, manager: manager, links: links, api: api, checker: refresh.Checker{Connections: store.Connections, Facts: store.Changes, API: api}}
	if server != nil { // else the interface would hold something
		a.checker.Server = server
	}
	return a
}

// Link implements [manage.Actions].
func (a *actions) Link(ctx context.Context, c credstore.Connection, r credstore.LinkRequest) (manage.Link, error) {
	url, link, err := a.links.Issue(ctx, c.ID, r)
	return manage.Link{URL: credstore.NewSecret(url), ExpiresAt: link.ExpiresAt}, notPossible(err)
}

// notPossible makes an error about a declared connection one that the admin listener
// tells.
func notPossible(err error) error {
	var declared *configKeyError
	if errors.As(err, &declared) {
		return &manage.NotPossibleError{Message: "C" + declared.Error()[1:] + "."}
	}
	return err
}

// Check implements [manage.Actions].
func (a *actions) Check(ctx context.Context, c credstore.Connection) (refresh.CredentialCheck, error) {
	return a.checker.Check(ctx, c.ID)
}

// pageRefreshTimeout is how long somebody at a page waits for a refresh.
const pageRefreshTimeout = 30 * time.Second

// Refresh implements [manage.Actions]. It asks as the command line does, so that
// of several servers the one that may refresh can do it.
func (a *actions) Refresh(ctx context.Context, c credstore.Connection) (credstore.Connection, error) {
	if err := checkRefreshable(c); err != nil {
		return c, &manage.NotPossibleError{Message: fmt.Sprintf("Connection %q cannot be refreshed: %v.", c.Name, err)}
	}
	before, err := a.store.Connections.Read(ctx, c.ID)
	if err != nil {
		return c, err
	}
	if err := a.store.Credentials.RequestRefresh(ctx, c.ID, time.Now()); err != nil {
		return c, err
	}
	waiting, cancel := context.WithTimeout(ctx, pageRefreshTimeout)
	defer cancel()
	after, err := awaitRefresh(waiting, a.store, before, pageRefreshTimeout)
	var unknown *outcomeUnknownError
	if errors.As(err, &unknown) || waiting.Err() != nil && ctx.Err() == nil {
		return c, manage.ErrRefreshPending
	}
	return after, err
}

// SetKey implements [manage.Actions].
func (a *actions) SetKey(ctx context.Context, c credstore.Connection, k manage.NewKey) (credstore.Connection, error) {
	if err := checkNotInConfig(a.cfg, c.Name); err != nil {
		return c, notPossible(err)
	}
	return a.manager.SetKey(ctx, apikey.Change{
		ConnectionID: c.ID, Key: k.Key, Stage: k.Next, ExpiresAt: k.ExpiresAt,
		AllowOtherCompany: k.AllowOtherCompany, AllowSharedCompany: k.AllowSharedCompany,
	})
}

// Intake implements [manage.Actions].
func (a *actions) Intake(offline bool) func(context.Context, credstore.NewConnection) (string, error) {
	in := &importer{store: a.store, now: time.Now}
	if !offline {
		in.api = a.api
	}
	return func(ctx context.Context, n credstore.NewConnection) (string, error) {
		_, warning, err := in.create(ctx, n)
		return warning, err
	}
}

// Remove implements [manage.Actions].
func (a *actions) Remove(ctx context.Context, c credstore.Connection, uninstall bool) (manage.Removal, error) {
	r := remover{cfg: a.cfg, store: a.store}
	if uninstall {
		r.api = a.api
	}
	done, err := r.remove(ctx, c)
	told := describeRemoval(done)
	if done.inConfig {
		told.Message += " The configuration declares the connection (connections), so the next start brings it back unless you delete it there."
	}
	return told, err
}

func describeRemoval(done removal) manage.Removal {
	switch {
	case !done.uninstallRequested:
		return manage.Removal{Message: "What the customer granted lives on at Pleo until they remove the integration or key there."}
	case done.uninstallError != nil:
		return manage.Removal{Message: fmt.Sprintf("The integration could not be uninstalled at Pleo (%v), so the customer should remove it there.", done.uninstallError)}
	case done.nothingToUninstall != "":
		return manage.Removal{Uninstalled: true, Message: "There was nothing to uninstall: " + done.nothingToUninstall + "."}
	}
	return manage.Removal{Uninstalled: true, Message: "The integration was uninstalled at Pleo."}
}
