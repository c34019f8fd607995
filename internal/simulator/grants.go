package simulator

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// tokenState is the state of a refresh token.
type tokenState string

const (
	tokenActive  tokenState = "active"
	tokenUsed    tokenState = "used"
	tokenExpired tokenState = "expired"
	tokenRevoked tokenState = "revoked"
	tokenUnknown tokenState = "unknown" // never issued here
)

// grant is one refresh-token family: what one consent gave to one client. While
// it is active it has one active refresh token; once it is revoked every token is
// invalid.
type grant struct {
	id        string
	clientID  string
	company   string // id
	scopes    []string
	createdAt time.Time
	reason    string // why it was revoked; empty while it is active

	accessLifetime  time.Duration
	refreshLifetime time.Duration

	refresh *refreshToken  // the active one; nil once the grant is revoked
	access  []*accessToken // not invalidated; may have expired
}

type refreshToken struct {
	hash      string
	grant     *grant
	state     tokenState
	issuedAt  time.Time
	expiresAt time.Time
	usedAt    time.Time
	graceUsed bool
}

type accessToken struct {
	hash      string
	grant     *grant
	killed    bool
	issuedAt  time.Time
	expiresAt time.Time
}

// tokenPair is what the token endpoint issues. refresh is empty if the refresh
// token is not rotated.
type tokenPair struct {
	grant    string
	company  string
	access   string
	refresh  string
	lifetime time.Duration // of access
	issuedAt time.Time
	scopes   []string
}

// errRejected is wrapped by the reasons for which a code or a refresh token is
// rejected.
var errRejected = errors.New("rejected")

// grantStore holds the authorization server's grants, tokens and codes. It is
// safe for concurrent use, and each method is atomic.
type grantStore struct {
	mu        sync.Mutex // guards all below
	grants    []*grant
	refreshes map[string]*refreshToken // hash → token, including invalid ones
	accesses  map[string]*accessToken  // hash → token, including invalid ones
	codes     map[string]*code
}

func newGrantStore() *grantStore {
	return &grantStore{
		refreshes: map[string]*refreshToken{},
		accesses:  map[string]*accessToken{},
		codes:     map[string]*code{},
	}
}

// grantSpec describes a grant to issue. Zero lifetimes mean those of the settings.
type grantSpec struct {
	clientID        string
	company         string // id
	scopes          []string
	accessLifetime  Duration
	refreshLifetime Duration
}

// issue creates a grant with its first tokens.
func (s *grantStore) issue(spec grantSpec, o OAuthSettings, now time.Time) tokenPair {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &grant{
		id: fmt.Sprintf("g%d", len(s.grants)+1), clientID: spec.clientID, company: spec.company,
		scopes: spec.scopes, createdAt: now,
		accessLifetime:  spec.accessLifetime.or(o.AccessTokenLifetime.or(15 * time.Minute)),
		refreshLifetime: spec.refreshLifetime.or(o.RefreshTokenLifetime.or(60 * 24 * time.Hour)),
	}
	s.grants = append(s.grants, g)
	pair := s.issueAccess(g, now)
	pair.refresh = s.issueRefresh(g, now)
	return pair
}

func (s *grantStore) issueAccess(g *grant, now time.Time) tokenPair {
	value := "sim-access." + random(96) + "." + random(32)
	t := &accessToken{hash: hashOf(value), grant: g, issuedAt: now, expiresAt: now.Add(g.accessLifetime)}
	s.accesses[t.hash] = t
	g.access = append(g.access, t)
	return tokenPair{
		grant: g.id, company: g.company, access: value,
		lifetime: g.accessLifetime, issuedAt: now, scopes: g.scopes,
	}
}

func (s *grantStore) issueRefresh(g *grant, now time.Time) string {
	value := "sim-refresh." + random(48)
	t := &refreshToken{
		hash: hashOf(value), grant: g, state: tokenActive,
		issuedAt: now, expiresAt: now.Add(g.refreshLifetime),
	}
	s.refreshes[t.hash] = t
	g.refresh = t
	return value
}

// random returns n random bytes in base64url, whose alphabet includes characters
// that careless clients mangle.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never returns an error
	return base64.RawURLEncoding.EncodeToString(b)
}

// refresh exchanges a refresh token for a new pair. An error wraps [errRejected].
func (s *grantStore) refresh(clientID, token string, o OAuthSettings, now time.Time) (tokenPair, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.refreshes[hashOf(token)]
	if t == nil {
		return tokenPair{}, fmt.Errorf("%w: the refresh token is unknown", errRejected)
	}
	if t.grant.clientID != clientID {
		return tokenPair{}, fmt.Errorf("%w: the refresh token belongs to another client", errRejected)
	}
	if err := t.use(o, now); err != nil {
		return tokenPair{}, err
	}
	g := t.grant
	if o.OldAccessToken != "survives" {
		g.killAccess()
	}
	pair := s.issueAccess(g, now)
	if !slices.Contains(o.Omit, "refresh_token") {
		g.refresh.state, g.refresh.usedAt = tokenUsed, now
		pair.refresh = s.issueRefresh(g, now)
	}
	return pair, nil
}

// use checks whether the token can be exchanged. If it has expired, or was used
// before, it does to the grant what the settings say.
func (t *refreshToken) use(o OAuthSettings, now time.Time) error {
	switch t.stateAt(now) {
	case tokenActive:
		return nil
	case tokenExpired:
		t.grant.revoke("an expired refresh token was sent")
		return fmt.Errorf("%w: the refresh token has expired", errRejected)
	case tokenUsed:
		if !t.graceUsed && now.Before(t.usedAt.Add(time.Duration(o.Grace))) && t.grant.reason == "" {
			t.graceUsed = true
			return nil
		}
		if o.Reuse != "reject" {
			t.grant.revoke("a used refresh token was sent again")
		}
		return fmt.Errorf("%w: the refresh token has been used", errRejected)
	}
	return fmt.Errorf("%w: the refresh token has been revoked", errRejected)
}

// stateAt returns the state at a time: an active token expires by itself.
func (t *refreshToken) stateAt(now time.Time) tokenState {
	if t.state == tokenActive && !now.Before(t.expiresAt) {
		return tokenExpired
	}
	return t.state
}

// valid reports whether the API accepts the token.
func (t *accessToken) valid(now time.Time) bool { return !t.killed && now.Before(t.expiresAt) }

func (g *grant) killAccess() {
	for _, t := range g.access {
		t.killed = true
	}
	g.access = nil
}

// revoke revokes the grant. The first reason is kept.
func (g *grant) revoke(reason string) {
	if g.reason == "" {
		g.reason = reason
	}
	g.killAccess()
	if g.refresh != nil {
		g.refresh.state = tokenRevoked
		g.refresh = nil
	}
}

// revoke revokes the active grants that match and returns their number.
func (s *grantStore) revoke(reason string, match func(*grant) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, g := range s.grants {
		if g.reason == "" && match(g) {
			g.revoke(reason)
			n++
		}
	}
	return n
}

// killAccess invalidates the access tokens of the grants that match and returns
// the number of tokens.
func (s *grantStore) killAccess(match func(*grant) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, g := range s.grants {
		if match(g) {
			n += len(g.access)
			g.killAccess()
		}
	}
	return n
}

// expireRefresh makes the active refresh tokens of the grants that match expire
// now, and returns their number.
func (s *grantStore) expireRefresh(now time.Time, match func(*grant) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, g := range s.grants {
		if g.refresh != nil && match(g) {
			g.refresh.expiresAt = now
			n++
		}
	}
	return n
}

// tokenInfo describes a token. The zero tokenInfo is a token that was never
// issued here.
type tokenInfo struct {
	grant     string // id
	clientID  string
	company   string // id
	scopes    []string
	kind      string // "access_token" or "refresh_token"
	hash      string
	active    bool
	issuedAt  time.Time
	expiresAt time.Time
}

// lookUp describes a token, valid or not. It changes nothing.
func (s *grantStore) lookUp(token string, now time.Time) tokenInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	hash := hashOf(token)
	if t := s.accesses[hash]; t != nil {
		return t.grant.tokenInfo("access_token", hash, t.valid(now), t.issuedAt, t.expiresAt)
	}
	if t := s.refreshes[hash]; t != nil {
		return t.grant.tokenInfo("refresh_token", hash, t.stateAt(now) == tokenActive, t.issuedAt, t.expiresAt)
	}
	return tokenInfo{}
}

func (g *grant) tokenInfo(kind, hash string, active bool, issuedAt, expiresAt time.Time) tokenInfo {
	return tokenInfo{g.id, g.clientID, g.company, g.scopes, kind, hash, active, issuedAt, expiresAt}
}

// refreshState returns the state of the refresh token with the hash.
func (s *grantStore) refreshState(hash string, now time.Time) tokenState {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.refreshes[hash]
	if t == nil {
		return tokenUnknown
	}
	return t.stateAt(now)
}

// GrantState describes a grant without its secrets.
type GrantState struct {
	ID       string `json:"grant"`
	ClientID string `json:"client_id"`
	Subject  string `json:"subject"`
	Company  string `json:"company_id"`
	Live     bool   `json:"live"`
	Reason   string `json:"reason,omitempty"` // why it is not live
	// ActiveRefreshTokens is the number of refresh tokens that would be accepted
	// now, without grace.
	ActiveRefreshTokens int       `json:"active_refresh_tokens"`
	CreatedAt           time.Time `json:"created_at"`
}

// states lists all grants. The number of active refresh tokens is counted over
// all tokens ever issued rather than read from the grant, so tests can check it.
func (s *grantStore) states(now time.Time) []GrantState {
	s.mu.Lock()
	defer s.mu.Unlock()
	active := map[*grant]int{}
	for _, t := range s.refreshes {
		if t.stateAt(now) == tokenActive {
			active[t.grant]++
		}
	}
	all := make([]GrantState, 0, len(s.grants))
	for _, g := range s.grants {
		all = append(all, GrantState{
			ID: g.id, ClientID: g.clientID, Subject: subjectURN(g.company), Company: g.company,
			Live: g.reason == "", Reason: g.reason, ActiveRefreshTokens: active[g], CreatedAt: g.createdAt,
		})
	}
	return all
}
