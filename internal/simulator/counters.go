package simulator

import (
	"maps"
	"sync"
)

// Counters is what the simulator has counted since it started or since the
// counters were reset. Tokens appear as the SHA-256 of their value in
// hexadecimal.
type Counters struct {
	// TokenRequests, Introspections (of the authorization server) and
	// APIRequests count responses by status code, or by how the connection was
	// closed: "dropped", "reset", "cut", "cut_reset".
	TokenRequests  map[string]int `json:"token_requests"`
	Introspections map[string]int `json:"introspections"`
	APIRequests    map[string]int `json:"api_requests"`

	Refreshes  int `json:"refreshes"`  // committed, with or without a response
	Rejections int `json:"rejections"` // of refresh tokens
	Exchanges  int `json:"exchanges"`  // of codes

	// APIIntrospections counts GET /v1/introspect, whatever the response.
	APIIntrospections int `json:"api_introspections"`
	// WrongCompany counts API requests that named another company than that of
	// their credential.
	WrongCompany int `json:"wrong_company"`
	// AuthorizationNotOnce counts API requests without, or with more than one,
	// Authorization header field.
	AuthorizationNotOnce int `json:"authorization_not_once"`

	// MaxTimesSent is the highest TimesSent of all refresh tokens.
	MaxTimesSent int `json:"max_times_sent"`

	RefreshTokens map[string]TokenCounters `json:"refresh_tokens"` // hash → counters
	Grants        map[string]GrantCounters `json:"grants"`         // id → counters
	Keys          map[string]GrantCounters `json:"keys"`           // id → counters
}

// TokenCounters counts what happened to one refresh token.
type TokenCounters struct {
	Grant          string `json:"grant,omitempty"` // empty: never issued here
	State          string `json:"state"`           // active, used, expired, revoked or unknown
	TimesSent      int    `json:"times_sent"`      // to the token endpoint, with or without a response
	Introspections int    `json:"introspections"`
}

// GrantCounters counts what happened to one grant or key.
type GrantCounters struct {
	RefreshTokensSent    int            `json:"refresh_tokens_sent"`
	Refreshes            int            `json:"refreshes"`
	Introspections       int            `json:"introspections"`
	APIRequests          map[string]int `json:"api_requests"` // by status code
	MaxRefreshesInFlight int            `json:"max_refreshes_in_flight"`
	MaxAPIInFlight       int            `json:"max_api_in_flight"`
	WrongCompany         int            `json:"wrong_company"`

	refreshesInFlight int
	apiInFlight       int
}

// counts holds the counters. It is safe for concurrent use.
type counts struct {
	mu sync.Mutex // guards c and the values of the maps
	c  Counters
	// tokens and grants become the maps of c in a snapshot. Keys are among the
	// grants.
	tokens map[string]*TokenCounters
	grants map[string]*GrantCounters
}

func newCounts() *counts {
	c := &counts{}
	c.reset()
	return c
}

// reset sets all counters to zero, except for requests in flight.
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

// beginRefresh counts a refresh token that was sent. The caller calls end when the
// request has been handled.
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

// refreshed counts the result of a refresh.
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

// introspected counts a token introspection.
func (c *counts) introspected(hash string, t tokenInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.kind != "access_token" {
		c.token(hash, t.grant).Introspections++
	}
	if t.grant != "" {
		c.grant(t.grant).Introspections++
	}
}

// beginAPI counts an API request with the credential of a grant or key; id is
// empty if the credential is unknown. The caller calls end with the outcome.
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

// wrongCompany counts a request with the credential of another company.
func (c *counts) wrongCompany(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.WrongCompany++
	if id != "" {
		c.grant(id).WrongCompany++
	}
}

// snapshot copies the counters. isKey distinguishes keys from grants.
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
