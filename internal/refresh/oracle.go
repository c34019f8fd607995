package refresh

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

// factOracle is the store's fact that introspection has called a token active
// that had just been received. It outlasts the process, since the question
// matters most right after a crash.
const factOracle = "introspection_calibrated"

// oracleTimeout bounds one question.
const oracleTimeout = 10 * time.Second

// answer is what the oracle says of a refresh token.
type answer int

const (
	nobodyKnows answer = iota // there is no introspection
	noAnswer                  // none now; ask again
	alive
	dead
	perhapsDead // it says so, but is not trusted
)

// oracle asks the authorization server's introspection (RFC 7662) about refresh
// tokens; that spends nothing. Its "inactive" counts only once it has called a
// token active that had just been received: a server that knows access tokens
// alone would call every refresh token inactive.
type oracle struct {
	server AuthorizationServer
	store  credstore.Store

	mu      sync.Mutex // guards trusted and asking
	trusted bool
	asking  bool // a calibration is under way, or introspection does not exist
}

func newOracle(server AuthorizationServer, store credstore.Store) *oracle {
	return &oracle{server: server, store: store}
}

// ask says whether the refresh token can still be presented.
func (o *oracle) ask(ctx context.Context, token credstore.Secret) answer {
	ctx, cancel := context.WithTimeout(ctx, oracleTimeout)
	defer cancel()
	active, err := o.server.Active(ctx, token, "refresh_token")
	switch {
	case err != nil:
		return unanswered(err)
	case active:
		return alive
	case o.isTrusted(ctx):
		return dead
	}
	return perhapsDead
}

// unanswered tells a server without introspection for us from one that could not
// answer this time.
func unanswered(err error) answer {
	var refused *pleo.ResponseError
	if errors.Is(err, pleo.ErrIntrospectionUnsupported) || errors.As(err, &refused) && refused.Class != pleo.RateLimited {
		return nobodyKnows
	}
	return noAnswer
}

func (o *oracle) isTrusted(ctx context.Context) bool {
	o.mu.Lock()
	trusted := o.trusted
	o.mu.Unlock()
	if trusted {
		return true
	}
	fact, err := o.store.Fact(ctx, factOracle)
	return err == nil && fact != ""
}

// calibrate asks, once, about a token that has just been received.
func (o *oracle) calibrate(token credstore.Secret) {
	if !o.first() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), oracleTimeout)
	defer cancel()
	if o.isTrusted(ctx) {
		o.conclude(true, true)
		return
	}
	active, err := o.server.Active(ctx, token, "refresh_token")
	if err == nil && active {
		err = o.store.SetFact(ctx, factOracle, time.Now().UTC().Format(time.RFC3339))
	}
	o.conclude(err == nil && active, errors.Is(err, pleo.ErrIntrospectionUnsupported))
}

// first reports whether a calibration is needed, and reserves it.
func (o *oracle) first() bool {
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
func (o *oracle) conclude(trusted, final bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.trusted = trusted
	o.asking = final
}
