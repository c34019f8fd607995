package manage

import (
	"context"
	"errors"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// exportTimeout is how long Export waits for a refresh in flight to end.
const exportTimeout = 5 * time.Second

// Export returns the connection with its secrets and disables it, in one
// transaction: Pleo revokes the grant if two programs refresh the same tokens. A staged
// key is not part of the line; staged reports that there is one. Export returns a
// *[NotPossibleError] if the refresh token may have been used up; the connection is
// then as it was before.
func (o *Operator) Export(ctx context.Context, c credstore.Connection) (line ConnectionLine, staged bool, err error) {
	before, err := o.Store.Read(ctx, c.ID)
	if err != nil {
		return line, false, err
	}
	if err := checkExportable(before); err != nil {
		return line, false, err
	}
	state, err := exportWhenFree(ctx, o.Store, c.ID)
	if err != nil {
		return line, false, err
	}
	// A refresh may have begun since then, and have no outcome yet.
	if err := checkExportable(state); err != nil {
		if before.Connection.Status != credstore.Disabled {
			err = errors.Join(err, o.Store.Enable(ctx, c.ID))
		}
		return line, false, err
	}
	return newSecretLine(state), !state.Credential.NextKey.IsZero(), nil
}

func checkExportable(s credstore.State) error {
	switch {
	case s.Intent != nil:
		return &NotPossibleError{s.Connection.Name, "has a refresh of unknown outcome, so its refresh token may have been used"}
	case !s.Credential.RejectedAt.IsZero():
		return &NotPossibleError{s.Connection.Name, "has a rejected refresh token"}
	}
	return nil
}

func exportWhenFree(ctx context.Context, store Store, id string) (credstore.State, error) {
	for deadline := time.Now().Add(exportTimeout); ; {
		state, err := store.Export(ctx, id)
		if !errors.Is(err, credstore.ErrBusy) || time.Now().After(deadline) {
			return state, err
		}
		if err := sleep(ctx, minPollInterval); err != nil {
			return state, err
		}
	}
}

func newSecretLine(s credstore.State) ConnectionLine {
	line, cred := NewConnectionLine(s.Connection), s.Credential
	line.RefreshToken, line.AccessToken, line.APIKey = cred.RefreshToken.Reveal(), cred.AccessToken.Reveal(), cred.APIKey.Reveal()
	expires := cred.ExpiresAt
	if s.Connection.Kind.IsKey() {
		expires = s.Connection.ExpiresAt
	}
	line.ExpiresAt = timeOrNull(expires)
	return line
}
