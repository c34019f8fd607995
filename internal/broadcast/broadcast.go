// Package broadcast wakes goroutines that wait for a change.
package broadcast

import "sync"

// Signal wakes all who wait for it. The zero Bell is ready. Its methods may be called
// by several goroutines at once.
type Signal struct {
	mu   sync.Mutex    // guards rung
	rung chan struct{} // closed by Ring; nil while nobody waits
}

// Wait returns a channel that the next Ring closes.
func (b *Signal) Wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung == nil {
		b.rung = make(chan struct{})
	}
	return b.rung
}

// Broadcast closes the channels that Next has returned.
func (b *Signal) Broadcast() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung != nil {
		close(b.rung)
		b.rung = nil
	}
}
