package refresh

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// factIntrospectionTrusted is the fact in the store that introspection has called a
// token active that had just been received. It outlives the process, since the
// results matter most right after a crash.
const factIntrospectionTrusted = "introspection_calibrated"

const introspectionTimeout = 10 * time.Second

// introspectionResult is what token introspection says about a refresh token.
type introspectionResult int

const (
	introspectionUnsupported introspectionResult = iota // the server does not offer it to this client
	introspectionFailed                                 // this time; try again
	tokenActive
	tokenInactive
	tokenUntrusted // inactive, but introspection is not trusted
)

// introspection asks the authorization server about refresh tokens (RFC 7662),
// which does not exchange them. "Inactive" is trusted only after the server has
// called a token active that had just been received: a server that knows access
// tokens only would call every refresh token inactive.
type introspection struct {
	server AuthorizationServer
	facts  factStore

	trusted     atomic.Bool
	unsupported atomic.Bool // so that there is nothing to calibrate
	calibrating sync.Mutex
}

// check says whether the refresh token can still be sent.
func (i *introspection) check(ctx context.Context, token credstore.Secret) introspectionResult {
	ctx, cancel := context.WithTimeout(ctx, introspectionTimeout)
	defer cancel()
	active, err := i.server.Active(ctx, token, "refresh_token")
	switch {
	case err != nil:
		return resultOfError(err)
	case active:
		return tokenActive
	case i.isTrusted(ctx):
		return tokenInactive
	}
	return tokenUntrusted
}

// resultOfError tells a server that does not support introspection from one that
// could not respond this time.
func resultOfError(err error) introspectionResult {
	var response *pleo.ResponseError
	if errors.Is(err, pleo.ErrIntrospectionUnsupported) || errors.As(err, &response) && response.Class != pleo.RateLimited {
		return introspectionUnsupported
	}
	return introspectionFailed
}

func (i *introspection) isTrusted(ctx context.Context) bool {
	if i.trusted.Load() {
		return true
	}
	fact, err := i.facts.Fact(ctx, factIntrospectionTrusted)
	return err == nil && fact != ""
}

// calibrate introspects a token that has just been received, unless introspection
// is trusted already, or is being calibrated.
func (i *introspection) calibrate(token credstore.Secret) {
	if i.trusted.Load() || i.unsupported.Load() || !i.calibrating.TryLock() {
		return
	}
	defer i.calibrating.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), introspectionTimeout)
	defer cancel()
	if i.isTrusted(ctx) {
		i.trusted.Store(true)
		return
	}
	active, err := i.server.Active(ctx, token, "refresh_token")
	i.unsupported.Store(errors.Is(err, pleo.ErrIntrospectionUnsupported))
	if err == nil && active {
		err = i.facts.SetFact(ctx, factIntrospectionTrusted, time.Now().UTC().Format(time.RFC3339))
		i.trusted.Store(err == nil)
	}
}
