package refresh

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// factIntrospectionTrusted is the store's fact that introspection has called a token active
// that had just been received. It outlasts the process, since the question
// matters most right after a crash.
const factIntrospectionTrusted = "introspection_calibrated"

// introspectionTimeout bounds one question.
const introspectionTimeout = 10 * time.Second

// introspectionResult is what the oracle says of a refresh token.
type introspectionResult int

const (
	introspectionUnsupported introspectionResult = iota // there is no introspection
	introspectionFailed                                 // none now; ask again
	tokenActive
	tokenInactive
	tokenUntrusted // it says so, but is not trusted
)

// introspection asks the authorization server's introspection (RFC 7662) about refresh
// tokens; that spends nothing. Its "inactive" counts only once it has called a
// token active that had just been received: a server that knows access tokens
// alone would call every refresh token inactive.
type introspection struct {
	server AuthorizationServer
	store  credstore.Store

	mu      sync.Mutex // guards trusted and asking
	trusted bool
	asking  bool // a calibration is under way, or introspection does not exist
}

func newIntrospection(server AuthorizationServer, store credstore.Store) *introspection {
	return &introspection{server: server, store: store}
}

// ask says whether the refresh token can still be presented.
func (o *introspection) ask(ctx context.Context, token credstore.Secret) introspectionResult {
	ctx, cancel := context.WithTimeout(ctx, introspectionTimeout)
	defer cancel()
	active, err := o.server.Active(ctx, token, "refresh_token")
	switch {
	case err != nil:
		return unanswered(err)
	case active:
		return tokenActive
	case o.isTrusted(ctx):
		return tokenInactive
	}
	return tokenUntrusted
}

// unanswered tells a server without introspection for us from one that could not
// answer this time.
func unanswered(err error) introspectionResult {
	var refused *pleo.ResponseError
	if errors.Is(err, pleo.ErrIntrospectionUnsupported) || errors.As(err, &refused) && refused.Class != pleo.RateLimited {
		return introspectionUnsupported
	}
	return introspectionFailed
}

func (o *introspection) isTrusted(ctx context.Context) bool {
	o.mu.Lock()
	trusted := o.trusted
	o.mu.Unlock()
	if trusted {
		return true
	}
	fact, err := o.store.Changes.Fact(ctx, factIntrospectionTrusted)
	return err == nil && fact != ""
}

// calibrate asks, once, about a token that has just been received.
func (o *introspection) calibrate(token credstore.Secret) {
	if !o.first() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), introspectionTimeout)
	defer cancel()
	if o.isTrusted(ctx) {
		o.conclude(true, true)
		return
	}
	active, err := o.server.Active(ctx, token, "refresh_token")
	if err == nil && active {
		err = o.store.Changes.SetFact(ctx, factIntrospectionTrusted, time.Now().UTC().Format(time.RFC3339))
	}
	o.conclude(err == nil && active, errors.Is(err, pleo.ErrIntrospectionUnsupported))
}

// first reports whether a calibration is needed, and reserves it.
func (o *introspection) first() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.trusted || o.asking {
		return false
	}
	o.asking = true
	return true
}

// conclude ends a calibration; the next refresh begins another unless it was
// final.
func (o *introspection) conclude(trusted, final bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.trusted = trusted
	o.asking = final
}
