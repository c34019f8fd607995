package upstream

import (
	"slices"
	"sync"
	"time"
)

// pool holds the idle connections.
type pool struct {
	size        int           // of idle connections
	idleTimeout time.Duration // a connection is closed when it was not used for so long,
	maxAge      time.Duration // and when it is so old

	mu     sync.Mutex  // guards the fields below
	conns  []*conn     // the one used last at the end
	timer  *time.Timer // for prune; nil while no connection is idle
	closed bool        // connections are not taken back
}

// get returns a connection that can be used, nil if there is none. The one used
// last comes first, so that the others can grow idle.
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
		// What the server sends while no request is under way is not a response.
		if !p.expired(c, time.Now()) && !c.ready() {
			return c
		}
		c.close()
	}
}

// put takes a connection back, or closes it.
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

// close closes all idle connections, and the others when they are put back.
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
