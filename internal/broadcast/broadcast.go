// Package broadcast wakes goroutines that wait for a change.
package broadcast

import "sync"

// Signal wakes every goroutine that waits for it. The zero Signal is ready to use. It
// is safe for concurrent use.
type Signal struct {
	mu   sync.Mutex    // guards next
	next chan struct{} // closed by Broadcast; nil if there are no waiters
}

// Wait returns a channel that the next Broadcast closes.
func (s *Signal) Wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(chan struct{})
	}
	return s.next
}

// Broadcast closes the channels that Wait has returned.
func (s *Signal) Broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		close(s.next)
		s.next = nil
	}
}
