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

// Config configures a [Simulator]. The zero Config is valid.
type Config struct {
	Settings Settings
	// Now returns the current time; nil means time.Now. Delays and latency use
	// the timers of package time in any case.
	Now func() time.Time
	// Logger receives one line per request, without secrets; nil disables it.
	Logger *zap.Logger
}

// Simulator is an authorization server, an API and a control endpoint that
// share one state in memory. Its methods and handlers are safe for concurrent
// use.
type Simulator struct {
	now      func() time.Time
	logger   *zap.Logger
	settings Settings
	requests atomic.Int64 // numbers the request-Ids

	directory     *directory
	grants        *grantStore
	installations *installations
	counts        *counts
	events        *eventLog
	faults        *faults
}

// New returns a simulator. The error lists every invalid setting.
func New(c Config) (*Simulator, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if err := c.Settings.validate(); err != nil {
		return nil, fmt.Errorf("validating the settings: %w", err)
	}
	d, err := newDirectory(c.Settings)
	if err != nil {
		return nil, fmt.Errorf("creating companies, clients and keys: %w", err)
	}
	return &Simulator{
		now: c.Now, logger: c.Logger, settings: c.Settings, directory: d,
		grants: newGrantStore(), installations: newInstallations(), counts: newCounts(),
		events: newEventLog(), faults: &faults{},
	}, nil
}

// Close resumes all requests that a fault delays. The simulator remains usable.
func (s *Simulator) Close() { s.ClearFaults() }

// Handler serves everything on one port: /_control/ is [Simulator.Control],
// /oauth/ is [Simulator.AuthorizationServer], and everything else is the API.
func (s *Simulator) Handler() http.Handler {
	control, auth, api := s.Control(), s.AuthorizationServer(), (&apiServer{s}).handler()
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
// /oauth/token/introspect. Like Pleo's, it has no discovery document and no
// revocation endpoint.
func (s *Simulator) AuthorizationServer() http.Handler { return (&authServer{s}).handler() }

// Control serves the control endpoint that the package documentation describes,
// below /_control/. It rejects requests from other machines and from web pages.
func (s *Simulator) Control() http.Handler { return controlHandler(s) }

// respond returns a handler that writes what f returns for a request and its
// request-Id.
func (s *Simulator) respond(f func(*http.Request, string) response) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := deriveUUID("request", s.requests.Add(1), s.now().UnixNano())
		res := f(r, id)
		s.logger.Info("request", zap.String("request_id", id), zap.String("method", r.Method),
			zap.String("path", r.URL.Path), zap.String("outcome", res.outcome()))
		w.Header()["request-Id"] = []string{id} // Pleo's spelling
		res.write(w)
	}
}

// SetFault adds a fault and returns it with its id.
func (s *Simulator) SetFault(f Fault) (Fault, error) { return s.faults.set(f) }

// ClearFaults removes all faults and resumes the requests that they delay.
func (s *Simulator) ClearFaults() { _ = s.faults.clear("") } // only a fault that is named can be missing

// ClearFault removes a fault and resumes the requests that it delays. The error
// wraps [ErrNotFound] if there is no such fault.
func (s *Simulator) ClearFault(id string) error { return s.faults.clear(id) }

// Subscribe returns a channel of the events at the token endpoint from now on.
// The simulator does not wait for the receiver: once 1,024 events are buffered it
// drops further ones, which shows as a gap in Event.Seq. stop ends the
// subscription.
func (s *Simulator) Subscribe() (events <-chan Event, stop func()) { return s.events.subscribe() }

// AwaitEvent returns the first event with a number above after that matches, and
// waits for it until the context ends. Only the last 10,000 events are kept.
func (s *Simulator) AwaitEvent(ctx context.Context, after int64, match func(Event) bool) (Event, error) {
	return s.events.await(ctx, after, match)
}

// Counters returns what the simulator has counted so far.
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

// Grants lists all grants, including revoked ones, in the order of their
// creation.
func (s *Simulator) Grants() []GrantState { return s.grants.states(s.now()) }

// AddCompany adds a company. Fields that are empty are generated.
func (s *Simulator) AddCompany(c Company) (Company, error) { return s.directory.addCompany(c) }

// DefaultClient returns the client with the lowest id.
func (s *Simulator) DefaultClient() Client {
	c, _ := s.directory.clientOrDefault("") // New has added at least one
	return c
}

// Companies lists all companies in the order of their creation.
func (s *Simulator) Companies() []Company { return s.directory.allCompanies() }

// Keys lists all keys, including revoked ones, in the order of their creation.
func (s *Simulator) Keys() []Key { return s.directory.allKeys() }

// SetClient adds a client, or replaces the one with the same id. Existing grants
// are not affected.
func (s *Simulator) SetClient(c Client) error { return s.directory.setClient(c) }

// IssueKey adds an API key. Its id and value are generated if they are empty.
func (s *Simulator) IssueKey(k Key) (Key, error) { return s.directory.addKey(k) }

// RevokeKey revokes a key. The error wraps [ErrNotFound] if there is no such key.
func (s *Simulator) RevokeKey(id string) error { return s.directory.revokeKey(id) }

// GrantRequest requests a grant without a browser.
type GrantRequest struct {
	Company  string   `json:"company,omitempty"`   // id or name; empty: a new company
	ClientID string   `json:"client_id,omitempty"` // empty: the client with the lowest id
	Scopes   []string `json:"scopes,omitempty"`    // none: all scopes of the client

	AccessTokenLifetime  Duration `json:"access_token_lifetime,omitempty"`  // 0: as in the settings
	RefreshTokenLifetime Duration `json:"refresh_token_lifetime,omitempty"` // 0: as in the settings
}

// Grant is a new grant with its first tokens.
type Grant struct {
	ID           string    `json:"grant"`
	ClientID     string    `json:"client_id"`
	Company      string    `json:"company_id"`
	CompanyName  string    `json:"company_name"`
	Subject      string    `json:"subject"` // urn:pleo:company:UUID
	AccessToken  string    `json:"access_token"`
	RefreshToken string    `json:"refresh_token"`
	ExpiresAt    time.Time `json:"expires_at"` // of the access token
	Scope        string    `json:"scope"`
}

// IssueGrant issues a grant as consent would. The error wraps [ErrNotFound] if
// the company or the client does not exist.
func (s *Simulator) IssueGrant(req GrantRequest) (Grant, error) {
	client, clientErr := s.directory.clientOrDefault(req.ClientID)
	company, companyErr := s.directory.companyOrNew(req.Company)
	if err := errors.Join(clientErr, companyErr); err != nil {
		return Grant{}, fmt.Errorf("issuing a grant: %w", err)
	}
	spec := grantSpec{
		clientID: client.ID, company: company.ID, scopes: req.Scopes,
		accessLifetime: req.AccessTokenLifetime, refreshLifetime: req.RefreshTokenLifetime,
	}
	if len(spec.scopes) == 0 {
		spec.scopes = client.Scopes
	}
	p := s.grants.issue(spec, s.settings.OAuth, s.now())
	s.installations.add(client.ID, company.ID, s.now())
	return Grant{
		ID: p.grant, ClientID: client.ID, Company: company.ID, CompanyName: company.Name,
		Subject: subjectURN(company.ID), AccessToken: p.access, RefreshToken: p.refresh,
		ExpiresAt: p.issuedAt.Add(p.lifetime), Scope: strings.Join(p.scopes, " "),
	}, nil
}

// RevokeGrant revokes a grant with all its tokens, as the customer can. The error
// wraps [ErrNotFound] if there is no such grant or it is already revoked.
func (s *Simulator) RevokeGrant(id string) error {
	if s.grants.revoke("revoked by the customer", selectGrants(id, "")) == 0 {
		return fmt.Errorf("active grant %q: %w", id, ErrNotFound)
	}
	return nil
}

// RevokeGrants revokes the grants of a company, or all grants if the id is empty,
// and returns their number.
func (s *Simulator) RevokeGrants(companyID string) int {
	return s.grants.revoke("revoked by the customer", selectGrants("", companyID))
}

// KillAccessTokens invalidates access tokens before they expire, and leaves the
// refresh tokens valid. It applies to one grant, to one company, or to all where
// both are empty, and returns the number of tokens.
func (s *Simulator) KillAccessTokens(grantID, companyID string) int {
	return s.grants.killAccess(selectGrants(grantID, companyID))
}

// ExpireRefreshTokens makes refresh tokens expire now. It selects them as
// [Simulator.KillAccessTokens] does and returns their number.
func (s *Simulator) ExpireRefreshTokens(grantID, companyID string) int {
	return s.grants.expireRefresh(s.now(), selectGrants(grantID, companyID))
}

// selectGrants matches the grants with the id and the company; empty matches any.
func selectGrants(grantID, companyID string) func(*grant) bool {
	return func(g *grant) bool {
		return (grantID == "" || g.id == grantID) && (companyID == "" || g.company == companyID)
	}
}
