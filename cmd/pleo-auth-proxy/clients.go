package main

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
		hash, err := tokenHash(c, fmt.Sprintf("proxy.clients[%d].token_file", i), log)
		if err != nil {
			wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(fmt.Sprintf("proxy.clients[%d].token_file", i), err))
			continue
		}
		clients = append(clients, proxy.Client{Name: c.Name, TokenHash: hash, Connections: c.Connections, Allow: rulesOf(c)})
	}
	if len(wrong.Mistakes) > 0 {
		return nil, &wrong
	}
	return clients, nil
}

// rulesOf keeps the difference between no list and an empty one.
func rulesOf(c config.Client) []proxy.Rule {
	if c.Allow == nil {
		return nil
	}
	rules := make([]proxy.Rule, 0, len(c.Allow))
	for _, r := range c.Allow {
		rules = append(rules, proxy.Rule{Methods: r.Methods, Paths: r.Paths})
	}
	return rules
}

func tokenHash(c config.Client, key string, log *zap.Logger) (func() [sha256.Size]byte, error) {
	if c.Token.IsZero() {
		return func() [sha256.Size]byte { return c.TokenHash }, nil
	}
	reader, err := c.Token.Open()
	if err != nil {
		return nil, err
	}
	return cachedHash(secretFile(key, reader, log), time.Now), nil
}

// fileCheckInterval is how often a file may be looked at that every request depends
// on.
const fileCheckInterval = time.Second

// cachedHash returns the hash of a token, which it asks for at most once in
// fileCheckInterval.
func cachedHash(token func() credstore.Secret, now func() time.Time) func() [sha256.Size]byte {
	type hashed struct {
		sum [sha256.Size]byte
		at  time.Time
	}
	var current atomic.Pointer[hashed]
	return func() [sha256.Size]byte {
		if h := current.Load(); h != nil && now().Sub(h.at) < fileCheckInterval {
			return h.sum
		}
		h := &hashed{sum: sha256.Sum256([]byte(token().Reveal())), at: now()}
		current.Store(h)
		return h.sum
	}
}
