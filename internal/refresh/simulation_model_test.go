package refresh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

type logger = *zap.Logger

// simServer is the authorization server of a simulation. It also knows which process
// has which token.
type simServer struct {
	s      *sim
	grants []*simGrant
	tokens map[string]*simToken // by refresh token
	serial int
}

// simGrant is one refresh-token family.
type simGrant struct {
	conn    credstore.Connection
	newest  *simToken
	revoked bool
	excused bool // its newest token was lost by a fault that nothing survives
}

type simToken struct {
	grant      *simGrant
	refresh    string
	access     string
	number     int // in its grant
	exchanged  bool
	inTransit  bool        // its response is on the way to a running process
	holder     *simProcess // that has received it; nil if none has, or it crashed
	notSaved   bool        // the store has failed to save it
	notSpooled bool        // the spool has
	expires    time.Time
}

func newSimServer(s *sim) *simServer { return &simServer{s: s, tokens: map[string]*simToken{}} }

const simLife = 5 * time.Minute

func (v *simServer) connect(name string) credstore.Connection {
	g := &simGrant{}
	t := v.issue(g)
	conn, err := (&memoryStore{memory: v.s.data}).Create(context.Background(), credstore.NewConnection{
		Name: name, Kind: credstore.OAuth,
		Credential: &credstore.NewCredential{
			AccessToken: credstore.NewSecret(t.access), RefreshToken: credstore.NewSecret(t.refresh), ExpiresAt: t.expires,
		},
	})
	if err != nil {
		v.s.t.Fatal(err)
	}
	g.conn = conn
	v.grants = append(v.grants, g)
	return conn
}

func (v *simServer) issue(g *simGrant) *simToken {
	v.serial++
	t := &simToken{grant: g, refresh: fmt.Sprintf("r%d", v.serial), access: fmt.Sprintf("a%d", v.serial), expires: time.Now().Add(simLife)}
	if g.newest != nil {
		t.number = g.newest.number + 1
	}
	g.newest, v.tokens[t.refresh] = t, t
	return t
}

func (v *simServer) token(refresh credstore.Secret) *simToken {
	v.s.data.mu.Lock()
	defer v.s.data.mu.Unlock()
	return v.tokens[refresh.Reveal()]
}

// simLink is a process's connection to the server. A call is three steps: on the way
// there, at the server, and on the way back.
type simLink struct{ p *simProcess }

func (l *simLink) Refresh(ctx context.Context, token credstore.Secret) (pleo.Tokens, error) {
	s := l.p.s
	old := s.server.token(token)
	id := old.grant.conn.ID
	sent := time.Now()
	fate, err := l.p.step(ctx, "send", id)
	if err != nil && ctx.Err() == nil {
		return pleo.Tokens{}, &pleo.NotSentError{Err: err}
	}
	if err != nil || fate == simLose {
		return pleo.Tokens{}, &pleo.UnknownOutcomeError{Err: errSimulated} // lost on the way to the server
	}
	next, err := s.server.arrive(l.p, old)
	if err != nil {
		return pleo.Tokens{}, err
	}
	fate, err = l.p.step(ctx, "response", id)
	if lost := err != nil || fate == simLose; s.server.arrived(next, l.p, lost) {
		return pleo.Tokens{}, &pleo.UnknownOutcomeError{Err: errSimulated}
	}
	return pleo.Tokens{
		AccessToken: credstore.NewSecret(next.access), RefreshToken: credstore.NewSecret(next.refresh), Lifetime: simLife, SentAt: sent,
	}, nil
}

// arrive is the moment at which the server decides. An exchanged token revokes its
// grant; sending it is a mistake if any process may have its successor.
func (v *simServer) arrive(p *simProcess, t *simToken) (*simToken, error) {
	v.s.data.mu.Lock()
	defer v.s.data.mu.Unlock()
	g := t.grant
	if t.exchanged && !g.excused {
		v.s.t.Errorf("%s sends %s, which was exchanged, while %s may exist", p.name, t.refresh, g.newest.refresh)
	}
	if t.exchanged || g.revoked {
		g.revoked = true
		return nil, errRejected
	}
	t.exchanged = true
	next := v.issue(g)
	next.inTransit = true
	return next, nil
}

// arrived ends the way of a response, and reports whether it was lost.
func (v *simServer) arrived(t *simToken, p *simProcess, lost bool) bool {
	v.s.data.mu.Lock()
	defer v.s.data.mu.Unlock()
	t.inTransit = false
	if !lost {
		t.holder = p
	} else if t.grant.newest == t {
		t.grant.excused = true
	}
	return lost
}

func (l *simLink) Active(ctx context.Context, token credstore.Secret, _ string) (bool, error) {
	t := l.p.s.server.token(token)
	fate, err := l.p.step(ctx, "introspect", t.grant.conn.ID)
	if err != nil || fate != simOK {
		return false, errors.New("no response")
	}
	l.p.s.data.mu.Lock()
	defer l.p.s.data.mu.Unlock()
	return !t.exchanged && !t.grant.revoked, nil
}

// accepts reports whether the API accepts the Authorization value.
func (v *simServer) accepts(value string) bool {
	v.s.data.mu.Lock()
	defer v.s.data.mu.Unlock()
	for _, g := range v.grants {
		if "Bearer "+g.newest.access == value {
			return !g.revoked && time.Now().Before(g.newest.expires)
		}
	}
	return false
}

// forget records what is lost with a crashed process: responses on the way to it,
// and pairs that neither the store nor the spool has.
func (v *simServer) forget(p *simProcess) {
	v.s.data.mu.Lock()
	defer v.s.data.mu.Unlock()
	for _, g := range v.grants {
		t := g.newest
		if t.holder == p {
			t.holder = nil
		}
		if !v.held(t) && !t.inTransit {
			g.excused = true
		}
	}
}

func (v *simServer) saveFailed(n credstore.Successor) {
	v.s.data.mu.Lock()
	defer v.s.data.mu.Unlock()
	v.tokens[n.RefreshToken.Reveal()].notSaved = true
}

func (v *simServer) spoolFailed(n credstore.Successor) {
	v.s.data.mu.Lock()
	defer v.s.data.mu.Unlock()
	v.tokens[n.RefreshToken.Reveal()].notSpooled = true
}

// held reports whether any process has the token, or will receive it.
func (v *simServer) held(t *simToken) bool { return t.inTransit || t.holder != nil || v.durable(t) }

// durable reports whether the store or a spool has the token.
func (v *simServer) durable(t *simToken) bool {
	if v.s.data.rows[t.grant.conn.ID].Credential.RefreshToken.Reveal() == t.refresh {
		return true
	}
	for _, d := range v.s.spools {
		for r := range maps.Values(d.records) {
			if r.successor != nil && r.successor.RefreshToken.Reveal() == t.refresh {
				return true
			}
		}
	}
	return false
}

// check checks the invariants that every step must preserve.
// That no token is sent while its successor may exist is checked in arrive, and what
// requests use in checkSent.
func (s *sim) check() {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	for _, g := range s.server.grants {
		r := s.data.rows[g.conn.ID]
		stored := s.server.tokens[r.Credential.RefreshToken.Reveal()]
		if int64(stored.number)+1 != r.Credential.Version {
			s.t.Errorf("%s: version %d holds the grant's pair number %d: an older pair over a newer one", g.conn.Name, r.Credential.Version, stored.number)
		}
		if !g.excused && !s.server.held(g.newest) {
			s.t.Errorf("%s: no process has %s any more: the only copy was dropped", g.conn.Name, g.newest.refresh)
			g.excused = true // reported once
		}
		// A successor in the spool of a process that has been down for longer than
		// ownerTimeout is not waited for; its return revives the connection (checkEnd).
		rejected := r.Connection.Status == credstore.ReauthorizationRequired && r.Connection.Reason != credstore.ReasonRefreshTokenInactive
		if rejected && !g.excused && !g.revoked {
			s.t.Errorf("%s: rejected (%s) although its grant is valid", g.conn.Name, r.Connection.Reason)
			g.excused = true
		}
		if g.revoked && !g.excused {
			s.t.Errorf("%s: its grant was revoked because of us", g.conn.Name)
			g.excused = true
		}
	}
}

// checkSent checks what a request is sent with: it has not expired, and it is durable
// unless both the store and the spool failed.
func (s *sim) checkSent(p *simProcess, a *Authorization) {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	access := strings.TrimPrefix(a.Value.Reveal(), "Bearer ")
	for t := range maps.Values(s.server.tokens) {
		if t.access != access {
			continue
		}
		if !time.Now().Before(t.expires) {
			s.t.Errorf("%s sends %s, which has expired", p.name, access)
		}
		if t == t.grant.newest && !s.server.durable(t) && !(t.notSaved && t.notSpooled) {
			s.t.Errorf("%s uses %s before it is durable", p.name, access)
		}
	}
}

// checkEnd checks the result when all faults are over: a grant that no fault has ended
// is stored and works.
func (s *sim) checkEnd(g *simGrant) {
	r := s.data.rows[g.conn.ID]
	if g.excused {
		return
	}
	if got := r.Credential.RefreshToken.Reveal(); got != g.newest.refresh {
		s.t.Errorf("%s: the store ends with %s, want %s", g.conn.Name, got, g.newest.refresh)
	}
	if st := r.Connection.Status; st != credstore.Active && st != credstore.Degraded {
		s.t.Errorf("%s: ends %s (%s), want it to work", g.conn.Name, st, r.Connection.Reason)
	}
}
