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
	tolerated bool // the grace was used
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

// errRefused is wrapped by the reasons for which a code or a refresh token is
// not accepted.
var errRefused = errors.New("refused")

// ledger is the grants and tokens that the authorization server knows. All
// methods may be called at once; each is atomic.
type ledger struct {
	mu        sync.Mutex // guards all below
	grants    []*grant
	grantByID map[string]*grant
	refreshes map[string]*refreshToken // hash → token, dead ones too
	accesses  map[string]*accessToken  // hash → token, dead ones too
	codes     map[string]*code
}

func newLedger() *ledger {
	return &ledger{
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
func (l *ledger) issue(spec grantSpec, o OAuthSettings, now time.Time) tokenPair {
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

func (l *ledger) issueAccess(g *grant, now time.Time) tokenPair {
	value := "sim-access." + random(96) + "." + random(32)
	t := &accessToken{hash: hashOf(value), grant: g, issuedAt: now, expiresAt: now.Add(g.accessLifetime)}
	l.accesses[t.hash] = t
	g.access = append(g.access, t)
	return tokenPair{
		grant: g.id, subject: g.subject, access: value,
		lifetime: g.accessLifetime, issuedAt: now, scopes: g.scopes,
	}
}

func (l *ledger) issueRefresh(g *grant, now time.Time) string {
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
func (l *ledger) rotate(clientID, token string, o OAuthSettings, now time.Time) (tokenPair, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, err := l.spendable(clientID, token, o, now)
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

func (l *ledger) spend(t *refreshToken, now time.Time) {
	if t != nil {
		t.state, t.spentAt = tokenSpent, now
	}
}

// spendable finds the token if it may be spent. If not, it does to the grant
// what the settings say.
func (l *ledger) spendable(clientID, token string, o OAuthSettings, now time.Time) (*refreshToken, error) {
	t, ok := l.refreshes[hashOf(token)]
	if !ok {
		return nil, fmt.Errorf("%w: the refresh token is unknown", errRefused)
	}
	if t.grant.clientID != clientID {
		return nil, fmt.Errorf("%w: the refresh token belongs to another client", errRefused)
	}
	if t.grant.reason != "" {
		return nil, fmt.Errorf("%w: the grant has been revoked", errRefused)
	}
	switch t.stateAt(now) {
	case tokenActive:
		return t, nil
	case tokenExpired:
		t.state = tokenExpired
		l.punish(t.grant, o.ExpiredUse, "an expired refresh token was presented")
		return nil, fmt.Errorf("%w: the refresh token has expired", errRefused)
	case tokenSpent:
		if t.inGrace(o, now) {
			t.tolerated = true
			return t, nil
		}
		l.punish(t.grant, o.Reuse, "a spent refresh token was presented")
		return nil, fmt.Errorf("%w: the refresh token has been used", errRefused)
	}
	return nil, fmt.Errorf("%w: the refresh token has been revoked", errRefused)
}

// stateAt returns the state; an active token becomes expired by itself.
func (t *refreshToken) stateAt(now time.Time) tokenState {
	if t.state == tokenActive && !now.Before(t.expiresAt) {
		return tokenExpired
	}
	return t.state
}

func (t *refreshToken) inGrace(o OAuthSettings, now time.Time) bool {
	return !t.tolerated && now.Before(t.spentAt.Add(time.Duration(o.Grace)))
}

func (l *ledger) punish(g *grant, policy, reason string) {
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
func (l *ledger) revokeWhere(reason string, match func(*grant) bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revokeLocked(reason, match)
}

func (l *ledger) revokeLocked(reason string, match func(*grant) bool) int {
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
func (l *ledger) killAccessWhere(match func(*grant) bool) int {
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
func (l *ledger) expireRefreshWhere(now time.Time, match func(*grant) bool) int {
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

// holder is whom a token belongs to.
type holder struct {
	grant    string
	clientID string
	subject  subject
	scopes   []string
}

func (g *grant) holder() holder {
	return holder{grant: g.id, clientID: g.clientID, subject: g.subject, scopes: g.scopes}
}

// accessHolder finds whom an access token belongs to; ok is false if the token
// is not good any more. A token that was never issued here has no grant.
func (l *ledger) accessHolder(token string, now time.Time) (h holder, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.accesses[hashOf(token)]
	if t == nil {
		return holder{}, false
	}
	return t.grant.holder(), t.live(now)
}

func (t *accessToken) live(now time.Time) bool { return !t.dead && now.Before(t.expiresAt) }

// refreshHolder finds whom a refresh token belongs to, dead or alive. A token
// that was never issued here has no grant.
func (l *ledger) refreshHolder(token string) holder {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.refreshes[hashOf(token)]
	if t == nil {
		return holder{}
	}
	return t.grant.holder()
}

// anyHolder finds whom a token, access or refresh, dead or alive, belongs to.
func (l *ledger) anyHolder(token string) (h holder, isAccess bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.accesses[hashOf(token)]; t != nil {
		return t.grant.holder(), true
	}
	if t := l.refreshes[hashOf(token)]; t != nil {
		return t.grant.holder(), false
	}
	return holder{}, false
}

// refreshState says what has become of the refresh token with the hash.
func (l *ledger) refreshState(hash string, now time.Time) tokenState {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.refreshes[hash]
	if t == nil {
		return tokenUnknown
	}
	return t.stateAt(now)
}

// tokenFacts is what introspection tells about a live token.
type tokenFacts struct {
	holder
	kind      string // "access_token" or "refresh_token"
	hash      string
	issuedAt  time.Time
	expiresAt time.Time
}

// facts finds a token, access or refresh, that belongs to the client and is
// good. It changes nothing.
func (l *ledger) facts(clientID, token string, now time.Time) (tokenFacts, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	hash := hashOf(token)
	if t := l.accesses[hash]; t != nil {
		f := tokenFacts{t.grant.holder(), "access_token", hash, t.issuedAt, t.expiresAt}
		return f, t.live(now) && f.clientID == clientID
	}
	if t := l.refreshes[hash]; t != nil {
		f := tokenFacts{t.grant.holder(), "refresh_token", hash, t.issuedAt, t.expiresAt}
		return f, t.stateAt(now) == tokenActive && f.clientID == clientID
	}
	return tokenFacts{}, false
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
func (l *ledger) states(now time.Time) []GrantState {
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
