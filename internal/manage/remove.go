package manage

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// Removal is what happened at Pleo to a connection that was removed.
type Removal struct {
	Uninstalled bool   // nothing is installed at Pleo any more
	Message     string // sentences for people
	Err         error  // why the integration could not be uninstalled
}

// Remove removes the connection with its credential. If uninstall is set, it first
// asks Pleo to uninstall the integration, and removes the connection even if that
// fails: then Removal.Err is set.
func (o *Operator) Remove(ctx context.Context, c credstore.Connection, uninstall bool) (Removal, error) {
	r := Removal{Message: "The grant stays valid at Pleo until the customer removes the integration there."}
	if c.Kind.IsKey() {
		r.Message = "The key stays valid at Pleo until the customer removes it there."
	}
	if uninstall {
		r = uninstallFirst(ctx, o, c)
	}
	if o.InConfig != nil && o.InConfig(c.Name) {
		r.Message += " The configuration still has the connection (connections), so the next start brings it back unless you delete it there."
	}
	return r, o.Store.Remove(ctx, c.ID)
}

func uninstallFirst(ctx context.Context, o *Operator, c credstore.Connection) Removal {
	notInstalled, err := requestUninstall(ctx, o, c)
	switch {
	case err != nil:
		return Removal{Err: err, Message: fmt.Sprintf("The integration could not be uninstalled at Pleo (%v). Ask the customer to remove it there.", err)}
	case notInstalled != "":
		return Removal{Uninstalled: true, Message: "There was nothing to uninstall: " + notInstalled + "."}
	}
	return Removal{Uninstalled: true, Message: "The integration was uninstalled at Pleo."}
}

// requestUninstall asks Pleo to uninstall the integration. notInstalled says why
// there was nothing to uninstall. A token that was refreshed in between is no
// reason to fail.
func requestUninstall(ctx context.Context, o *Operator, c credstore.Connection) (notInstalled string, err error) {
	if c.Version == 0 {
		return "the connection has never had a credential", nil
	}
	state, err := readUsable(ctx, o, c)
	if err != nil {
		return "", err
	}
	for {
		err = o.API.Uninstall(ctx, pleo.AuthorizationHeader(c.Kind, state.Credential))
		if !errors.Is(err, pleo.ErrUnauthorized) {
			break
		}
		now, readErr := o.Store.Read(ctx, c.ID)
		if readErr != nil || now.Credential.Version == state.Credential.Version {
			break
		}
		state = now
	}
	var status *pleo.StatusError
	if errors.As(err, &status) && status.Status == http.StatusNotFound {
		return "the integration is not installed at Pleo", nil
	}
	return "", err
}

// readUsable returns the state of the connection with a credential that can be
// sent now: it requests a refresh of an expired token from the running servers.
func readUsable(ctx context.Context, o *Operator, c credstore.Connection) (credstore.State, error) {
	state, err := o.Store.Read(ctx, c.ID)
	if err != nil {
		return state, err
	}
	cred := state.Credential
	expired := !cred.ExpiresAt.IsZero() && !o.now().Before(cred.ExpiresAt)
	if c.Kind.IsKey() || !expired && !cred.AccessToken.IsZero() {
		return state, nil
	}
	wait := RefreshWait{Start: DefaultRefreshStart, Outcome: DefaultRefreshStart + RefreshOutcomeTimeout}
	if _, err := o.Refresh(ctx, state.Connection, wait); err != nil {
		return state, fmt.Errorf("the access token has expired: %w", err)
	}
	return o.Store.Read(ctx, c.ID)
}
