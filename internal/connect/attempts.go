package connect

import (
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// A link can be tried so often within a window of time: a person does not try
// more often, and each try costs Pleo a question.
const (
	maxAttempts   = 10
	attemptWindow = time.Minute
)

// attemptLimiter counts tries, in this process alone: it is there to keep one person with
// a link from being a nuisance, and not to guard a secret.
type attemptLimiter struct {
	now func() time.Time

	mu       sync.Mutex // guards what follows
	since    time.Time  // when the window began
	attempts map[credstore.Hash]int
}

func newAttemptLimiter(now func() time.Time) *attemptLimiter {
	return &attemptLimiter{now: now, since: now(), attempts: map[credstore.Hash]int{}}
}

// allow counts a try of the link and reports whether it may be made.
func (p *attemptLimiter) allow(token credstore.Secret) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.now(); now.Sub(p.since) >= attemptWindow {
		p.since = now
		clear(p.attempts)
	}
	hash := token.Hash()
	p.attempts[hash]++
	return p.attempts[hash] <= maxAttempts
}
