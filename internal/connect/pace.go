package connect

import (
	"sync"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// A link can be tried so often within a window of time: a person does not try
// more often, and each try costs Pleo a question.
const (
	triesAtMost = 10
	triesWithin = time.Minute
)

// pace counts tries, in this process alone: it is there to keep one person with
// a link from being a nuisance, and not to guard a secret.
type pace struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	since time.Time  // when the window began
	tries map[credstore.Hash]int
}

func newPace(now func() time.Time) *pace {
	return &pace{now: now, since: now(), tries: map[credstore.Hash]int{}}
}

// allow counts a try of the link and reports whether it may be made.
func (p *pace) allow(token credstore.Secret) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.now(); now.Sub(p.since) >= triesWithin {
		p.since = now
		clear(p.tries)
	}
	hash := token.Hash()
	p.tries[hash]++
	return p.tries[hash] <= triesAtMost
}
