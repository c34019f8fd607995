package refresh

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

// AuthorizationServer is Pleo's token endpoint and its introspection, as
// [pleo.AuthorizationServer] calls them. An error of Refresh is a
// *pleo.NotSentError, *pleo.ResponseError or *pleo.UnknownOutcomeError.
type AuthorizationServer interface {
	Refresh(ctx context.Context, refreshToken credstore.Secret) (pleo.Tokens, error)
	Active(ctx context.Context, token credstore.Secret, hint string) (bool, error)
}

// API checks credentials, as [pleo.API] does.
type API interface {
	Introspect(ctx context.Context, authorization credstore.Secret) (pleo.Identity, error)
}

// Spool keeps token pairs that the store has not saved, as [spool.Dir] does.
type Spool interface {
	Reserve(parent credstore.Parent) (spool.Record, error)
	Abandoned(parent credstore.Parent) bool
	Replay(ctx context.Context, store spool.Store, log *zap.Logger, unsaved func(int)) error
	Replayed() <-chan struct{}
}

// Config is the configuration of a [Manager].
type Config struct {
	Store  Store               // required; see StoreOf
	Server AuthorizationServer // nil: OAuth is not configured, and no token is refreshed
	API    API                 // nil: companies are not found out and 401s not checked
	Spool  Spool               // required when Server is set

	// OtherEnvironment is the API of Pleo's other environment, to recognize its keys.
	// Nil: they are only called unauthorized.
	OtherEnvironment API

	// HighWaterMark detects a store that was restored from a backup. Nil: none is
	// detected.
	HighWaterMark *rollback.Mark

	// Shared says that other processes may use the store at the same time. What all of
	// them might do at once is spread then. A store that has lost what it had confirmed,
	// as one does that fails over to a lagging replica, is put into use at once: each
	// token in it is introspected before it is sent.
	Shared bool

	// Owner names this process in leases and intents. Required; never used by another
	// process, or by this one after a restart.
	Owner string

	// BeforeExpiry is how long ahead of its expiry a token is refreshed, but never
	// more than a fifth of its life. 0 means that it is refreshed when it expires.
	BeforeExpiry time.Duration
	// Wait is how long a request waits for a credential. 0 means not at all.
	Wait time.Duration

	Logger     *zap.Logger           // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are not registered
	Now        func() time.Time      // nil: time.Now
	// Jitter returns a random part of a delay, so that connections do not retry in
	// step. Nil: uniformly from 0 up to the delay.
	Jitter func(delay time.Duration) time.Duration
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.N[time.Duration]
	}
	return c
}
