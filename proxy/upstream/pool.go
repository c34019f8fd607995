package upstream

import (
	"slices"
	"sync"
	"time"
)

// pool holds the idle connections.
type pool struct {
	size        int           // idle connections at most
	idleTimeout time.Duration // idle connections are closed after this time
	maxAge      time.Duration // connections are not reused after this time

	mu     sync.Mutex  // guards the fields below
	conns  []*conn     // the one used last is at the end
	timer  *time.Timer // calls prune; nil while there is no idle connection
	closed bool        // no more connections are put into it
}

// get returns a usable connection, nil if there is none. It prefers the one used
// last, so that those not needed expire.
func (p *pool) get() *conn {
	for {
		p.mu.Lock()
		if len(p.conns) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.conns[len(p.conns)-1]
		p.conns[len(p.conns)-1] = nil
		p.conns = p.conns[:len(p.conns)-1]
		p.mu.Unlock()
		// An idle connection with data is as unusable as a closed one: no request has
		// been sent to which the data could be a response.
		if !p.expired(c, time.Now()) && !c.ready() {
			return c
		}
		c.close()
	}
}

// put adds a connection, or closes it if it is not to be reused.
func (p *pool) put(c *conn) {
	c.idle = time.Now()
	p.mu.Lock()
	full := p.closed || len(p.conns) >= p.size || p.expired(c, c.idle)
	if !full {
		p.conns = append(p.conns, c)
		if p.timer == nil {
			p.timer = time.AfterFunc(p.idleTimeout, p.prune)
		}
	}
	p.mu.Unlock()
	if full {
		c.close()
	}
}

func (p *pool) expired(c *conn, now time.Time) bool {
	return now.Sub(c.born) >= p.maxAge || now.Sub(c.idle) >= p.idleTimeout
}

// prune closes the connections that have expired.
func (p *pool) prune() {
	now := time.Now()
	var expired []*conn
	p.mu.Lock()
	p.conns = slices.DeleteFunc(p.conns, func(c *conn) bool {
		if p.expired(c, now) {
			expired = append(expired, c)
			return true
		}
		return false
	})
	p.timer = nil
	if len(p.conns) > 0 {
		p.timer = time.AfterFunc(p.idleTimeout-now.Sub(p.conns[0].idle), p.prune)
	}
	p.mu.Unlock()
	for _, c := range expired {
		c.close()
	}
}

// close closes the idle connections, and further ones when they are put back.
func (p *pool) close() {
	p.mu.Lock()
	conns := p.conns
	p.conns, p.closed = nil, true
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	for _, c := range conns {
		c.close()
	}
}
