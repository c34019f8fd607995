package simulator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Config is what [New] makes a simulator of. The zero Config works.
type Config struct {
	Settings Settings
	// Now tells the time; nil: time.Now. Delays use timers of package time in
	// any case.
	Now func() time.Time
	// Logger gets one line per request, without secrets; nil: none.
	Logger *zap.Logger
}

// Simulator is a Pleo: an authorization server, an API and a control endpoint
// that share one state, all of it in memory. All methods and handlers may be
// called at once.
type Simulator struct {
	now    func() time.Time
	logger *zap.Logger

	settings atomic.Pointer[Settings] // what it points to is never changed
	requests atomic.Int64             // numbers the request-Ids

	directory *directory
	grants    *grantStore
	records   *records
	counts    *counts
	events    *eventLog
	faults    *faults
}

// New returns a simulator. It reports everything wrong with the settings at
// once.
func New(c Config) (*Simulator, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if err := c.Settings.validate(); err != nil {
		return nil, fmt.Errorf("checking the settings: %w", err)
	}
	w, err := newDirectory(c.Settings)
	if err != nil {
		return nil, fmt.Errorf("making the world: %w", err)
	}
	s := &Simulator{
		now: c.Now, logger: c.Logger, directory: w,
		grants: newGrantStore(), records: newRecords(), counts: newCounts(),
		events: newEventLog(), faults: &faults{},
	}
	s.settings.Store(&c.Settings)
	return s, nil
}

// Close lets everything that hangs on a fault go on. The simulator can still be
// used.
func (s *Simulator) Close() { s.ClearFaults() }

// Settings returns the settings in force. Companies, clients and keys are those
// of the start.
func (s *Simulator) Settings() Settings { return *s.settings.Load() }

// Configure changes how the simulator behaves from the next request on.
// Companies, clients and keys in the new settings have no effect.
func (s *Simulator) Configure(n Settings) error {
	if err := n.validate(); err != nil {
		return fmt.Errorf("checking the settings: %w", err)
	}
	old := s.settings.Load()
	n.Companies, n.Clients, n.Keys = old.Companies, old.Clients, old.Keys
	s.settings.Store(&n)
	return nil
}

// Handler serves everything on one port: /_control/ is [Simulator.Control],
// /oauth/ is [Simulator.AuthorizationServer], all else is [Simulator.API].
func (s *Simulator) Handler() http.Handler {
	control, auth, api := s.Control(), s.AuthorizationServer(), s.API()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/_control/"):
			control.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, "/oauth/"):
			auth.ServeHTTP(w, r)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// AuthorizationServer serves /oauth/authorize, /oauth/token and
// /oauth/token/introspect. Like Pleo's it has no discovery document and no
// revocation endpoint.
func (s *Simulator) AuthorizationServer() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /oauth/authorize", s.handler(s.authorize))
	mux.HandleFunc("POST /oauth/authorize", s.handler(s.decide))
	mux.HandleFunc("POST /oauth/token", s.handler(s.token))
	mux.HandleFunc("POST /oauth/token/introspect", s.handler(s.introspectToken))
	mux.HandleFunc("/", s.handler(func(*http.Request, string) response {
		return exception(http.StatusNotFound, "NOT_FOUND", "the authorization server has no such endpoint")
	}))
	return mux
}

// handler makes a handler of a function from a request and its request-Id to
// a reply.
func (s *Simulator) handler(answer func(*http.Request, string) response) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := s.nextRequestID()
		re := answer(r, id)
		s.logger.Info("request", zap.String("request_id", id), zap.String("method", r.Method),
			zap.String("path", r.URL.Path), zap.String("outcome", re.outcome()))
		w.Header()["request-Id"] = []string{id} // Pleo writes it so
		re.write(w)
	}
}

func (s *Simulator) nextRequestID() string {
	return deriveUUID("request", s.requests.Add(1), s.now().UnixNano())
}

// SetFault makes something go wrong and returns the fault with its id.
func (s *Simulator) SetFault(f Fault) (Fault, error) { return s.faults.set(f) }

// Faults lists the faults that are set, those included that have acted as often
// as they were to.
func (s *Simulator) Faults() []Fault { return s.faults.list() }

// ClearFaults removes all faults and lets what hangs on them go on.
func (s *Simulator) ClearFaults() { _ = s.faults.clear("") } // fails for a named fault only

// ClearFault removes a fault and lets what hangs on it go on. The error wraps
// [ErrNotFound] if there is no such fault.
func (s *Simulator) ClearFault(id string) error { return s.faults.clear(id) }

// Subscribe returns a channel of what happens at the token endpoint from now
// on. The simulator never waits for its reader: with 1,024 events waiting it
// drops the next ones, which shows in Seq. stop ends the subscription.
func (s *Simulator) Subscribe() (events <-chan Event, stop func()) { return s.events.subscribe() }

// AwaitEvent returns the first event after number after (0: any yet to be
// remembered) that matches, waiting for it until the context ends.
func (s *Simulator) AwaitEvent(ctx context.Context, after int64, match func(Event) bool) (Event, error) {
	found, _ := s.events.await(ctx, after, match)
	if len(found) == 0 {
		return Event{}, fmt.Errorf("waiting for an event: %w", ctx.Err())
	}
	return found[0], nil
}

// Counters returns what the simulator has seen.
func (s *Simulator) Counters() Counters {
	c := s.counts.snapshot(s.directory.isKey)
	now := s.now()
	for hash, t := range c.RefreshTokens {
		t.State = string(s.grants.refreshState(hash, now))
		c.RefreshTokens[hash] = t
	}
	return c
}

// ResetCounters sets all counters to zero.
func (s *Simulator) ResetCounters() { s.counts.reset() }

// Grants lists all grants, revoked ones too, in the order of their creation.
func (s *Simulator) Grants() []GrantState { return s.grants.states(s.now()) }

// AddCompany adds a company. Id, name and organisation are made up where they
// are empty.
func (s *Simulator) AddCompany(c Company) (Company, error) { return s.directory.addCompany(c) }

// DefaultClient returns the client with the lowest id: the only one, mostly.
func (s *Simulator) DefaultClient() Client {
	c, _ := s.directory.clientOrFirst("") // there always is one
	return c
}

// Companies lists all companies in the order of their creation.
func (s *Simulator) Companies() []Company { return s.directory.allCompanies() }

// Keys lists all keys, revoked ones too, in the order of their creation.
func (s *Simulator) Keys() []Key { return s.directory.allKeys() }

// SetClient adds a client or replaces the one with its id. The grants of that
// client stay as they are.
func (s *Simulator) SetClient(c Client) error { return s.directory.setClient(c) }

// IssueKey adds an API key; its id and value are made up where they are empty.
func (s *Simulator) IssueKey(k Key) (Key, error) { return s.directory.addKey(k) }

// RevokeKey ends a key. The error wraps [ErrNotFound] if there is no such key.
func (s *Simulator) RevokeKey(id string) error { return s.directory.revokeKey(id) }

// GrantRequest asks for a grant without a browser.
type GrantRequest struct {
	Company      string   `json:"company,omitempty"`      // id or name; empty, as Organisation: a new company
	Organisation string   `json:"organisation,omitempty"` // id; the grant is for all its companies
	ClientID     string   `json:"client_id,omitempty"`    // empty: the first client by id
	Scopes       []string `json:"scopes,omitempty"`       // none: all of the client's

	AccessTokenLifetime  Duration `json:"access_token_lifetime,omitempty"`  // 0: as the settings say
	RefreshTokenLifetime Duration `json:"refresh_token_lifetime,omitempty"` // 0: as the settings say
}

// Grant is a new grant with its first tokens.
type Grant struct {
	ID           string    `json:"grant"`
	ClientID     string    `json:"client_id"`
	Company      string    `json:"company_id,omitempty"` // empty: for an organisation
	CompanyName  string    `json:"company_name,omitempty"`
	Subject      string    `json:"subject"` // urn:pleo:company:UUID or urn:pleo:organisation:UUID
	AccessToken  string    `json:"access_token"`
	RefreshToken string    `json:"refresh_token"`
	ExpiresAt    time.Time `json:"expires_at"` // of the access token
	Scope        string    `json:"scope"`
}

// IssueGrant gives a client a grant as consent would. The error wraps
// [ErrNotFound] if company or client do not exist.
func (s *Simulator) IssueGrant(req GrantRequest) (Grant, error) {
	spec, company, err := s.grantSpecOf(req)
	if err != nil {
		return Grant{}, fmt.Errorf("issuing a grant: %w", err)
	}
	p := s.grants.issue(spec, s.settings.Load().OAuth, s.now())
	s.installed(spec)
	return Grant{
		ID: p.grant, ClientID: spec.clientID, Company: company.ID, CompanyName: company.Name,
		Subject: p.subject.urn(), AccessToken: p.access, RefreshToken: p.refresh,
		ExpiresAt: p.issuedAt.Add(p.lifetime), Scope: strings.Join(p.scopes, " "),
	}, nil
}

func (s *Simulator) grantSpecOf(req GrantRequest) (grantSpec, Company, error) {
	client, err := s.directory.clientOrFirst(req.ClientID)
	if err != nil {
		return grantSpec{}, Company{}, err
	}
	spec := grantSpec{
		clientID: client.ID, scopes: req.Scopes, subject: subject{organisation: req.Organisation},
		accessLifetime: req.AccessTokenLifetime, refreshLifetime: req.RefreshTokenLifetime,
	}
	if len(spec.scopes) == 0 {
		spec.scopes = client.Scopes
	}
	if req.Organisation != "" {
		return spec, Company{}, nil
	}
	company, err := s.companyOrNew(req.Company)
	spec.subject = subject{company: company.ID}
	return spec, company, err
}

func (s *Simulator) companyOrNew(idOrName string) (Company, error) {
	if idOrName == "" {
		return s.directory.addCompany(Company{})
	}
	return s.directory.company(idOrName)
}

// RevokeGrant ends a grant as the customer can: all its tokens die. The error
// wraps [ErrNotFound] if there is no such live grant.
func (s *Simulator) RevokeGrant(id string) error {
	n := s.grants.revokeWhere("revoked by the customer", func(g *grant) bool { return g.id == id })
	if n == 0 {
		return fmt.Errorf("live grant %q: %w", id, ErrNotFound)
	}
	return nil
}

// RevokeGrants ends the live grants of one company, or all for an empty id. It
// returns how many they were.
func (s *Simulator) RevokeGrants(companyID string) int {
	return s.grants.revokeWhere("revoked by the customer", selecting("", companyID))
}

// KillAccessTokens ends access tokens before their time and leaves the refresh
// tokens good: those of one grant, of one company, or, where both are empty,
// all. It returns how many died.
func (s *Simulator) KillAccessTokens(grantID, companyID string) int {
	return s.grants.killAccessWhere(selecting(grantID, companyID))
}

// ExpireRefreshTokens lets refresh tokens end now, selected as by
// [Simulator.KillAccessTokens]. It returns how many did.
func (s *Simulator) ExpireRefreshTokens(grantID, companyID string) int {
	return s.grants.expireRefreshWhere(s.now(), selecting(grantID, companyID))
}

func selecting(grantID, companyID string) func(*grant) bool {
	return func(g *grant) bool {
		return (grantID == "" || g.id == grantID) && (companyID == "" || g.subject.company == companyID)
	}
}

// status maps the errors of the methods above to a status for HTTP.
func status(err error) int {
	if errors.Is(err, ErrNotFound) {
		return http.StatusNotFound
	}
	return http.StatusBadRequest
}
