package manage

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// failingKeys fails to set keys with an error.
type failingKeys struct{ err error }

func (k failingKeys) SetKey(context.Context, apikey.Change) (credstore.Connection, error) {
	return credstore.Connection{}, k.err
}

// TestSetKeyValidation checks that a key that cannot be right is not sent to Pleo.
func TestSetKeyValidation(t *testing.T) {
	key := credstore.NewSecret("key")
	keyed := credstore.Connection{Name: "acme", Kind: credstore.StandaloneKey, Version: 1}
	pending := credstore.Connection{Name: "acme", Kind: credstore.StandaloneKey}
	now := time.Unix(1e9, 0)
	for _, tt := range []struct {
		name        string
		conn        credstore.Connection
		key         NewKey
		notPossible bool // else it is not valid
	}{
		{"kind oauth", credstore.Connection{Kind: credstore.OAuth}, NewKey{Key: key}, true},
		{"key in the configuration", credstore.Connection{Name: "config", Kind: credstore.StandaloneKey}, NewKey{Key: key}, true},
		{"next without a current key", pending, NewKey{Key: key, Next: true}, true},
		{"no key", keyed, NewKey{}, false},
		{"line break", keyed, NewKey{Key: credstore.NewSecret("a\nb")}, false},
		{"next key of another company", keyed, NewKey{Key: key, Next: true, AllowOtherCompany: true}, false},
		{"expired", keyed, NewKey{Key: key, ExpiresAt: now}, false},
	} {
		o := &Operator{
			Keys: failingKeys{errors.New("the key was sent")}, InConfig: func(name string) bool { return name == "config" },
			Now: func() time.Time { return now },
		}
		_, err := o.SetKey(t.Context(), tt.conn, tt.key)
		var (
			invalid     *InvalidError
			notPossible *NotPossibleError
		)
		if errors.As(err, &notPossible) != tt.notPossible || errors.As(err, &invalid) == tt.notPossible {
			t.Errorf("%s: SetKey = %v", tt.name, err)
		}
	}
}

// TestSetKeyErrors checks that only an API that could not be asked is a
// [KeyCheckError].
func TestSetKeyErrors(t *testing.T) {
	conn := credstore.Connection{Kind: credstore.StandaloneKey, Version: 1}
	for _, tt := range []struct {
		err         error
		wantChecked bool
	}{
		{pleo.ErrUnauthorized, true},
		{apikey.ErrSameKey, true},
		{apikey.ErrWrongEnvironment, true},
		{credstore.ErrUnavailable, true},
		{&credstore.OtherCompanyError{}, true},
		{&pleo.StatusError{Status: 500}, false},
		{errors.New("timed out"), false},
	} {
		_, err := (&Operator{Keys: failingKeys{tt.err}}).SetKey(t.Context(), conn, NewKey{Key: credstore.NewSecret("key")})
		var failed *KeyCheckError
		if !errors.Is(err, tt.err) || errors.As(err, &failed) == tt.wantChecked {
			t.Errorf("SetKey = %#v, want %v, wrapped unless Pleo has checked the key", err, tt.err)
		}
	}
}
