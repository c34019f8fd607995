package setup

import (
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/proxy"
)

// openClients returns the clients in the configuration. Its error is a *config.Error
// with every token file that cannot be used.
func openClients(cfg *config.Config, log *zap.Logger) ([]proxy.Client, error) {
	var (
		clients []proxy.Client
		wrong   config.Error
	)
	for i, c := range cfg.Proxy.Clients {
		hash, err := tokenHash(cfg, c, fmt.Sprintf("proxy.clients[%d].token", i), log)
		if err := wrong.Add(err); err != nil {
			return nil, err
		}
		clients = append(clients, proxy.Client{Name: c.Name, TokenHash: hash, Connections: c.Connections, Allow: rulesOf(c)})
	}
	return clients, wrong.AsError()
}

// rulesOf returns nil for a list that is left out, which allows everything, and an
// empty list for an empty one, which allows nothing.
func rulesOf(c config.Client) []proxy.Rule {
	if c.Allow == nil {
		return nil
	}
	rules := make([]proxy.Rule, 0, len(c.Allow))
	for _, r := range c.Allow {
		rules = append(rules, proxy.Rule(r))
	}
	return rules
}

func tokenHash(cfg *config.Config, c config.Client, key string, log *zap.Logger) (func() [sha256.Size]byte, error) {
	if c.Token.IsZero() {
		return func() [sha256.Size]byte { return c.TokenHash }, nil
	}
	token, err := openSecret(cfg, key, c.Token, log)
	if err != nil {
		return nil, err
	}
	return cachedHash(token, time.Now), nil
}

// fileCheckInterval is how often a file that every request depends on is checked
// for changes.
const fileCheckInterval = time.Second

// cachedHash returns the hash of a token, which it reads at most once per
// fileCheckInterval.
func cachedHash(token func() credstore.Secret, now func() time.Time) func() [sha256.Size]byte {
	type entry struct {
		sum [sha256.Size]byte
		at  time.Time
	}
	var current atomic.Pointer[entry]
	return func() [sha256.Size]byte {
		if e := current.Load(); e != nil && now().Sub(e.at) < fileCheckInterval {
			return e.sum
		}
		e := &entry{sum: sha256.Sum256([]byte(token().Reveal())), at: now()}
		current.Store(e)
		return e.sum
	}
}
