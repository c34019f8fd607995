package refresh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/rollback"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

// server is an authorization server as strict as Pleo's: a refresh ends the old
// refresh token at once, and sending it again revokes the whole grant.
type server struct {
	life  time.Duration // of access tokens; 0: responses have no expiry
	delay time.Duration // between a token's arrival and the response; see slow

	noIntrospection bool

	// before is called when a token has arrived and nothing is exchanged; an
	// error is the response. after is called when the new pair exists; an error
	// means that the response is lost. See onArrival and onCommit.
	before, after atomic.Pointer[func() error]

	mu             sync.Mutex // guards everything below
	serial         int
	live           map[string]int // refresh token → grant
	revoked        map[int]bool   // grant → ended
	owner          map[string]int // refresh token, exchanged ones included → grant
	sent           map[string]int // refresh token → times
	inFlight       map[int]int    // grant → requests in flight
	maxConcurrent  int            // most requests of one grant in flight at once
	arrivals       []time.Time
	introspections int
	subjects       map[string]string // access token → subject that introspection returns
}

func newServer() *server {
	return &server{
		life: 15 * time.Minute, live: map[string]int{}, revoked: map[int]bool{},
		owner: map[string]int{}, sent: map[string]int{}, inFlight: map[int]int{}, subjects: map[string]string{},
	}
}

// grant begins a new grant and returns its first tokens.
func (s *server) grant() pleo.Tokens {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	return s.issue(s.serial)
}

func (s *server) issue(grant int) pleo.Tokens {
	s.serial++
	refresh := fmt.Sprintf("refresh-%d", s.serial)
	s.live[refresh], s.owner[refresh] = grant, grant
	return pleo.Tokens{
		AccessToken:  credstore.NewSecret(fmt.Sprintf("access-%d", s.serial)),
		RefreshToken: credstore.NewSecret(refresh),
		Lifetime:     s.life, SentAt: time.Now(),
	}
}

var errRejected = &pleo.ResponseError{Class: pleo.TokenRejected, Status: 400, Code: "invalid_grant"}

func (s *server) Refresh(_ context.Context, token credstore.Secret) (pleo.Tokens, error) {
	sent := time.Now()
	delay, grant := s.arrive(token.Reveal())
	time.Sleep(delay)
	defer s.depart(grant)
	if err := call(&s.before); err != nil {
		return pleo.Tokens{}, err
	}
	tokens, err := s.rotate(token.Reveal())
	if err != nil {
		return tokens, err
	}
	if err := call(&s.after); err != nil {
		return pleo.Tokens{}, err
	}
	tokens.SentAt = sent
	return tokens, nil
}

// onArrival sets what happens before the token is exchanged; nil: nothing.
func (s *server) onArrival(f func() error) { s.before.Store(&f) }

// onCommit sets what happens when the new pair exists; nil: nothing.
func (s *server) onCommit(f func() error) { s.after.Store(&f) }

func call(hook *atomic.Pointer[func() error]) error {
	if f := hook.Load(); f != nil && *f != nil {
		return (*f)()
	}
	return nil
}

// slow sets the delay of later responses.
func (s *server) slow(delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = delay
}

func (s *server) arrive(token string) (delay time.Duration, grant int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals = append(s.arrivals, time.Now())
	s.sent[token]++
	grant = s.owner[token]
	s.inFlight[grant]++
	s.maxConcurrent = max(s.maxConcurrent, s.inFlight[grant])
	return s.delay, grant
}

func (s *server) depart(grant int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight[grant]--
}

func (s *server) rotate(token string) (pleo.Tokens, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	grant, ok := s.live[token]
	if !ok || s.revoked[grant] {
		s.revoked[s.owner[token]] = true
		return pleo.Tokens{}, errRejected
	}
	delete(s.live, token)
	return s.issue(grant), nil
}

func (s *server) Active(_ context.Context, token credstore.Secret, _ string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noIntrospection {
		return false, pleo.ErrIntrospectionUnsupported
	}
	s.introspections++
	grant, ok := s.live[token.Reveal()]
	return ok && !s.revoked[grant], nil
}

// setSubject sets the subject that introspection returns for the access token.
func (s *server) setSubject(accessToken credstore.Secret, subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subjects[accessToken.Reveal()] = subject
}

func (s *server) Subject(_ context.Context, accessToken credstore.Secret) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.subjects[accessToken.Reveal()], nil
}

// revokeAll revokes every grant, as their users could.
func (s *server) revokeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, grant := range s.owner {
		s.revoked[grant] = true
	}
}

// revoke revokes every n-th grant.
func (s *server) revoke(every int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, grant := range slices.Sorted(maps.Values(s.owner)) {
		if i%every == 0 {
			s.revoked[grant] = true
		}
	}
}

// sentMoreThan lists the refresh tokens sent more often than allowed.
func (s *server) sentMoreThan(allowed int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tokens []string
	for token, n := range s.sent {
		if n > allowed {
			tokens = append(tokens, fmt.Sprintf("%s: %d", token, n))
		}
	}
	return tokens
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.arrivals)
}

// since returns when tokens were sent, counted from began.
func (s *server) since(began time.Time) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var at []time.Duration
	for _, a := range s.arrivals {
		at = append(at, a.Sub(began).Round(time.Second))
	}
	return at
}

// mostConcurrent is the most requests of one grant that were in flight at once.
func (s *server) mostConcurrent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.maxConcurrent
}

// env is what processes share: a store and an authorization server.
type env struct {
	t      *testing.T
	data   *memory
	server *server
	cipher spool.Cipher
	// polling makes processes check the spool as often as they should, and keep a
	// high-water mark. It costs real time in weeks of virtual time.
	polling bool
	shared  bool // the store is shared
	api     API  // of processes that start from now on; nil: none
	// configure changes the configuration of processes that start from now on; nil:
	// not at all.
	configure func(*Config)
	serial    int
}

func newEnv(t *testing.T) *env {
	t.Helper()
	keyset, _, err := keyset.OpenOrCreate(filepath.Join(t.TempDir(), "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	return &env{t: t, data: newMemory(), server: newServer(), cipher: keyset}
}

// connect adds a connection of kind oauth with a fresh grant.
func (w *env) connect(name string) credstore.Connection {
	w.t.Helper()
	tokens := w.server.grant()
	first := &credstore.NewCredential{AccessToken: tokens.AccessToken, RefreshToken: tokens.RefreshToken}
	if tokens.Lifetime > 0 {
		first.ExpiresAt = time.Now().Add(tokens.Lifetime)
	}
	conn, err := (&memoryStore{memory: w.data}).Create(w.t.Context(), credstore.NewConnection{
		Name: name, Kind: credstore.OAuth, Credential: first,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return conn
}

const (
	testBeforeExpiry = 2 * time.Minute
	testWait         = 20 * time.Second
)

// process is one running proxy, without its listeners.
type process struct {
	*Manager
	w      *env
	store  *memoryStore
	dir    string // of the spool
	cancel context.CancelFunc
	done   chan struct{}
	link   *link
}

// start runs a process with a spool of its own in dir, or in a new directory.
func (w *env) start(dir string) *process {
	w.t.Helper()
	if dir == "" {
		dir = w.t.TempDir()
	}
	records, err := spool.Open(dir, w.cipher)
	if err != nil {
		w.t.Fatal(err)
	}
	w.serial++
	p := &process{w: w, store: &memoryStore{memory: w.data}, dir: dir, done: make(chan struct{}), link: &link{server: w.server, cut: make(chan struct{})}}
	mark := rollback.MarkIn(dir)
	if !w.polling {
		records.ReplayInterval, mark = 24*time.Hour, nil
	}
	c := Config{BeforeExpiry: testBeforeExpiry, Wait: testWait, Store: StoreOf(p.store.parts()), Server: p.link, API: w.api, Spool: records, HighWaterMark: mark, Shared: w.shared, Owner: fmt.Sprintf("process-%d", w.serial)}
	if w.configure != nil {
		w.configure(&c)
	}
	p.Manager, err = New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	p.cancel = cancel
	go func() {
		defer close(p.done)
		_ = p.Run(ctx) // ends with the context
	}()
	synctest.Wait() // it watches the store from here on
	return p
}

// stop ends the process as SIGTERM does.
func (p *process) stop() {
	p.drain()
	_ = p.store.Close()
}

// drain does what stop does, except closing the store.
func (p *process) drain() {
	p.cancel()
	_ = p.Drain(context.Background())
	<-p.done
}

// link is a process's connection to the server; a killed process receives no
// responses.
type link struct {
	*server
	cut chan struct{}
}

var errCut = &pleo.UnknownOutcomeError{Err: errors.New("the process was killed")}

func (l *link) Refresh(ctx context.Context, token credstore.Secret) (pleo.Tokens, error) {
	type result struct {
		tokens pleo.Tokens
		err    error
	}
	done := make(chan result, 1)
	go func() {
		tokens, err := l.server.Refresh(ctx, token)
		done <- result{tokens, err}
	}()
	select {
	case r := <-done:
		return r.tokens, r.err
	case <-l.cut:
		return pleo.Tokens{}, errCut
	}
}

// kill ends the process as SIGKILL does: at once, without another call of the store or
// the spool, with its leases freed by the kernel. It returns a directory with the
// content of the spool at that moment.
func (p *process) kill() string {
	p.w.t.Helper()
	left := p.w.t.TempDir()
	if err := os.CopyFS(left, os.DirFS(p.dir)); err != nil {
		p.w.t.Fatal(err)
	}
	p.store.fail(func(string) error { return errors.New("killed") })
	_ = p.store.Close()
	close(p.link.cut)
	p.cancel()
	p.life.giveUp()
	_ = p.Drain(context.Background())
	<-p.done
	return left
}

// mustAuthorize returns the access token that a request is sent with.
func (p *process) mustAuthorize(name string) *Authorization {
	p.w.t.Helper()
	a, err := p.Authorize(p.w.t.Context(), name)
	if err != nil {
		p.w.t.Fatalf("Authorize(%q) = %v, want an authorization", name, err)
	}
	return a
}

func token(a *Authorization) string { return strings.TrimPrefix(a.Value.Reveal(), "Bearer ") }

// wantCode fails the test unless err is an *Error with the code.
func wantCode(t *testing.T, err error, code Code) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got error %v, want code %q", err, code)
	}
	return e
}

// state reads what the store holds.
func (w *env) state(id string) credstore.State {
	w.t.Helper()
	s, err := (&memoryStore{memory: w.data}).Read(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}
