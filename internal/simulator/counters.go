package simulator

import (
	"maps"
	"sync"
)

// Counters is what the simulator has seen since it started or since the
// counters were reset. Tokens appear by the SHA-256 of their value, in
// hexadecimal.
type Counters struct {
	// TokenRequests, Introspections (of the authorization server) and
	// APIRequests count answers by status, or by how the connection was ended:
	// "dropped", "reset", "cut", "cutreset".
	TokenRequests  map[string]int `json:"token_requests"`
	Introspections map[string]int `json:"introspections"`
	APIRequests    map[string]int `json:"api_requests"`

	Refreshes  int `json:"refreshes"` // rotations that were committed, answered or not
	Rejections int `json:"refusals"`  // refresh tokens that were refused
	Exchanges  int `json:"exchanges"` // codes that were redeemed

	// APIIntrospections counts GET /v1/introspect, however it was answered.
	APIIntrospections int `json:"api_introspections"`
	// WrongCompany counts API requests that named a company that their
	// credential does not belong to.
	WrongCompany int `json:"wrong_company"`
	// AuthorizationNotOnce counts API requests with no or several Authorization
	// header fields.
	AuthorizationNotOnce int `json:"authorization_not_once"`

	// MaxTimesSent of any one refresh token.
	MaxTimesSent int `json:"most_presentations"`

	RefreshTokens map[string]TokenCounters `json:"refresh_tokens"` // hash → counts
	Grants        map[string]GrantCounters `json:"grants"`         // id → counts
	Keys          map[string]GrantCounters `json:"keys"`           // id → counts
}

// TokenCounters is what happened to one refresh token.
type TokenCounters struct {
	Grant          string `json:"grant,omitempty"` // empty: never issued here
	State          string `json:"state"`           // active, spent, expired, revoked or unknown
	TimesSent      int    `json:"presentations"`   // in token requests, answered or not
	Introspections int    `json:"introspections"`
}

// GrantCounters is what happened to one grant, or with one key.
type GrantCounters struct {
	RefreshTokensSent    int            `json:"presentations"` // of any of its refresh tokens
	Refreshes            int            `json:"refreshes"`
	Introspections       int            `json:"introspections"`
	APIRequests          map[string]int `json:"api_requests"` // by status
	MaxRefreshesInFlight int            `json:"most_refreshes_in_flight"`
	MaxAPIInFlight       int            `json:"most_api_in_flight"`
	WrongCompany         int            `json:"wrong_company"`

	refreshesInFlight int
	apiInFlight       int
}

// counts keeps the counters. All methods may be called at once.
type counts struct {
	mu sync.Mutex // guards c and the values of its maps
	c  Counters
	// tokens and grants hold what c's maps show; keys lie among the grants.
	tokens map[string]*TokenCounters
	grants map[string]*GrantCounters
}

func newCounts() *counts {
	c := &counts{}
	c.reset()
	return c
}

// reset sets all counters to zero, but for what is in flight.
func (c *counts) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.grants
	c.c = Counters{TokenRequests: map[string]int{}, Introspections: map[string]int{}, APIRequests: map[string]int{}}
	c.tokens, c.grants = map[string]*TokenCounters{}, map[string]*GrantCounters{}
	for id, g := range before {
		if g.refreshesInFlight+g.apiInFlight > 0 {
			now := c.grant(id)
			now.refreshesInFlight, now.apiInFlight = g.refreshesInFlight, g.apiInFlight
		}
	}
}

// update changes the counters under the lock.
func (c *counts) update(change func(*Counters)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.c)
}

// grant returns the counters of a grant or key; the caller holds the lock.
func (c *counts) grant(id string) *GrantCounters {
	g := c.grants[id]
	if g == nil {
		g = &GrantCounters{APIRequests: map[string]int{}}
		c.grants[id] = g
	}
	return g
}

func (c *counts) token(hash, grant string) *TokenCounters {
	t := c.tokens[hash]
	if t == nil {
		t = &TokenCounters{Grant: grant}
		c.tokens[hash] = t
	}
	return t
}

// beginRefresh counts the presentation of a refresh token. The returned
// function is called when it has been answered.
func (c *counts) beginRefresh(hash, grant string) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.token(hash, grant)
	t.TimesSent++
	c.c.MaxTimesSent = max(c.c.MaxTimesSent, t.TimesSent)
	if grant == "" {
		return func() {}
	}
	g := c.grant(grant)
	g.RefreshTokensSent++
	g.refreshesInFlight++
	g.MaxRefreshesInFlight = max(g.MaxRefreshesInFlight, g.refreshesInFlight)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.grant(grant).refreshesInFlight--
	}
}

// refreshed counts what became of a refresh.
func (c *counts) refreshed(grant string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.c.Rejections++
		return
	}
	c.c.Refreshes++
	c.grant(grant).Refreshes++
}

// introspected counts a question of the authorization server about a token.
func (c *counts) introspected(hash string, h owner, refresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if refresh {
		c.token(hash, h.grant).Introspections++
	}
	if h.grant != "" {
		c.grant(h.grant).Introspections++
	}
}

// beginAPI counts an API request of a grant or key; id is empty where the
// request proves neither. The returned function is called with its outcome.
func (c *counts) beginAPI(id string) (end func(outcome string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id != "" {
		g := c.grant(id)
		g.apiInFlight++
		g.MaxAPIInFlight = max(g.MaxAPIInFlight, g.apiInFlight)
	}
	return func(outcome string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.c.APIRequests[outcome]++
		if id != "" {
			g := c.grant(id)
			g.apiInFlight--
			g.APIRequests[outcome]++
		}
	}
}

// wrongCompany counts a request with a credential of another company.
func (c *counts) wrongCompany(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.WrongCompany++
	if id != "" {
		c.grant(id).WrongCompany++
	}
}

// snapshot copies the counters. isKey tells the ids of keys from those of
// grants.
func (c *counts) snapshot(isKey func(id string) bool) Counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.c
	s.TokenRequests = maps.Clone(s.TokenRequests)
	s.Introspections = maps.Clone(s.Introspections)
	s.APIRequests = maps.Clone(s.APIRequests)
	s.RefreshTokens = make(map[string]TokenCounters, len(c.tokens))
	s.Grants, s.Keys = map[string]GrantCounters{}, map[string]GrantCounters{}
	for hash, t := range c.tokens {
		s.RefreshTokens[hash] = *t
	}
	for id, g := range c.grants {
		copied := *g
		copied.APIRequests = maps.Clone(g.APIRequests)
		if isKey(id) {
			s.Keys[id] = copied
			continue
		}
		s.Grants[id] = copied
	}
	return s
}
