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

// tokenState is what has become of a refresh token.
type tokenState string

const (
	tokenActive  tokenState = "active"
	tokenSpent   tokenState = "spent"
	tokenExpired tokenState = "expired"
	tokenRevoked tokenState = "revoked"
	tokenUnknown tokenState = "unknown" // never issued here
)

// grant is one refresh-token family: what one consent gave to one client.
//
//	live: refresh holds the one active refresh token (nil if none was issued)
//	revoked: reason says why; every token is dead
type grant struct {
	id        string
	clientID  string
	subject   subject
	scopes    []string
	createdAt time.Time
	reason    string // why it was revoked; empty while it is live

	accessLifetime  time.Duration
	refreshLifetime time.Duration

	refresh *refreshToken
	access  []*accessToken // live ones, unless they have expired
}

type refreshToken struct {
	hash      string
	grant     *grant
	state     tokenState
	issuedAt  time.Time
	expiresAt time.Time
	spentAt   time.Time
	graceUsed bool // the grace was used
}

type accessToken struct {
	hash      string
	grant     *grant
	dead      bool
	issuedAt  time.Time
	expiresAt time.Time
}

// tokenPair is a fresh answer of the token endpoint. refresh is empty where
// none was issued.
type tokenPair struct {
	grant    string
	subject  subject
	access   string
	refresh  string
	lifetime time.Duration // of access
	issuedAt time.Time
	scopes   []string
}

// errRejected is wrapped by the reasons for which a code or a refresh token is
// not accepted.
var errRejected = errors.New("refused")

// grants is the grants and tokens that the authorization server knows. All
// methods may be called at once; each is atomic.
type grantStore struct {
	mu        sync.Mutex // guards all below
	grants    []*grant
	grantByID map[string]*grant
	refreshes map[string]*refreshToken // hash → token, dead ones too
	accesses  map[string]*accessToken  // hash → token, dead ones too
	codes     map[string]*code
}

func newGrantStore() *grantStore {
	return &grantStore{
		grantByID: map[string]*grant{},
		refreshes: map[string]*refreshToken{},
		accesses:  map[string]*accessToken{},
		codes:     map[string]*code{},
	}
}

// grantSpec is what a grant is made of. Zero lifetimes mean the settings'.
type grantSpec struct {
	clientID        string
	subject         subject
	scopes          []string
	accessLifetime  Duration
	refreshLifetime Duration
}

// issue makes a grant and its first tokens.
func (l *grantStore) issue(spec grantSpec, o OAuthSettings, now time.Time) tokenPair {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.Reconsent == "revoke" {
		l.revokeLocked("replaced by a new consent", func(g *grant) bool {
			return g.clientID == spec.clientID && g.subject == spec.subject
		})
	}
	g := &grant{
		id: fmt.Sprintf("g%d", len(l.grants)+1), clientID: spec.clientID, subject: spec.subject,
		scopes: spec.scopes, createdAt: now,
		accessLifetime:  spec.accessLifetime.or(o.AccessTokenLifetime.or(15 * time.Minute)),
		refreshLifetime: spec.refreshLifetime.or(o.RefreshTokenLifetime.or(60 * 24 * time.Hour)),
	}
	l.grants = append(l.grants, g)
	l.grantByID[g.id] = g
	pair := l.issueAccess(g, now)
	if !slices.Contains(o.Omit, "initial_refresh_token") {
		pair.refresh = l.issueRefresh(g, now)
	}
	return pair
}

func (l *grantStore) issueAccess(g *grant, now time.Time) tokenPair {
	value := "sim-access." + random(96) + "." + random(32)
	t := &accessToken{hash: hashOf(value), grant: g, issuedAt: now, expiresAt: now.Add(g.accessLifetime)}
	l.accesses[t.hash] = t
	g.access = append(g.access, t)
	return tokenPair{
		grant: g.id, subject: g.subject, access: value,
		lifetime: g.accessLifetime, issuedAt: now, scopes: g.scopes,
	}
}

func (l *grantStore) issueRefresh(g *grant, now time.Time) string {
	value := "sim-refresh." + random(48)
	t := &refreshToken{
		hash: hashOf(value), grant: g, state: tokenActive,
		issuedAt: now, expiresAt: now.Add(g.refreshLifetime),
	}
	l.refreshes[t.hash] = t
	g.refresh = t
	return value
}

// random returns n random bytes in base64url, which has characters that careless
// clients mangle.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, says its documentation
	return base64.RawURLEncoding.EncodeToString(b)
}

// rotate spends a refresh token for a new pair. The error says why not.
func (l *grantStore) rotate(clientID, token string, o OAuthSettings, now time.Time) (tokenPair, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, err := l.redeemable(clientID, token, o, now)
	if err != nil {
		return tokenPair{}, err
	}
	g := t.grant
	if o.OldAccessToken != "survives" {
		g.killAccess()
	}
	if slices.Contains(o.Omit, "refresh_token") {
		return l.issueAccess(g, now), nil
	}
	l.spend(g.refresh, now)
	pair := l.issueAccess(g, now)
	pair.refresh = l.issueRefresh(g, now)
	return pair, nil
}

func (l *grantStore) spend(t *refreshToken, now time.Time) {
	if t != nil {
		t.state, t.spentAt = tokenSpent, now
	}
}

// redeemable finds the token if it may be spent. If not, it does to the grant
// what the settings say.
func (l *grantStore) redeemable(clientID, token string, o OAuthSettings, now time.Time) (*refreshToken, error) {
	t, ok := l.refreshes[hashOf(token)]
	if !ok {
		return nil, fmt.Errorf("%w: the refresh token is unknown", errRejected)
	}
	if t.grant.clientID != clientID {
		return nil, fmt.Errorf("%w: the refresh token belongs to another client", errRejected)
	}
	if t.grant.reason != "" {
		return nil, fmt.Errorf("%w: the grant has been revoked", errRejected)
	}
	switch t.stateAt(now) {
	case tokenActive:
		return t, nil
	case tokenExpired:
		t.state = tokenExpired
		l.applyMisusePolicy(t.grant, o.ExpiredUse, "an expired refresh token was presented")
		return nil, fmt.Errorf("%w: the refresh token has expired", errRejected)
	case tokenSpent:
		if t.inGrace(o, now) {
			t.graceUsed = true
			return t, nil
		}
		l.applyMisusePolicy(t.grant, o.Reuse, "a spent refresh token was presented")
		return nil, fmt.Errorf("%w: the refresh token has been used", errRejected)
	}
	return nil, fmt.Errorf("%w: the refresh token has been revoked", errRejected)
}

// stateAt returns the state; an active token becomes expired by itself.
func (t *refreshToken) stateAt(now time.Time) tokenState {
	if t.state == tokenActive && !now.Before(t.expiresAt) {
		return tokenExpired
	}
	return t.state
}

func (t *refreshToken) inGrace(o OAuthSettings, now time.Time) bool {
	return !t.graceUsed && now.Before(t.spentAt.Add(time.Duration(o.Grace)))
}

func (l *grantStore) applyMisusePolicy(g *grant, policy, reason string) {
	if policy != "refuse" {
		g.revoke(reason)
	}
}

func (g *grant) killAccess() {
	for _, t := range g.access {
		t.dead = true
	}
	g.access = nil
}

// revoke ends the grant. The first reason stays.
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

// revokeWhere ends the live grants that match, and returns how many they were.
func (l *grantStore) revokeWhere(reason string, match func(*grant) bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revokeLocked(reason, match)
}

func (l *grantStore) revokeLocked(reason string, match func(*grant) bool) int {
	n := 0
	for _, g := range l.grants {
		if g.reason == "" && match(g) {
			g.revoke(reason)
			n++
		}
	}
	return n
}

// killAccessWhere ends the live access tokens of the grants that match, and
// leaves their refresh tokens. It returns how many they were.
func (l *grantStore) killAccessWhere(match func(*grant) bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, g := range l.grants {
		if match(g) {
			n += len(g.access)
			g.killAccess()
		}
	}
	return n
}

// expireRefreshWhere lets the active refresh tokens of the grants that match end now.
func (l *grantStore) expireRefreshWhere(now time.Time, match func(*grant) bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, g := range l.grants {
		if g.refresh != nil && match(g) {
			g.refresh.expiresAt = now
			n++
		}
	}
	return n
}

// owner is whom a token belongs to.
type owner struct {
	grant    string
	clientID string
	subject  subject
	scopes   []string
}

func (g *grant) owner() owner {
	return owner{grant: g.id, clientID: g.clientID, subject: g.subject, scopes: g.scopes}
}

// accessOwner finds whom an access token belongs to; ok is false if the token
// is not good any more. A token that was never issued here has no grant.
func (l *grantStore) accessOwner(token string, now time.Time) (h owner, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.accesses[hashOf(token)]
	if t == nil {
		return owner{}, false
	}
	return t.grant.owner(), t.live(now)
}

func (t *accessToken) live(now time.Time) bool { return !t.dead && now.Before(t.expiresAt) }

// refreshOwner finds whom a refresh token belongs to, dead or alive. A token
// that was never issued here has no grant.
func (l *grantStore) refreshOwner(token string) owner {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.refreshes[hashOf(token)]
	if t == nil {
		return owner{}
	}
	return t.grant.owner()
}

// anyOwner finds whom a token, access or refresh, dead or alive, belongs to.
func (l *grantStore) anyOwner(token string) (h owner, isAccess bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.accesses[hashOf(token)]; t != nil {
		return t.grant.owner(), true
	}
	if t := l.refreshes[hashOf(token)]; t != nil {
		return t.grant.owner(), false
	}
	return owner{}, false
}

// refreshState says what has become of the refresh token with the hash.
func (l *grantStore) refreshState(hash string, now time.Time) tokenState {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.refreshes[hash]
	if t == nil {
		return tokenUnknown
	}
	return t.stateAt(now)
}

// tokenInfo is what introspection tells about a live token.
type tokenInfo struct {
	owner
	kind      string // "access_token" or "refresh_token"
	hash      string
	issuedAt  time.Time
	expiresAt time.Time
}

// tokenInfo finds a token, access or refresh, that belongs to the client and is
// good. It changes nothing.
func (l *grantStore) tokenInfo(clientID, token string, now time.Time) (tokenInfo, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	hash := hashOf(token)
	if t := l.accesses[hash]; t != nil {
		f := tokenInfo{t.grant.owner(), "access_token", hash, t.issuedAt, t.expiresAt}
		return f, t.live(now) && f.clientID == clientID
	}
	if t := l.refreshes[hash]; t != nil {
		f := tokenInfo{t.grant.owner(), "refresh_token", hash, t.issuedAt, t.expiresAt}
		return f, t.stateAt(now) == tokenActive && f.clientID == clientID
	}
	return tokenInfo{}, false
}

// GrantState is what an observer may know about a grant.
type GrantState struct {
	ID       string `json:"grant"`
	ClientID string `json:"client_id"`
	Subject  string `json:"subject"`
	Company  string `json:"company_id,omitempty"`
	Live     bool   `json:"live"`
	Reason   string `json:"reason,omitempty"` // why it is not live
	// ActiveRefreshTokens counts the refresh tokens that would be accepted now,
	// without grace.
	ActiveRefreshTokens int       `json:"active_refresh_tokens"`
	CreatedAt           time.Time `json:"created_at"`
}

// states lists all grants. Active refresh tokens are counted over all tokens
// ever issued, not read off the grant, so that the count is a check.
func (l *grantStore) states(now time.Time) []GrantState {
	l.mu.Lock()
	defer l.mu.Unlock()
	active := map[*grant]int{}
	for _, t := range l.refreshes {
		if t.stateAt(now) == tokenActive {
			active[t.grant]++
		}
	}
	all := make([]GrantState, 0, len(l.grants))
	for _, g := range l.grants {
		all = append(all, GrantState{
			ID: g.id, ClientID: g.clientID, Subject: g.subject.urn(), Company: g.subject.company,
			Live: g.reason == "", Reason: g.reason, ActiveRefreshTokens: active[g], CreatedAt: g.createdAt,
		})
	}
	return all
}
