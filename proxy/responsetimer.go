package proxy

import (
	"math"
	"sync"
	"time"
)

// responseTimer calls late when the API has had a request, or as much of it as there
// is, for longer than the timeout without answering. Waiting for the client does
// not count. Each attempt has a clock of its own.
type responseTimer struct {
	timeout   time.Duration
	onTimeout func()
	timer     *time.Timer

	mu      sync.Mutex // guards the fields below
	stopped bool
	paused  bool // waiting for the client
}

// startResponseTimer begins the wait for the head of an answer.
func startResponseTimer(timeout time.Duration, late func()) *responseTimer {
	if timeout == 0 {
		timeout = math.MaxInt64
	}
	c := &responseTimer{timeout: timeout, onTimeout: late}
	c.mu.Lock() // orders the assignment before fire
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(timeout, c.fire)
	return c
}

// stop ends it for good.
func (c *responseTimer) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.timer.Stop()
}

func (c *responseTimer) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = true
	c.timer.Stop()
}

func (c *responseTimer) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = false
	if !c.stopped {
		c.timer.Reset(c.timeout)
	}
}

// fire looks again, since a timer that has fired cannot be stopped any more.
func (c *responseTimer) fire() {
	c.mu.Lock()
	late := !c.stopped && !c.paused
	c.mu.Unlock()
	if late {
		c.onTimeout()
	}
}
