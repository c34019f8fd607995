package manage

import (
	"context"
	"errors"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// NewKey is an API key for a connection.
type NewKey struct {
	Key       credstore.Secret
	Next      bool      // stages the key: it replaces the current one once Pleo rejects it
	ExpiresAt time.Time // zero: unknown

	AllowOtherCompany  bool // the connection may move to another company
	AllowSharedCompany bool // the company may have another connection
}

// SetKey stores an API key that Pleo accepts. It returns an *[InvalidError], a
// *[NotPossibleError], the errors of [refresh.Manager.SetKey] about a key that was
// rejected, or a *[KeyCheckError] if Pleo could not be asked. After an error the
// connection has the credential that it had before.
func (o *Operator) SetKey(ctx context.Context, c credstore.Connection, k NewKey) (credstore.Connection, error) {
	switch {
	case o.InConfig != nil && o.InConfig(c.Name):
		return c, configKeyError(c.Name)
	case !c.Kind.IsKey():
		return c, &NotPossibleError{c.Name, "is of kind oauth and has no API key: the customer connects it with a connect link"}
	case k.Key.IsZero():
		return c, invalid("the API key is missing")
	case !k.Key.Sendable():
		return c, ErrNotSendable
	case k.Next && (k.AllowOtherCompany || k.AllowSharedCompany):
		return c, invalid("the next key must belong to the same company, so it does not go with permission for another or a shared one")
	case k.Next && c.Version == 0:
		return c, &NotPossibleError{c.Name, "has no key yet that a next key could replace"}
	case !k.ExpiresAt.IsZero() && !k.ExpiresAt.After(o.now()):
		return c, invalid("the expiry date is in the past")
	}
	after, err := o.Keys.SetKey(ctx, apikey.Change{
		ConnectionID: c.ID, Key: k.Key, Stage: k.Next, ExpiresAt: k.ExpiresAt,
		AllowOtherCompany: k.AllowOtherCompany, AllowSharedCompany: k.AllowSharedCompany,
	})
	switch {
	case err == nil:
		return after, nil
	case isKnownKeyError(err):
		return c, err
	}
	return c, &KeyCheckError{Err: err}
}

// isKnownKeyError reports whether err is about the key, the connection or the
// store, and not about an API that could not be asked.
func isKnownKeyError(err error) bool {
	var unavailable *refresh.Error
	return errors.As(err, &unavailable) || errors.Is(err, credstore.ErrUnavailable) || errors.Is(err, context.Canceled) || Explain(err) != nil
}

// configKeyError is returned for a connection whose key is in the configuration.
func configKeyError(name string) error {
	return &NotPossibleError{name, "has its key in the configuration (connections), which takes precedence: replace it there"}
}
