package manage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// fakeStore is a store that creates connections and keeps none.
type fakeStore struct {
	Store
	create  func(credstore.NewConnection) error // nil: creates all
	created int                                 // calls of Create
}

func (s *fakeStore) Create(_ context.Context, n credstore.NewConnection) (credstore.Connection, error) {
	s.created++
	c := credstore.Connection{Name: n.Name, CompanyID: n.Company.ID}
	if s.create == nil {
		return c, nil
	}
	return c, s.create(n)
}

// unreachableAPI counts how often it is called.
type unreachableAPI struct {
	API
	calls int
}

func (a *unreachableAPI) Introspect(context.Context, credstore.Secret) (pleo.Identity, error) {
	a.calls++
	return pleo.Identity{}, &url.Error{Op: "Get", Err: errors.New("connection refused")}
}

// TestImportStopsCheckingUnreachableAPI: a long import must not wait for a timeout
// at each line.
func TestImportStopsCheckingUnreachableAPI(t *testing.T) {
	api := &unreachableAPI{}
	a := (&Operator{Store: &fakeStore{}, API: api}).adder(false)
	for i := range 100 {
		_, warning, err := a.add(t.Context(), credstore.NewConnection{
			Name: fmt.Sprint("c", i), Kind: credstore.StandaloneKey,
			Credential: &credstore.NewCredential{APIKey: credstore.NewSecret("k")},
		})
		if err != nil || warning == "" {
			t.Fatalf("add = %q, %v; want a warning and no error", warning, err)
		}
	}
	if api.calls != maxUnreachable {
		t.Errorf("the API was called %d times, want %d", api.calls, maxUnreachable)
	}
}

func TestAddDoesNotCheckExpiredToken(t *testing.T) {
	api := &unreachableAPI{}
	now := time.Unix(1e9, 0)
	o := &Operator{Store: &fakeStore{}, API: api, Now: func() time.Time { return now }}
	_, warning, err := o.Add(t.Context(), credstore.NewConnection{
		Name: "c", Kind: credstore.OAuth,
		Credential: &credstore.NewCredential{
			RefreshToken: credstore.NewSecret("r"), AccessToken: credstore.NewSecret("a"), ExpiresAt: now,
		},
	}, false)
	if err != nil || warning != "" || api.calls != 0 {
		t.Errorf("Add = %q, %v after %d calls of the API; want no warning, error or call", warning, err, api.calls)
	}
}
