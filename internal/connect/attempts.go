package connect

import (
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// A person does not need more attempts with one link, and each of them costs a
// request to Pleo.
const (
	maxAttempts   = 10
	attemptWindow = time.Minute
)

// attemptLimiter limits the attempts with one link. It counts in this process only:
// it prevents nuisance and does not protect a secret.
type attemptLimiter struct {
	now func() time.Time

	mu       sync.Mutex // guards what follows
	since    time.Time  // when the window began
	attempts map[credstore.Hash]int
}

func newAttemptLimiter(now func() time.Time) *attemptLimiter {
	return &attemptLimiter{now: now, since: now(), attempts: map[credstore.Hash]int{}}
}

// allow counts an attempt with the link and reports whether it is allowed.
func (l *attemptLimiter) allow(token credstore.Secret) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.since) >= attemptWindow {
		l.since = now
		clear(l.attempts)
	}
	hash := token.Hash()
	l.attempts[hash]++
	return l.attempts[hash] <= maxAttempts
}
