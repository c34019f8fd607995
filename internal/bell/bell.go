// Package bell wakes goroutines that wait for something to have happened.
package bell

import "sync"

// Bell wakes all who wait for it. The zero Bell is ready. Its methods may be called
// by several goroutines at once.
type Bell struct {
	mu   sync.Mutex    // guards rung
	rung chan struct{} // closed by Ring; nil while nobody waits
}

// Next returns a channel that the next Ring closes.
func (b *Bell) Next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung == nil {
		b.rung = make(chan struct{})
	}
	return b.rung
}

// Ring closes the channels that Next has returned.
func (b *Bell) Ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung != nil {
		close(b.rung)
		b.rung = nil
	}
}
